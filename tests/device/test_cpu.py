"""The CPU stand-in's policy: float32 where it fits, as stored where asked, and no kernel compiled by MLX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.device import choose_execution
from elm_mlx.device import memory as machine
from elm_mlx.device.execution import Execution
from elm_mlx.models.attention import Uncached
from elm_mlx.models.matrices import QuantizedLinear
from elm_mlx.store.load import read_config

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="policy of the CPU backend")


@pytest.fixture(scope="module")
def four_bit(openelm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OpenELM at 4 bits with bfloat16 scales."""
    return convert(openelm, tmp_path_factory.mktemp("cpu") / "4bit", bits=4, group_size=32).output


def test_sixteen_bit_weights_are_computed_in_float32(openelm: Path, tmp_path: Path) -> None:
    output = convert(openelm, tmp_path / "out").output
    assert elm_mlx.load(output).model.dtype == mx.float32
    assert elm_mlx.load(output, cpu_policy="plain").model.dtype == mx.bfloat16


def test_low_bits_are_expanded_while_that_fits(four_bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(elm_mlx.load(four_bit).model.embedding, QuantizedLinear)
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    tight = elm_mlx.load(four_bit, force=True)
    assert isinstance(tight.model.embedding, QuantizedLinear)
    assert tight.model.dtype == mx.float32


def test_expanded_or_not_the_numbers_are_the_same(four_bit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = checkpoints.prompt()
    expanded = elm_mlx.load(four_bit).logits(ids)
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    kept = elm_mlx.load(four_bit, force=True).logits(ids)
    assert float(mx.abs(expanded - kept).max()) <= 2e-4 * float(mx.abs(kept).max())


def test_unquantized_weights_too_large_to_widen_stay_as_they_are(
    openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = convert(openelm, tmp_path / "out").output
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000)
    assert elm_mlx.load(output, force=True).model.dtype == mx.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("how", [{}, {"bits": 4, "group_size": 32}, {"mode": "mxfp4"}], ids=str)
def test_nothing_promotes_under_the_plain_policy(
    openelm: Path, tmp_path: Path, dtype: str, how: dict[str, int]
) -> None:
    """States, logits and cache stay in the stored type from the first layer to the last."""
    lm = elm_mlx.load(convert(openelm, tmp_path / "out", dtype=dtype, **how).output, cpu_policy="plain")
    kind = getattr(mx, dtype)
    h = lm.model.embedding.rows(mx.array([[1, 2, 3]]))
    assert h.dtype == kind
    for block in lm.model.blocks:
        h = block(h, Uncached(), block.prepare(0, 3))
        assert h.dtype == kind
    assert lm.model(mx.array([[1]])).dtype == kind


def test_a_mixed_directory_is_computed_in_its_embeddings_type(tmp_path: Path) -> None:
    raw = checkpoints.CONFIGS["llama-3"]
    source = checkpoints.write(tmp_path / "s", raw, dtype=mx.bfloat16)
    arrays = dict(mx.load(str(source / "model.safetensors")).items())  # type: ignore[union-attr]
    checkpoints.save(source, {n: a.astype(mx.float32) if a.ndim == 1 else a for n, a in arrays.items()})
    lm = elm_mlx.load(source, cpu_policy="plain")
    assert lm.model(mx.array([[1]])).dtype == mx.bfloat16


def test_the_notice_names_the_stand_in(openelm: Path) -> None:
    notice = elm_mlx.load(openelm).notice
    assert notice is not None
    assert "stand-in" in notice


@pytest.mark.parametrize("policy", ["auto", "plain", "compiled"])
def test_buffers_double_here_and_grow_by_steps_on_a_gpu(openelm: Path, policy: str) -> None:
    """A few large copies are cheapest where no step copies a buffer while another one runs."""
    assert choose_execution(read_config(openelm), policy).grow_by == 0
    assert Execution().grow_by == 256


def generate_with(tmp: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """The demo, run with this folder for temporary files and this search path."""
    env = os.environ | {"TMPDIR": str(tmp)} | ({"PATH": path} if path else {})
    command = [sys.executable, "-m", "elm_mlx", "generate", "--prompt", "Once", "--max-tokens", "8"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def broken_compiler(folder: Path) -> str:
    """A search path that begins with a g++ that is there and builds nothing."""
    folder.mkdir()
    (folder / "g++").write_text("#!/bin/sh\ncase $1 in --version) echo g++ 12;; *) exit 1;; esac\n", encoding="utf-8")
    (folder / "g++").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slow
def test_a_broken_kernel_cache_or_compiler_does_not_end_a_run(tmp_path: Path) -> None:
    expected = generate_with(tmp_path / "nothing-here")
    assert expected.returncode == 0, expected.stderr
    cache = tmp_path / "tmp" / "mlx" / mx.__version__ / "cpu"
    cache.mkdir(parents=True)
    for name in ("libCompiledSigmoidMultiply.so", "libforeign.so"):
        (cache / name).write_bytes(b"\x7fELF truncated")
    path = broken_compiler(tmp_path / "bin")
    done = generate_with(tmp_path / "tmp", path)
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr
    (tmp_path / "unwritable").mkdir()
    (tmp_path / "unwritable" / "mlx").write_text("a file in its place, for root too", encoding="utf-8")
    done = generate_with(tmp_path / "unwritable", path)
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr


COMPILED = """
import sys, elm_mlx
lm = elm_mlx.load(sys.argv[1], cpu_policy="compiled")
print(bool(lm.model.step), lm.generate([1, 5], 8).tokens)
"""


def compiled_with(model: Path, tmp: Path, path: str) -> list[str]:
    """Whether the model's steps were compiled with this folder and search path, and its tokens."""
    environment = os.environ | {"TMPDIR": str(tmp), "PATH": path}
    command = [sys.executable, "-c", COMPILED, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(" ", 1)


@pytest.mark.slow
def test_a_step_that_cannot_be_compiled_is_taken_as_it_is(tmp_path: Path) -> None:
    """No compiler, one that cannot build, kernels that are damaged: each costs speed, never the run."""
    if not shutil.which("g++"):
        pytest.skip("no compiler, so nothing is compiled that could fail")
    model = checkpoints.write(tmp_path / "model", checkpoints.LLAMA | {"num_hidden_layers": 1})
    folder = tmp_path / "tmp"
    folder.mkdir()
    compiled, tokens = compiled_with(model, folder, os.environ["PATH"])
    assert compiled == "True"
    for kernel in folder.rglob("*.so"):
        kernel.write_bytes(kernel.read_bytes()[:100])
    assert compiled_with(model, folder, os.environ["PATH"]) == ["False", tokens]
    broken = broken_compiler(tmp_path / "bin")
    (tmp_path / "new").mkdir()
    assert compiled_with(model, tmp_path / "new", broken) == ["False", tokens]
    assert compiled_with(model, tmp_path / "new", "/nowhere")[1] == tokens  # MLX sees that there is none
