"""A model with adapters equals the float model that has their sums in its matrices; and rows of one batch may have
different ones."""

from __future__ import annotations

import io
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.adapters import made_sums, merged_copy

from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.models.model import Model
from elm_mlx.models.pairs import OnePair, product_of_rows
from elm_mlx.models.rack import Rack
from elm_mlx.store.load import load_directory

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
IDS = checkpoints.prompt(12)


def model_of(directory: Path, compiled: bool = False) -> Model:
    model = load_directory(directory).model
    model.set_compiled(compiled)
    return model


def near(one: mx.array, other: mx.array) -> bool:
    return bool((mx.abs(one - other).max() <= 2e-4 * mx.abs(other).max()).item())


@each_family
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("part", [("",), ("q_proj", "qkv_proj", "down_proj", "proj_2")], ids=["all", "some"])
def test_one_adapter_equals_the_merged_model(source: Path, dora: bool, part: tuple[str, ...], tmp_path: Path) -> None:
    sums = made_sums(source, dora=dora, ends=part)
    rack, ids = Rack(model := model_of(source)), mx.array([IDS])
    before = model(ids)
    rack.put(1, sums)
    assert near(rack.alone(1)(ids), model_of(merged_copy(source, tmp_path / "m", sums))(ids))
    assert mx.array_equal(model(ids), before)
    assert not near(rack.alone(1)(ids), before)


@each_family
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_row_has_its_own_adapter_in_prompts_and_steps_and_rows_may_change(
    source: Path, compiled: bool, tmp_path: Path
) -> None:
    each = {1: made_sums(source, 1), 2: made_sums(source, 2, dora=True, rank=2, ends=("proj", "proj_1", "proj_2"))}
    models = {n: model_of(merged_copy(source, tmp_path / str(n), sums)) for n, sums in each.items()}
    rack = Rack(model_of(source, compiled))
    for number, sums in each.items():
        rack.put(number, sums)
    models[0] = rack.model
    for numbers in ([1, None, 2], [2, 2, 1]):
        mixed, cache = rack.mixed(numbers), make_cache(rack.model.config.num_layers, len(IDS) + 1)
        ids = mx.array([IDS] * len(numbers))
        mixed.hidden(ids, cache)
        states = mixed.last_hidden(mx.array([[7]] * len(numbers)), cache)
        for row, number in enumerate(numbers):
            expected = models[number or 0].hidden(mx.array([[*IDS, 7]]))[0, -1]
            assert near(states[row], expected), (numbers, row)


@each_family
def test_adapters_come_and_go_and_leave_the_others_as_they_were(source: Path) -> None:
    rack, ids = Rack(model_of(source)), mx.array([IDS])
    rack.put(1, made_sums(source, 1))
    alone = rack.alone(1)(ids)
    nbytes = rack.nbytes
    rack.put(2, made_sums(source, 2, rank=9, dora=True))
    assert near(rack.alone(1)(ids), alone)
    rack.drop(2)
    assert near(rack.alone(1)(ids), alone)
    assert rack.nbytes <= nbytes + 2 * 4 * sum(shape[0] for shape in rack.model.config.weight_shapes().values())
    rack.drop(1)
    assert rack.nbytes == 0
    assert 1 not in rack


def test_the_bytes_that_are_foretold_are_those_that_are_taken(openelm: Path) -> None:
    rack = Rack(model_of(openelm))
    for number, sums in enumerate((made_sums(openelm, dora=True), made_sums(openelm, rank=9)), 1):
        foretold = rack.bytes_with(sums)
        rack.put(number, sums)
        assert rack.nbytes <= foretold <= 1.2 * rack.nbytes


def test_a_product_without_a_sum_stays_the_base_s_own(openelm: Path) -> None:
    rack = Rack(model_of(openelm))
    rack.put(1, made_sums(openelm, ends=("out_proj",)))
    block, base = rack.alone(1).blocks[0], rack.model.blocks[0]
    assert block.attn.qkv is base.attn.qkv  # type: ignore[attr-defined]
    assert isinstance(block.attn.out, OnePair)
    assert not isinstance(base.attn.out, OnePair)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_rows_take_their_own_matrices_in_every_type(dtype: mx.Dtype) -> None:
    x, matrices = (mx.random.normal(shape, key=mx.random.key(1)).astype(dtype) for shape in ((3, 1, 8), (4, 8, 5)))
    which = mx.array([0, 3, 1], mx.uint32)
    assert mx.allclose(
        product_of_rows(x, matrices, [which, mx.arange(len(which), dtype=mx.uint32)]), x @ matrices[which], atol=1e-2
    )


def test_an_adapter_costs_two_operations_a_product_and_each_row_s_own_three(openelm: Path) -> None:
    """A step of the demo has hundreds of operations so small that their number is what it costs."""
    rack = Rack(model_of(openelm))
    rack.put(1, made_sums(openelm))
    plain, products = operations(rack.model), 4 * len(rack.model.blocks)
    assert operations(rack.alone(1)) == plain + 2 * products
    assert operations(rack.mixed([1])) == plain + 3 * products


def operations(model: Model) -> int:
    """How many operations compute the state after a token."""
    written = io.StringIO()
    mx.export_to_dot(written, model.hidden(mx.array([[5]])))
    return written.getvalue().count("label")
