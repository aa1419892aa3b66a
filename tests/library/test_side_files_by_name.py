"""A repository pulled by its name keeps every side file that its directory has, offline too."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from helpers import chat_templates as written
from helpers import checkpoints
from helpers.fake_hub import FakeHub
from helpers.machine import Machine, pulled, well

import elm_mlx
from elm_mlx.store.side_files import TEMPLATES, file_names, side_files

NAME = "someone/Llama-3.2-1B-Chat"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
EVERY = {
    "special_tokens_map.json": '{"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}',
    "added_tokens.json": '{"<|im_start|>": 512, "<|im_end|>": 513}',
    "generation_config.json": '{"eos_token_id": 7}',
    "chat_template.jinja": TURNS,
    f"{TEMPLATES}/tool_use.jinja": "{{ tools | length }}" + TURNS,
    f"{TEMPLATES}/rag.jinja": "{{ documents }}",
}
ELSEWHERE = {f"{TEMPLATES}/notes.txt": b"x", f"{TEMPLATES}/deep/x.jinja": b"x", "original/chat_template.jinja": b"x"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = checkpoints.write(
        tmp_path / "source", checkpoints.CONFIGS["llama-3.2"] | {"vocab_size": 520}, dtype=mx.bfloat16
    )
    (folder / TEMPLATES).mkdir()
    for name, text in EVERY.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("bits", [None, 4])
def test_a_repository_keeps_its_side_files(machine: Machine, hub: FakeHub, source: Path, bits: int | None) -> None:
    hub.add(NAME, {name: source / name for name in file_names(source) if name != TEMPLATES} | ELSEWHERE)
    path = pulled(machine.run("pull", NAME, *(["--bits", bits] if bits else [])))
    assert side_files(file_names(path)) == side_files(file_names(source))
    well(machine.generate(NAME, *(["--bits", bits] if bits else []), NO_SOCKETS="1", HF_HUB_OFFLINE="1"))
    here, there = elm_mlx.load(path), elm_mlx.load(source)
    assert here.stop_ids == there.stop_ids == {2, 7, 513}
    for tools in (None, TOOLS):
        ids = there.chat_prompt([written.USER], tools=tools)
        assert here.chat_prompt([written.USER], tools=tools) == ids
        assert (ids[0] == 512) is (tools is None)


def test_a_template_that_is_missing_in_the_cache_is_fetched(machine: Machine, hub: FakeHub, source: Path) -> None:
    hub.add(NAME, {name: source / name for name in file_names(source) if name != TEMPLATES})
    path = pulled(machine.run("pull", NAME))
    (path / TEMPLATES / "tool_use.jinja").resolve().unlink()
    again = pulled(machine.run("pull", NAME))
    assert (again / TEMPLATES / "tool_use.jinja").read_text(encoding="utf-8") == EVERY[f"{TEMPLATES}/tool_use.jinja"]
