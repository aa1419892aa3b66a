"""What the figures belong to: bytes that a token reads, what the machine reads, and which files they were."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.bench import bandwidth
from elm_mlx.bench.cases import Case
from elm_mlx.bench.facts import bytes_per_token, machine_facts, software_facts, weights_fingerprint
from elm_mlx.convert import convert


def test_a_token_reads_every_weight_but_an_embedding_that_is_no_head(lm: elm_mlx.LanguageModel) -> None:
    shapes = lm.config.weight_shapes()
    weights = 4 * sum(prod(s) for name, s in shapes.items() if lm.config.tied or name != lm.config.embedding_name)
    norms_of_heads = 4 * sum(lm.config.num_heads) * lm.config.head_dim  # OpenELM's q and k norms lie once a head
    read = bytes_per_token(lm, Case("tg", 8, depth=100))
    cache = 104 * 2 * 4 * sum(lm.config.num_kv_heads) * lm.config.head_dim
    assert read is not None
    assert weights + cache <= read <= weights + cache + 2 * norms_of_heads
    assert bytes_per_token(lm, Case("pp", 8)) is None


def test_quantized_weights_count_as_they_lie_in_memory(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out", bits=4, group_size=32).output
    stored = elm_mlx.info(output)
    case = Case("tg", 2)
    plain, expanded = (bytes_per_token(elm_mlx.load(output, cpu_policy=policy), case) for policy in ("plain", "auto"))
    assert plain
    assert expanded
    cache = 2 * stored.kv_bytes_per_token
    assert stored.weight_bytes <= plain - cache <= 1.1 * stored.weight_bytes
    if mx.default_device().type == mx.DeviceType.cpu:
        assert expanded > 4 * stored.parameters


def test_the_fingerprint_is_of_headers_and_sizes(tmp_path: Path) -> None:
    one, other = (checkpoints.write(tmp_path / str(seed), checkpoints.LLAMA, seed=seed) for seed in (0, 1))
    assert re.fullmatch("[0-9a-f]{64}", weights_fingerprint(one))
    assert weights_fingerprint(one) == weights_fingerprint(one) == weights_fingerprint(other)
    halves = [checkpoints.write(tmp_path / str(t), checkpoints.LLAMA, dtype=t) for t in (mx.bfloat16, mx.float16)]
    shards = checkpoints.write(tmp_path / "shards", checkpoints.LLAMA, shards=3)
    wider = checkpoints.write(tmp_path / "wider", checkpoints.LLAMA | {"intermediate_size": 160})
    assert len({weights_fingerprint(folder) for folder in (one, *halves, shards, wider)}) == 5


def test_the_machine_reads_memory_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 2**22)
    found = bandwidth.measure_bandwidth()
    assert found["bytes_per_s"] > 1e6
    assert found["buffer_bytes"] == 2**22
    assert re.fullmatch(r"MLX|NumPy in \d+ threads", found["by"])


def test_the_fastest_way_is_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 2**20)
    monkeypatch.setattr(bandwidth, "in_threads", lambda buffer, threads: 4.0 if threads == 2 else 8.0)
    monkeypatch.setattr(bandwidth, "best", lambda read: 16.0)
    assert bandwidth.measure_bandwidth() == {"bytes_per_s": 2**18, "by": "NumPy in 2 threads", "buffer_bytes": 2**20}


def test_the_facts_name_no_person_and_are_json() -> None:
    facts = json.loads(json.dumps(machine_facts() | software_facts()))
    assert {"device", "cores", "memory_bytes", "system", "blas", "mlx", "elm-mlx"} <= set(facts)
    assert Path.home().name not in json.dumps(facts) or Path.home().name == "root"


def test_a_command_buffer_budget_that_is_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "1000")
    monkeypatch.delenv("MLX_MAX_MB_PER_BUFFER", raising=False)
    assert machine_facts()["budget"] == "MLX_MAX_OPS_PER_BUFFER=1000"
    monkeypatch.delenv("MLX_MAX_OPS_PER_BUFFER")
    assert machine_facts()["budget"] == "MLX's own"
