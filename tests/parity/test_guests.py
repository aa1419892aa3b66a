"""Guests in their own published layout: transformers writes a tiny seeded checkpoint of each promised family, and our
greedy ids are those of its own model, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.checkpoints import add_tokenizer
from helpers.guests import FAMILIES, guest_config

import elm_mlx

pytestmark = pytest.mark.parity
PROMPT = [1, *((7 * i * i + 3 * i) % 500 + 3 for i in range(45))]
TOKENS = 16


def write(folder: Path, family: str) -> Any:
    """Writes a model of transformers' own class with random weights, and returns it."""
    raw = guest_config(family)
    raw["pad_token_id"] = None
    if family in ("phi3", "mixtral", "starcoder2"):
        raw["sliding_window"] = None
    pattern = raw.pop("sliding_window_pattern", None)
    if pattern:
        raw["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.03 if "embed" in name else 3.0 / weight.shape[-1] ** 0.5)
    model.eval()
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_ids_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model = write(tmp_path, family)
    with torch.no_grad():
        answer = model.generate(torch.tensor([PROMPT]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
    theirs = answer[0, len(PROMPT) :].tolist()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
    with elm_mlx.load(tmp_path) as lm:
        ours = list(lm.generate(PROMPT, TOKENS, temperature=0.0).tokens)
    assert ours == theirs[: len(ours)]
    assert len(ours) == TOKENS or theirs[len(ours)] in lm.stop_ids
    assert len(set(ours)) > 3
