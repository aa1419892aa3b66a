"""Prompts of odd tokenizers and templates, token by token: the tokens are those that transformers 5.24 gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

from elm_mlx.text.chat.template import ChatTemplate
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
SETTINGS = parse_settings({"bos_token": "<s>", "eos_token": "</s>"})
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
CONTENT = "{{ messages[0].content }}"
X = ["<0x3C>", "x", "<0x3E>"]  # what the token <x> is as text


def prompt(template: str, *added: dict[str, Any], message: Any = "a", role: str = "user", **changes: Any) -> list[str]:
    """The tokens of a chat of one message, by a tokenizer with these added tokens."""
    tokens = [*SMALL["added_tokens"], *({"id": 512 + i, **FLAGS, **token} for i, token in enumerate(added))]
    content = json.dumps(SMALL | {"added_tokens": tokens} | changes).encode()
    tokenizer = Tokenizer(content, SETTINGS, Path("tokenizer.json"))
    messages = [{"role": role, "content": message}]
    ids = ChatTemplate(template, SETTINGS.texts).encode(messages, tokenizer)
    return [tokenizer._backend.id_to_token(i) or "" for i in ids]


def test_a_token_that_ends_in_a_role_leaves_roles_and_keys_alone() -> None:
    template = "{% for m in messages %}{{ m.role ~ ('!' if m.role == 'user') }}{% endfor %}"
    assert prompt(template, {"content": "<|im_start|>user"}) == ["▁u", "s", "er", "<0x21>"]


@pytest.mark.parametrize(
    ("role", "tokens"), [("user", ["<|im_start|>user"]), ("tool", ["<|im_start|>", "▁to", "o", "l"])]
)
def test_a_token_may_be_built_around_a_role(role: str, tokens: list[str]) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' ~ m.role }}{% endfor %}"
    assert prompt(template, {"content": "<|im_start|>user"}, {"content": "<|im_start|>"}, role=role) == tokens


def test_a_list_that_is_printed_shows_its_texts() -> None:
    shown = ["▁", "<0x5B>", "<0x7B>", "<0x27>", "t", "e", "x", "t", "<0x27>", "<0x3A>", "▁", "<0x27>", *X, "<0x27>",
             "<0x7D>", "<0x5D>"]  # fmt: skip
    assert prompt(CONTENT, {"content": "<x>"}, message=[{"text": "<x>"}]) == shown


def test_json_in_ascii_escapes_what_is_written_and_no_more() -> None:
    escaped = ['▁"', "<0x5C>", "u", "<0x30>", "<0x30>", "e", "<0x39>", *X, '"', "<x>"]
    template = "{{ messages[0].content | tojson(ensure_ascii=true) }}<x>"
    assert prompt(template, {"content": "<x>"}, message="é<x>") == escaped


def test_a_template_sees_the_end_of_a_text_that_begins_a_token() -> None:
    template = "{{ messages[0].content ~ ('!' if messages[0].content.endswith('<')) }}<x>"
    assert prompt(template, {"content": "<x>"}, message="<") == ["▁", "<0x3C>", "<0x21>", "<x>"]


def test_blanks_are_trimmed_though_a_token_ends_in_one() -> None:
    template = "{{ messages[0].content | trim }}<x>\n!"
    assert prompt(template, {"content": "<x>\n"}, message="\n") == ["<x>\n", "▁", "<0x21>"]


def test_a_token_of_blanks_may_be_half_the_caller_s() -> None:
    assert prompt(": " + CONTENT, {"content": "  "}, message=" a") == ["▁", "<0x3A>", "  ", "▁a"]


def test_a_token_that_is_refused_amid_letters_hides_what_overlaps_it() -> None:
    added = {"content": "<x>\n", "single_word": True, "special": False}, {"content": "\n\n", "special": False}
    assert prompt(CONTENT + "<x>\n\n", *added) == ["▁a", *X, "<0x0A>"]


def test_no_stand_in_shows_where_a_token_lies_inside_a_refused_one() -> None:
    added = {"content": "<x>", "single_word": True}, {"content": "<", "normalized": True}
    assert prompt("<x>" + CONTENT, *added, normalizer=None) == ["<", "x", "<0x3E>", "a"]


def test_a_token_takes_the_blank_in_which_another_would_end() -> None:
    added = {"content": "<x>\n", "normalized": True}, {"content": "<y>", "lstrip": True}
    assert prompt("<x>\n<y>", *added, normalizer=None) == [*X, "<y>"]


def test_a_normalized_token_is_found_only_where_the_normalizer_prepends() -> None:
    assert prompt("a<x></s><x>", {"content": "<x>", "normalized": True}) == ["▁a", *X, "</s>", "▁<x>"]
