"""A text in which some tokens are meant and others only written: one encoding, as of a trusted text.

The ids are those of transformers 5.24's apply_chat_template on the same tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from helpers import checkpoints
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.text.chat.disguise import Disguise
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.token_set import TokenSet
from elm_mlx.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
FIRST = {"normalizer": None, "pre_tokenizer": METASPACE}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
MEANT = {"\U000f0000": "</s>"}


def make(*added: dict[str, Any], **changes: Any) -> Tokenizer:
    extra = [{"id": 512 + place, **FLAGS, **token} for place, token in enumerate(added)]
    content = SMALL | changes | {"added_tokens": [*SMALL["added_tokens"], *extra]}
    return Tokenizer(json.dumps(content).encode(), TokenizerSettings(), Path("tokenizer.json"))


def encoded(tokenizer: Tokenizer, text: str, stand_ins: dict[str, str] = MEANT) -> list[int]:
    return tokenizer.encode_chat(TokenSet(stand_ins).split(text), stand_ins)


def shown(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer._backend.id_to_token(i) or "" for i in ids]


def test_only_the_start_of_the_text_gets_the_blank_of_metaspace_first() -> None:
    tokenizer = make(**FIRST)
    assert shown(tokenizer, encoded(tokenizer, "the\U000f0000the")) == ["\u2581the", "</s>", "t", "he"]


def test_a_normalizer_that_prepends_does_so_after_every_token() -> None:
    tokenizer = make()
    assert shown(tokenizer, encoded(tokenizer, "the\U000f0000the")) == ["\u2581the", "</s>", "\u2581the"]


def test_a_token_that_is_only_written_is_text() -> None:
    tokenizer = make()
    ids = encoded(tokenizer, "the</s>\U000f0000")
    assert ids[-1] == 2
    assert 2 not in ids[:-1]
    assert tokenizer.decode(ids) == "the</s>"


@pytest.mark.parametrize(
    ("flag", "ids"),
    [
        ("lstrip", ["\u2581the", "<x>", "\u2581", "\u2581", "\u2581the"]),
        ("rstrip", ["\u2581the", "\u2581", "\u2581", "<x>", "\u2581the"]),
        ("single_word", ["\u2581the", "\u2581", "\u2581", "<x>", "\u2581", "\u2581", "\u2581the"]),
    ],
)
def test_flags_count_for_a_meant_token(flag: str, ids: list[str]) -> None:
    tokenizer = make({"id": 512, "content": "<x>", flag: True})
    assert shown(tokenizer, encoded(tokenizer, "the  \U000f0001  the", {"\U000f0001": "<x>"})) == ids


def test_a_single_word_amid_letters_is_read_as_its_text() -> None:
    tokenizer = make({"id": 512, "content": "end", "single_word": True})
    stand_ins = {"\U00030000\U00030001": "end"}
    meant = encoded(tokenizer, "the \U00030000\U00030001\U00030000\U00030001", stand_ins)
    assert meant == tokenizer.encode_text("the endend")
    assert encoded(tokenizer, "the \U00030000\U00030001 cat", stand_ins).count(512) == 1


def test_ids_stay_those_of_the_tokenizer_whatever_is_meant() -> None:
    tokenizer = make({"id": 512, "content": "<a>"}, {"id": 513, "content": "<b>"}, {"id": 514, "content": "<c>"})
    assert encoded(tokenizer, "<a>\U000f0000<c>", {"\U000f0000": "<b>"}) == [512, 513, 514]
    assert 513 not in encoded(tokenizer, "<a><b><c>", {"\U000f0000": "<b>"})


def test_a_vocabulary_that_makes_control_out_of_text_is_refused() -> None:
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3}, "unk_token": "<unk>"}
    tokenizer = make(model=words, normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"}, decoder=None)
    assert encoded(tokenizer, "the \U000f0000") == [3, 2]
    for ids in (lambda: tokenizer.encode_text("the </s>"), lambda: encoded(tokenizer, "the </s>")):
        with pytest.raises(InvalidRequest, match=r"tokenizer\.json makes the control token '</s>' even"):
            ids()
    assert tokenizer.encode_text("nobody knows") == [0, 0]


NAMES = ("<a>", "<a>qz", "qz", "<|", "<a><a>", "<a>\n", "<b c>")
RANDOM_FLAGS = st.fixed_dictionaries({flag: st.booleans() for flag in ("lstrip", "rstrip", "normalized", "special")})
PARTS = st.lists(st.sampled_from((*NAMES, " ", "\n", "the", "x", "\u00b2", "<")), max_size=8)


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["prepend", "first", "nothing"])
def test_meant_tokens_give_the_ids_of_a_trusted_text(kind: str, examples: int) -> None:
    changes = {"prepend": {}, "first": FIRST, "nothing": {"normalizer": None}}[kind]

    @settings(max_examples=examples)
    @given(st.dictionaries(st.sampled_from(NAMES), RANDOM_FLAGS, min_size=1, max_size=4), PARTS)
    def check(flags: dict[str, dict[str, bool]], parts: list[str]) -> None:
        text = "".join(parts)
        tokenizer = make(*({"content": name, **flags[name]} for name in flags), **changes)
        trusted = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str())
        trusted.encode_special_tokens = False
        try:
            ids = trusted.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # flags that contradict each other make the library panic
            assume("bad split" not in str(error))
            raise
        disguise = Disguise(tokenizer.added_tokens, list(flags))
        assert tokenizer.encode_chat(disguise.mark(text), disguise.stand_ins) == ids

    check()


def test_a_word_that_a_template_uses_as_a_mark_is_refused_in_a_text_though_it_is_not_special() -> None:
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3, "<x>": 4}, "unk_token": "<unk>"}
    changes = {"model": words, "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None}
    tokenizer = make({"id": 4, "content": "<x>"}, **changes)
    assert encoded(tokenizer, "the \U000f0000", {"\U000f0000": "<x>"}) == [3, 4]
    with pytest.raises(InvalidRequest, match="'<x>'"):
        encoded(tokenizer, "the <x>", {"\U000f0000": "<x>"})


def test_a_vocabulary_whose_words_have_the_ids_of_new_tokens_is_refused_and_does_not_hang() -> None:
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "evil": 4}, "unk_token": "<unk>"}
    tokenizer = make(model=words, normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"}, decoder=None)
    with pytest.raises(BadCheckpoint):
        encoded(tokenizer, "\U000f0000 evil")
