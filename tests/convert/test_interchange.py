"""What we write loads in mlx-lm with its tokenizer, and what mlx-lm writes loads here: whole programs, not parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.convert import convert

TEXTS = ["Once upon a time", "  two  blanks", "\ttab\n\nlines ", "é😀\0", ""]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openelm", "llama-3.1"])
def test_our_directory_is_mlx_lms_model_and_tokenizer(tmp_path: Path, name: str) -> None:
    from helpers.mlx_lm_alone import mlx_lm

    source = checkpoints.write(tmp_path / "source", checkpoints.CONFIGS[name])
    output = convert(source, tmp_path / "out", dtype="float32").output
    model, tokenizer = mlx_lm.load(str(output))
    lm = elm_mlx.load(output)
    assert [tokenizer.encode(text) for text in TEXTS] == [lm.tokenizer.encode(text) for text in TEXTS]
    assert set(tokenizer.eos_token_ids) == lm.stop_ids
    prompt = lm.tokenizer.encode("Once upon a time")
    theirs = [int(t.token) for t in mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=16)]
    ours = [piece.token for piece in lm.stream(prompt, 16)]
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openelm", "llama-3.2"])
@pytest.mark.parametrize("how", [{}, {"quantize": True, "q_bits": 4, "q_group_size": 32}], ids=["plain", "4-bit"])
def test_mlx_lms_own_conversion_runs_here(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    from helpers.mlx_lm_alone import mlx_lm

    raw = {key: value for key, value in checkpoints.CONFIGS[name].items() if key != "auto_map"}
    source = checkpoints.write(tmp_path / "source", raw)
    plain = convert(source, tmp_path / "plain", dtype="float32").output  # with the lists that mlx-lm needs
    mlx_lm.convert(str(plain), mlx_path=str(tmp_path / "theirs"), **how)
    model, _ = mlx_lm.load(str(tmp_path / "theirs"))
    ids = checkpoints.prompt()
    expected = model(mx.array([ids]))[0]
    ours = elm_mlx.load(tmp_path / "theirs", cpu_policy="plain").logits(ids)
    assert float(mx.abs(ours - expected).max()) <= 1e-4 * float(mx.abs(expected).max())
