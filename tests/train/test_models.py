"""What trains beside the demo: other families, quantized bases of any bits, chats with tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers.checkpoints import CONFIGS
from helpers.training import tiny, write_rows, write_texts

from elm_mlx.convert import convert
from elm_mlx.train import train

SHORT: dict[str, Any] = {"batch_size": 5, "steps": 4, "rank": 2, "learning_rate": 2e-3}
WIDE = CONFIGS["llama-3"] | {"hidden_size": 128, "head_dim": 32, "num_attention_heads": 4}  # groups of 32 fit
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Bonn"}}}
TALK = [{"role": "user", "content": "Is it cold?"}, {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "Yes."}, {"role": "assistant", "content": "It is."}]  # fmt: skip
TEMPLATE = """\
{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% for m in messages %}<{{ m.role }}>\
{% for call in m.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}\
{{ m.content or '' }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("dora", 6), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("dora", 3), ("lora", 3), ("lora", 6)))],
)
def test_adapters_learn_beside_few_bits(tmp_path: Path, kind: str, bits: int) -> None:
    """Also DoRA at 3 and 6 bits, which do not fill words of 32."""
    write_texts(tmp_path / "train.jsonl")
    base = convert(tiny(tmp_path / "floats", "llama-3", **WIDE), tmp_path / "base", bits=bits, group_size=32).output
    train(tmp_path, tmp_path / "out", base, kind=kind, **SHORT)
    found = losses(tmp_path / "out")
    assert found[-1] < found[0]


@pytest.mark.slow
def test_a_chat_with_tools_is_learned(tmp_path: Path) -> None:
    """The call and the answer count, what the tool said does not."""
    (tmp_path / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
    write_rows(tmp_path / "train.jsonl", [{"messages": TALK, "tools": [TOOL]}])
    base = tiny(tmp_path / "base", "llama-3.1")
    asked = SHORT | {"mask_prompt": True, "chat_template": str(tmp_path / "template.jinja")}
    train(tmp_path, tmp_path / "out", base, **asked)
    train(tmp_path, tmp_path / "last", base, last_turn_only=True, **asked)
    records = [json.loads((tmp_path / name / "losses.jsonl").read_text().splitlines()[0]) for name in ("out", "last")]
    assert records[0]["targets"] > records[1]["targets"] > 0
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    assert mx.load(str(tmp_path / "out" / "adapters.safetensors"))
