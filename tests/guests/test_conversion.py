"""Models of other families are converted through mlx-lm's classes, with our writer, journal and card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from helpers.guests import FAMILIES, their_ids, write_guest

import elm_mlx
from elm_mlx.convert import convert
from elm_mlx.convert.sources import guest
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, Unsupported

pytestmark = pytest.mark.slow
PROMPT = [1, *range(20, 50)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_converted_answers_as_mlx_lm_says(tmp_path: Path, family: str) -> None:
    source = write_guest(tmp_path / "source", family)
    done = convert(source, tmp_path / "out", bits=8, group_size=32, dtype="float32")
    assert done.family == family
    assert done.bits_per_weight < 16
    theirs = their_ids(done.output, PROMPT, 12)
    with elm_mlx.load(done.output, cpu_policy="plain") as lm:
        ours = list(lm.generate(PROMPT, 12, temperature=0.0).tokens)
    assert ours == theirs[: len(ours)]
    assert len(ours) == 12 or 2 in theirs
    assert f"- {family}" in (done.output / "README.md").read_text()
    assert json.loads((done.output / "conversion.json").read_text())["options"]["quantization"]["bits"] == 8


def test_mixtral_in_mixtrals_own_layout_becomes_stacked_and_quantized(tmp_path: Path) -> None:
    source = write_guest(tmp_path / "source", "mixtral")
    expected = their_ids(source, PROMPT, 12)
    unstack(source)
    plain = convert(source, tmp_path / "plain", dtype="float32")
    assert their_ids(plain.output, PROMPT, 12) == expected
    small = convert(source, tmp_path / "small", bits=4, group_size=32, dtype="float32")
    names = mx.load(str(small.output / "model.safetensors"))
    assert "model.layers.0.block_sparse_moe.switch_mlp.gate_proj.scales" in names
    with elm_mlx.load(small.output) as lm:
        assert len(lm.generate(PROMPT, 12, temperature=0.0).tokens) > 1


def unstack(folder: Path) -> None:
    """Gives each expert its own matrices, under the names of Mixtral's own files."""
    arrays, plain = mx.load(str(folder / "model.safetensors")), {}
    for name, array in arrays.items():
        head, found, tail = name.partition("switch_mlp.")
        if not found:
            plain[name] = array
            continue
        which = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[tail.partition(".")[0]]
        plain |= {f"{head}experts.{number}.{which}.weight": array[number] for number in range(array.shape[0])}
    mx.save_safetensors(str(folder / "model.safetensors"), plain)


def test_a_guest_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_guest(tmp_path / "source", "qwen3")
    monkeypatch.setattr(guest, "memory_limit", lambda: 100_000)
    with pytest.raises(NotEnoughMemory, match="100 kB"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_conversions_of_guests_lack_is_said_before_anything_is_written(tmp_path: Path) -> None:
    source = write_guest(tmp_path / "source", "qwen3")
    for options in ({"recipe": "mixed-3-5"}, {"bits": 4, "calibrate": True}):
        with pytest.raises(InvalidRequest, match="llama and openelm"):
            convert(source, tmp_path / "out", **options)
    with pytest.raises(Unsupported, match="Verifying is for"):
        convert(source, tmp_path / "out", verify=True, bits=4, group_size=32)
    quantized = write_guest(tmp_path / "quantized", "qwen3", bits=4)
    with pytest.raises(Unsupported, match="quantized already"):
        convert(quantized, tmp_path / "out", bits=4)
    assert not (tmp_path / "out").exists()


def test_code_beside_the_weights_is_neither_run_nor_copied(tmp_path: Path) -> None:
    source = write_guest(tmp_path / "source", "qwen3", auto_map={"AutoModelForCausalLM": "evil.Model"},
                         model_file="evil.py")  # fmt: skip
    (source / "evil.py").write_text("open('ran', 'w')")
    with elm_mlx.load(source) as lm:
        lm.generate(PROMPT, 2)
    done = convert(source, tmp_path / "out", bits=4, group_size=32)
    assert "auto_map" not in json.loads((done.output / "config.json").read_text())
    assert not [*done.output.glob("*.py")]
    assert not Path("ran").exists()
    shutil.rmtree(done.output)
