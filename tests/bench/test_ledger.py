"""The kernels of a decode step: how many a layer takes, ours and mlx-lm's by the same rules, and rule by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import ledger
import mlx.core as mx
import pytest
import tape
from kernels import Kernel, kernels

from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.kind_cache import KindCache, make_kind_cache
from elm_mlx.engine.cache.kv import KVCache

Step = Callable[[mx.array], mx.array]


class Counted(NamedTuple):
    """A program's ledger in so many bits, for so many rows."""

    program: str
    bits: int
    batch: int
    families: dict[str, ledger.Ledger]

    @property
    def what(self) -> tuple[str, int]:
        return self.program, self.batch


# What mlx-lm takes changes with its release alone.
PROGRAMS = [
    ("elm-mlx", 4, 1),
    *(pytest.param(("elm-mlx", *rest), marks=pytest.mark.slow) for rest in ((16, 1), (4, 4), (16, 4), (4, 8))),
    *(pytest.param(one, marks=pytest.mark.slow) for one in product(["mlx-lm"], [4, 16], [1, 4, 8])),
]


@pytest.fixture(scope="module", params=PROGRAMS, ids=str)
def counted(request: pytest.FixtureRequest) -> Counted:
    program, bits, batch = request.param
    return Counted(program, bits, batch, ledger.count(program, bits, depth=900, batch=batch))


def launched(step: Step, x: mx.array, recorder: tape.Recorder) -> list[Kernel]:
    """The kernels of a program whose every step is `step` of what the step before gave."""

    def decode() -> Iterator[None]:
        state = x
        while True:
            state = step(state)
            mx.async_eval(state)
            yield

    return kernels(tape.recorded(decode, recorder))


def kinds(step: Step, x: mx.array, recorder: tape.Recorder) -> list[str]:
    return [kernel.kind for kernel in launched(step, x, recorder)]


# Both programs


LAYER = {
    ("elm-mlx", 1): {"llama": 13, "openelm": 15, "bitnet": 15},
    ("elm-mlx", 4): {"llama": 14, "openelm": 16, "bitnet": 16},
    ("elm-mlx", 8): {"llama": 14, "openelm": 16, "bitnet": 16},
    ("mlx-lm", 1): {"llama": 17, "openelm": 16},
    ("mlx-lm", 4): {"llama": 19, "openelm": 20},
    ("mlx-lm", 8): {"llama": 19, "openelm": 20},
}
# Of these, the mask for several rows is 1 of ours and 5 of mlx-lm's.
OUTSIDE = {"elm-mlx": {1: 5, 4: 6, 8: 6}, "mlx-lm": {1: 6, 4: 11, 8: 11}}
EXPANDED = 3  # kernels more that a row of the embedding takes in few bits
# Copies in a layer of several rows: of ours, the queries, which lie beside others in one product's result; in mlx-lm
# the mask, and what OpenELM normalises. Ours copies the mask once a step.
COPIES = {"elm-mlx": {"llama": 1 + 1, "openelm": 1 + 1, "bitnet": 1 + 1}, "mlx-lm": {"llama": 1, "openelm": 3}}


def test_a_step_takes_as_many_kernels_as_counted(counted: Counted) -> None:
    assert {family: len(found.layer) for family, found in counted.families.items()} == LAYER[counted.what]
    outside = OUTSIDE[counted.program][counted.batch] + EXPANDED * (counted.bits < 16)
    assert {len(found.outside) for found in counted.families.values()} == {outside}


def test_nothing_is_copied_but_what_is_written_into_the_cache_and_a_few_rows(counted: Counted) -> None:
    for family, found in counted.families.items():
        kinds = Counter(kind for kind, _, _ in [*found.layer, *found.outside])
        assert not {"Offset", "Concatenate"} & set(kinds)
        assert kinds["SliceUpdate"] == 2
        assert kinds["Copy"] == (COPIES[counted.program][family] if counted.batch > 1 else 0)


def test_every_byte_of_a_layers_weights_is_read_once(counted: Counted) -> None:
    weights = 512 * (12 + 8) * 64 + 3 * 512 * 1024  # q, k, v and out in heads of 64; the three of the FFN
    nbytes = weights * {4: 4.5, 16: 16}[counted.bits] / 8
    for found in counted.families.values():
        moved = sum(nbytes for kind, _, nbytes in found.layer if kind.endswith("Matmul"))
        assert nbytes < moved < (1 + 0.02 * counted.batch) * nbytes  # the rest is activations


def test_the_check_for_logits_that_are_no_numbers_takes_one_kernel(counted: Counted) -> None:
    for found in counted.families.values():
        checks = [shape for kind, shape, _ in found.outside if kind == "Reduce"]
        assert checks == [[counted.batch, 1]] * (counted.program == "elm-mlx")


def test_the_table_shows_both_sides(counted: Counted) -> None:
    told = "\n".join(ledger.table(dict.fromkeys(ledger.PROGRAMS, counted.families), "llama"))
    assert told.count(f" {LAYER[counted.what]['llama']} | ") == 2


# One rule at a time


def test_elementwise_work_in_a_compiled_function_is_one_kernel(recorder: tape.Recorder) -> None:
    weight = mx.ones((8,))

    def half(x: mx.array, y: mx.array) -> mx.array:
        return mx.fast.rms_norm(mx.sigmoid(x) * x * y, weight, 1e-5) + x

    compiled = mx.compile(half)
    fused = launched(lambda x: compiled(x, x + 1), mx.ones((1, 8)), recorder)
    assert [kernel.kind for kernel in fused] == ["Add", "CompiledSigmoidMultiplyMultiply", "RMSNorm", "Add"]
    assert fused[1].nbytes == 3 * 32  # x and y read, one array written
    plain = kinds(lambda x: half(x, x + 1), mx.ones((1, 8)), recorder)
    assert Counter(plain) == {"Add": 2, "Sigmoid": 1, "Multiply": 2, "RMSNorm": 1}


def test_one_product_in_a_compiled_function_stays_one(recorder: tape.Recorder) -> None:
    weights = mx.ones((8, 1))
    scaled = mx.compile(lambda x: x * weights)
    assert kinds(lambda x: scaled(x), mx.ones((1, 8, 4)), recorder) == ["Multiply"]


@pytest.mark.parametrize("held", [False, True])
def test_a_cache_whose_old_buffer_someone_holds_is_copied_whole(held: bool, recorder: tape.Recorder) -> None:
    buffer, before = mx.zeros((1, 2**20)), list[mx.array]()

    def write(x: mx.array) -> mx.array:
        before[:] = [mx.stop_gradient(buffer)] * held
        buffer[..., 3:4] = x + 1
        return buffer[..., 3:4] * 2

    step = launched(write, mx.ones((1, 1)), recorder)
    assert [kernel.kind for kernel in step] == ["Add"] + ["Copy"] * held + ["SliceUpdate", "Multiply"]
    assert not held or step[1].nbytes == 2 * buffer.nbytes


def test_a_start_that_is_an_array_costs_a_kernel_more(recorder: tape.Recorder) -> None:
    start = mx.array([2])
    step = kinds(lambda x: mx.slice_update(x, mx.ones((1, 1)), start, axes=[1]) * 2, mx.ones((1, 8)), recorder)
    assert [kind for kind in step if kind != "Copy"] == ["Full", "Offset", "DynamicSliceUpdate", "Multiply"]


@pytest.mark.parametrize(("new", "copies"), [(1, 0), (2, 1)])
def test_heads_are_joined_without_a_copy_for_one_position_only(new: int, copies: int, recorder: tape.Recorder) -> None:
    def join(x: mx.array) -> mx.array:  # [1, heads, new, D] -> [1, new, heads * D] and back
        return (x * 2).swapaxes(1, 2).reshape(1, new, 32).reshape(1, 4, new, 8)

    assert kinds(join, mx.ones((1, 4, new, 8)), recorder) == ["Multiply"] + ["Copy"] * copies


@pytest.mark.parametrize(("held", "passes"), [(1023, 1), (1024, 2)])
def test_attention_over_many_positions_takes_two_passes(held: int, passes: int, recorder: tape.Recorder) -> None:
    keys = mx.zeros((1, 1, held, 64))
    step = kinds(lambda q: mx.fast.scaled_dot_product_attention(q, keys, keys, scale=1.0), keys[:, :, :1], recorder)
    assert step == ["Attention", "Attention, pass 2"][:passes]


def test_attention_without_a_kernel_for_its_heads_is_not_one(recorder: tape.Recorder) -> None:
    keys = mx.zeros((1, 1, 8, 16))
    step = kinds(lambda q: mx.fast.scaled_dot_product_attention(q, keys, keys, scale=1.0), keys[:, :, :1], recorder)
    assert step.count("Matmul") == 2
    assert "Attention" not in step


def test_a_primitive_without_a_rule_is_refused(recorder: tape.Recorder) -> None:
    with pytest.raises(ValueError, match="Sort has no rule"):
        launched(mx.sort, mx.ones((8,)), recorder)


# Rules for several rows


def attended(
    heads: mx.array, mask: mx.array | None, recorder: tape.Recorder, keys: Callable[[], mx.array] | None = None
) -> list[str]:
    """The kinds of kernels that attention takes, the first four of the heads asking, over `keys` that are the values,
    too."""
    plain = mx.zeros((heads.shape[0], 2, 8, 64))

    def step(x: mx.array) -> mx.array:
        k = keys() if keys else plain
        mixed = mx.fast.scaled_dot_product_attention(x[:, :4], k, k, scale=1.0, mask=mask)
        return mx.concatenate([mixed, x[:, 4:]], axis=1)

    return [kind for kind in kinds(step, heads, recorder) if kind != "Concatenate"]


@pytest.mark.parametrize(("rows", "copies"), [(1, 0), (2, 1)])
def test_queries_that_lie_beside_keys_are_copied_where_there_are_several_rows(
    rows: int, copies: int, recorder: tape.Recorder
) -> None:
    assert attended(mx.zeros((rows, 6, 1, 64)), None, recorder) == ["Copy"] * copies + ["Attention"]
    assert attended(mx.zeros((rows, 4, 1, 64)), None, recorder) == ["Attention"]


def test_some_rows_and_columns_of_a_larger_cache_are_read_as_they_lie(recorder: tape.Recorder) -> None:
    slab, q = mx.zeros((8, 2, 16, 64)), mx.zeros((3, 4, 1, 64))
    assert attended(q, None, recorder, lambda: slab[:3, :, 4:12]) == ["Attention"]
    joined = mx.zeros((8, 2, 2, 16, 64))  # keys and values in one array
    assert attended(q, None, recorder, lambda: joined[:3, 0, :, 4:12]) == ["Copy", "Copy", "Attention"]


@pytest.mark.parametrize(
    ("rows", "heads", "copies"), [(1, 1, 0), (1, 4, 0), (3, 1, 1), (3, 4, 0)]
)  # fmt: skip
def test_a_mask_is_copied_where_several_rows_have_one_for_all_heads(
    rows: int, heads: int, copies: int, recorder: tape.Recorder
) -> None:
    mask = mx.zeros((rows, heads, 1, 8), mx.bool_)
    assert attended(mx.zeros((rows, 4, 1, 64)), mask, recorder) == ["Copy"] * copies + ["Attention"]


def test_a_mask_that_is_added_is_first_made_of_the_queries_type(recorder: tape.Recorder) -> None:
    mask = mx.zeros((3, 4, 1, 8), mx.float16)
    assert attended(mx.zeros((3, 4, 1, 64)), mask, recorder) == ["AsType", "Attention"]


@pytest.mark.parametrize(("rows", "copies"), [(1, 0), (3, 1)])
def test_rope_over_a_part_of_the_heads_is_a_copy_more_for_several_rows(
    rows: int, copies: int, recorder: tape.Recorder
) -> None:
    places = mx.arange(rows)
    mx.eval(places)

    def turn(x: mx.array) -> mx.array:
        part = mx.fast.rope(x[:, :4], 64, traditional=False, base=1e4, scale=1.0, offset=places)
        return mx.concatenate([part, x[:, 4:]], axis=1)

    step = kinds(turn, mx.zeros((rows, 6, 1, 64)), recorder)
    assert step == ["Copy"] * copies + ["RoPE", "Concatenate", "Concatenate"]


# Kinds of caches


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("held", [100, 600])
def test_a_step_in_a_window_takes_the_kernels_of_a_plain_one(held: int, sinks: int, recorder: tape.Recorder) -> None:
    """Before the ring is full, and where its columns are read with a mask, which no kernel makes."""
    plain, ring = KVCache(10_000, 1000), make_kind_cache(CacheKind(64, sinks), 1, 10_000, 1000)[0]
    found = []
    for layer in (plain, ring):
        first = mx.zeros((1, 2, held, 64))
        layer.attend(mx.zeros((1, 4, 1, 64)), first, first)

        def step(x: mx.array, layer: KVCache | KindCache = layer) -> mx.array:
            return mx.concatenate([layer.attend(x[:, :4], x[:, 4:6], x[:, 6:]), x[:, 4:]], axis=1)

        found.append(kinds(step, mx.zeros((1, 8, 1, 64)), recorder))
    assert found[0] == found[1]
    assert sorted(set(found[0])) == ["Attention", "Concatenate", "SliceUpdate"]


def test_a_step_over_quantized_keys_and_values_takes_twelve_kernels(recorder: tape.Recorder) -> None:
    """Two to quantize, six writes, the scale, two products and softmax; nothing that is held is copied for the heads
    that share it."""
    layer = make_kind_cache(CacheKind(key_bits=8, value_bits=8), 1, 100_000, 100_000)[0]
    first = mx.zeros((1, 2, 100, 64))
    layer.attend(mx.zeros((1, 4, 1, 64)), first, first)

    def step(x: mx.array) -> mx.array:
        return mx.concatenate([layer.attend(x[:, :4], x[:, 4:6], x[:, 6:]), x[:, 4:]], axis=1)

    found = Counter(kinds(step, mx.zeros((1, 8, 1, 64)), recorder))
    assert found.pop("Concatenate") == 2
    assert found == {"Multiply": 1, "Quantize": 2, "SliceUpdate": 6, "QuantizedMatmul": 2, "Softmax": 1}
