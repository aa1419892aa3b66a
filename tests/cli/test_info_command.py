"""`elm-mlx info`: exact figures, as text and as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.command_line import Result, answer, run

from elm_mlx.api import model_info
from elm_mlx.convert import convert

MACHINE = ("footprint", "available", "fits", "predicted")


def figures(done: Result) -> dict[str, Any]:
    """What info says of a model, whatever the machine."""
    return {name: value for name, value in answer(done).items() if name not in MACHINE}


def test_info_reckons_memory_for_a_context_and_bits(openelm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answer(run("info", openelm, "--json", "--context", 100, "--bits", 4))
    weights = plain["parameters"] * 9 // 16  # 4 bits, and a scale and a bias of 16 for each 64 weights
    cache = 100 * plain["kv_bytes_per_token"]
    headroom = 64 * 2**20 + weights // 10
    assert plain["footprint"] == {"weights": weights, "cache": cache, "headroom": headroom, "context": 100}
    assert plain["fits"]
    assert answer(run("info", openelm, "--json"))["footprint"]["weights"] == plain["weight_bytes"]
    monkeypatch.setattr(model_info, "memory_limit", lambda: weights)
    assert "fits             no: this machine has 99 kB" in run("info", openelm).out


def test_info_reckons_memory_for_a_kind_of_cache(openelm: Path) -> None:
    plain = answer(run("info", openelm, "--json", "--context", 512))
    caches = {
        (): 512 * plain["kv_bytes_per_token"],
        ("--kv-bits", 8): 512 * plain["kv_bytes_by_bits"]["8"],
        ("--window", 32): (32 + 4 + 256) * plain["kv_bytes_per_token"],
        ("--window", 32, "--kv-bits", "k8v4"): (32 + 4 + 256) * plain["kv_bytes_by_bits"]["k8v4"],
    }
    for options, nbytes in caches.items():
        assert answer(run("info", openelm, "--json", "--context", 512, *options))["footprint"]["cache"] == nbytes
    assert "with --kv-bits 8: 560, k8v4: 448, 4: 336" in run("info", openelm).out
    refused = run("info", openelm, "--window", 600)
    assert "window is 600, and the model's context 512" in refused.err
    assert "--window 512" in refused.err


def test_info_shows_exact_figures(openelm: Path, tmp_path: Path) -> None:
    parameters = sum(array.size for array in checkpoints.weights(checkpoints.OPENELM).values())
    plain = figures(run("info", openelm, "--json"))
    assert plain == {
        "model": str(openelm),
        "family": "openelm",
        "parameters": parameters,
        "bits_per_weight": 32.0,
        "weight_bytes": 4 * parameters,
        "kv_bytes_per_token": 2 * (1 + 2 + 2 + 2) * 16 * 4,  # k and v, kv heads of the layers, head dim, float32
        "kv_bytes_by_bits": {"8": 560, "k8v4": 448, "4": 336},  # heads filled up to 32, a scale and a bias in float32
        "context_length": 512,
        "dtype": "float32",
        "quantization": None,
        "calibration": None,
        "sharing": None,
        "limits": None,
        "notices": [],
    }
    target = convert(openelm, tmp_path / "out", bits=4, group_size=32).output
    stored = sum(array.nbytes for array in mx.load(str(target / "model.safetensors")).values())
    assert figures(run("info", target, "--json")) == plain | {
        "model": str(target),
        "bits_per_weight": 8 * stored / parameters,
        "weight_bytes": stored,
        "kv_bytes_per_token": plain["kv_bytes_per_token"] // 2,
        "kv_bytes_by_bits": {"8": 504, "k8v4": 392, "4": 280},
        "dtype": "bfloat16",
        "quantization": {"group_size": 32, "bits": 4, "mode": "affine"},
    }
    assert stored < parameters  # under 8 bits a weight


def test_info_shows_the_same_figures_as_text(openelm: Path) -> None:
    figures = answer(run("info", openelm, "--json"))
    shown = run("info", openelm).out
    for name in ("parameters", "weight_bytes", "kv_bytes_per_token", "context_length"):
        assert f"{figures[name]:,}" in shown
    assert "built-in" not in shown
    assert run("info").out.splitlines()[0].split() == ["model", "demo"]


def test_info_predicts_a_speed_on_a_known_chip_and_says_how_wrong_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = checkpoints.OPENELM | {"head_dim": 64, "model_dim": 128}
    model = checkpoints.write(tmp_path / "model", raw)
    assert "predicted" not in run("info", model).out  # no Mac, so no line
    assert answer(run("info", model, "--json"))["predicted"] is None
    monkeypatch.setattr(model_info, "chip_here", lambda: "M4 Max")
    plain, deep, few = (
        answer(run("info", model, "--json", *more))["predicted"] for more in ([], ["--context", 500], ["--bits", 4])
    )
    assert (plain["depth"], deep["depth"], few["depth"]) == (128, 500, 128)
    assert deep["tokens_per_s"] < plain["tokens_per_s"]
    assert (plain["chip"], plain["rows_held_out"]) == ("M4 Max", 9)
    shown = run("info", model).out.splitlines()[-1]
    assert shown.startswith(f"predicted        {plain['tokens_per_s']:.0f} tokens/s on M4 Max at 128 tokens")
    assert "not measured; on 9 published rates error 6% in the median, 9% at worst" in shown
    monkeypatch.setattr(model_info, "chip_here", lambda: "M9")
    assert "predicted" not in run("info", model).out


@pytest.mark.follows("elm-mlx info * --hosts 2x256")
def test_a_named_model_that_does_not_fit_is_planned_for_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elm_mlx.library.local.memory_limit", lambda: 24 * 10**9)
    done = run("info", "llama-3.1-405b")
    assert done.code == 66
    advice = re.search("--bits 4 takes less. `elm-mlx (.*)` says whether", done.err)
    assert advice
    assert "131,072 tokens fit" in run(*advice[1].split(), "--bits", 4).out
    assert "Fetch it" not in done.err
