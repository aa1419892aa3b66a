"""Plans for machines that are not here: the arithmetic, against figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from helpers.command_line import run

from elm_mlx.distributed.part import Kind
from elm_mlx.distributed.planning import GIB, Plan, Question, in_bits, in_directory, plan, quantized, read_machines
from elm_mlx.distributed.published import CONFIGS, published
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, NotFound, Unsupported
from elm_mlx.library.names import known_models
from elm_mlx.store.load import load_arrays, read_config

LARGE, SMALL = "llama-3.1-405b", "llama-3-8b"
FAST = 819e9  # bytes a second


@cache
def planned(name: str, hosts: str, bits: int | None = 4, kind: Kind | None = None, context: int | None = None) -> Plan:
    config, _ = published(name)
    return plan(Question(name, config, read_machines(hosts), kind, context), in_bits(config, bits))


@pytest.mark.parametrize("name", CONFIGS)
def test_published_shapes_have_the_published_parameters(name: str) -> None:
    config, _ = published(name if name in known_models() else f"{name}-instruct")
    known = known_models().get(name) or known_models()[f"{name}-instruct"]
    assert config.parameter_count == known.parameters


def test_a_model_is_found_by_any_of_its_names() -> None:
    assert published("meta-llama/Llama-3.1-405B-Instruct")[0] == published(LARGE)[0]
    assert (published(LARGE)[1], published("llama-3.1-70b-instruct")[1]) == (None, 4), "as a pull would have it"
    with pytest.raises(NotFound, match="its shape is not known"):
        published("mobilellm-125m")


def test_405b_takes_what_was_worked_out_by_hand() -> None:
    """405,853,388,800 parameters in 4.5 bits are 228.3 GB; a position has 516,096 bytes."""
    (alone,) = planned(LARGE, "1x512").ranks
    assert round(alone.held.weights / 1e9, 1) == 228.3
    assert alone.held.kv == 516_096
    two = planned(LARGE, "2x256")
    assert two.kind == "tensor"
    assert two.context == 131_072
    assert [round(rank.held.weights / 1e9) for rank in two.ranks] == [114, 114]
    assert [rank.held.kv for rank in planned(LARGE, "4x128").ranks] == [129_024] * 4
    assert 105_000 < planned(LARGE, "2x192").context < 115_000


def test_the_bound_is_reading_and_collectives() -> None:
    alone, two = planned(LARGE, "1x512"), planned(LARGE, "2x256")
    assert (alone.collectives, two.collectives) == (0, 2 * 126 + 3)
    assert 1 / alone.seconds(FAST, 0) == pytest.approx(3.6, abs=0.05)
    assert 1 / two.seconds(FAST, 0) == pytest.approx(7.2, abs=0.05)
    assert 1 / two.seconds(FAST, 1e-4) == pytest.approx(6.1, abs=0.05)
    assert two.seconds(FAST, 0, depth=1000) - two.seconds(FAST, 0) == pytest.approx(258_048_000 / FAST)


def test_a_pipeline_reads_one_rank_after_the_other() -> None:
    found = planned(LARGE, "2x256", kind="pipeline")
    assert found.collectives == 3
    assert found.ranks[0].held.blocks.stop == 126, "rank 0 has the last blocks"
    assert 1 / found.seconds(FAST, 0) == pytest.approx(3.6, abs=0.05)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(NotEnoughMemory, match="rank 0 would take 18 GB") as refused:
        planned(SMALL, "1x16", None)
    assert refused.value.advice == "It would fit on 2 machines of 16 GB ({hosts=2x16}) or on these in {bits=8}."
    assert (planned(SMALL, "2x16", None).kind, planned(SMALL, "1x16", 8).context) == ("tensor", 8192)
    with pytest.raises(NotEnoughMemory, match="a cache for 8,192 tokens"):
        planned(SMALL, "1x7", context=8192)
    with pytest.raises(NotEnoughMemory, match="No number of such machines"):
        planned(LARGE, "2x4")


def test_the_smallest_machine_decides() -> None:
    with pytest.raises(NotEnoughMemory, match="rank 2 would take"):
        planned(SMALL, "2x32,1x2", None)
    assert planned(SMALL, "2x32", None).ranks[0].available == 24 * GIB


def test_odd_numbers_of_machines_hold_whole_layers_unless_told_otherwise() -> None:
    assert planned(SMALL, "3x16").kind == "pipeline"
    with pytest.raises(Unsupported, match="do not divide by 3"):
        planned(SMALL, "3x16", kind="tensor")


def test_groups_of_a_quantization_are_not_cut_through() -> None:
    config, _ = published("llama-3.2-3b")
    # 18 heads of 32 are 576 columns: 288 on each of two ranks, which are no whole groups of 64
    odd = replace(config, head_dim=32, num_heads=(18,) * 28, num_kv_heads=(2,) * 28)
    assert plan(Question("odd", odd, (16, 16)), in_bits(odd, None)).kind == "tensor"
    few = quantized(odd, 4)
    assert plan(Question("odd", few, (16, 16)), in_bits(few, 4)).kind == "pipeline"


@pytest.mark.parametrize(
    "text", ["", "2", "x128", "2x", "0x128", "2x0", "2x128,", "-1x8", "65x8", "2x9999", "2x１２８"]
)
def test_what_names_no_machines_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_machines(text)


def test_a_model_that_is_here_is_planned_as_it_is_stored(openelm: Path) -> None:
    config = read_config(openelm)
    found = plan(Question("tiny", config, (8, 8)), in_directory(openelm, config))
    assert sum(rank.held.weights for rank in found.ranks) == load_arrays(openelm, config)[1]
    assert sum(rank.held.kv for rank in found.ranks) == config.kv_bytes_per_token(32)


def test_info_prints_the_plan_and_refuses_what_means_nothing() -> None:
    done = run("info", LARGE, "--bits", "4", "--hosts", "2x256")
    assert "ranks 0 to 1     256 GB, 206 GB for a model; weights 114 GB" in done.out
    assert "M3 Ultra: at most 6.6 over jaccl, 4.65 over ring tokens/s" in done.out
    whole = json.loads(run("info", LARGE, "--bits", "4", "--hosts", "2x256", "--json").out)
    assert (whole["parallel"], whole["context"], len(whole["ranks"])) == ("tensor", 131_072, 2)
    assert run("info", "--parallel", "tensor").code == 2
    assert "--kv-bits" in run("info", LARGE, "--hosts", "2x256", "--kv-bits", "8").err
    assert "--hosts 2x16" in run("info", SMALL, "--hosts", "1x16").err
