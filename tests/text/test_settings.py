"""Added tokens as transformers reads them: which file wins, which flags count, which ids they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from tokenizers import AddedToken

from elm_mlx.errors import BadCheckpoint
from elm_mlx.text.settings import MAX_LISTED, TokenizerSettings, parse_settings
from elm_mlx.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
WHERE = Path("tokenizer.json")
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
LISTED = {"512": {"content": "<|im_start|>", **FLAGS}, "513": {"content": "<|im_end|>", **FLAGS}}


def tokenizer(settings: TokenizerSettings, bos: int | None = None) -> Tokenizer:
    """The small tokenizer with these settings."""
    return Tokenizer(json.dumps(SMALL).encode(), settings, WHERE, bos)


def special(token: AddedToken) -> tuple[str, bool]:
    return token.content, token.special


@pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "special": True}])
def test_a_token_is_named_by_text_or_by_an_object(token: object) -> None:
    assert parse_settings({"bos_token": token}).texts == {"bos_token": "<s>"}


@pytest.mark.parametrize("token", [None, "", ["<s>"], 1, {"content": None}, {"content": ""}])
def test_what_has_no_text_is_no_token(token: object) -> None:
    assert parse_settings({"bos_token": token}).texts == {}


def test_every_name_ending_in_token_is_known_to_templates() -> None:
    config = NAMES | {"image_token": "<image>", "add_bos_token": True, "extra_special_tokens": {"eoc_token": "</s>"}}
    assert parse_settings(config).texts == NAMES | {"image_token": "<image>", "eoc_token": "</s>"}


def test_special_tokens_map_wins_where_no_tokens_are_listed() -> None:
    written = {"eos_token": {"content": "<|im_end|>", **FLAGS}, "pad_token": "<pad>"}
    assert parse_settings(NAMES, written).texts == NAMES | {"eos_token": "<|im_end|>", "pad_token": "<pad>"}
    assert parse_settings(NAMES | {"added_tokens_decoder": LISTED}, written).texts == NAMES


def test_listed_tokens_have_their_ids_and_replace_flags() -> None:
    listed = LISTED | {"1": {"content": "<s>", **FLAGS, "rstrip": True}}
    made = tokenizer(parse_settings(NAMES | {"added_tokens_decoder": listed}))
    assert {"<|im_start|>": 512, "<|im_end|>": 513}.items() <= made.control_ids.items()
    assert [token.rstrip for token in made._added.values() if token.content == "<s>"] == [True]
    assert made.decode([512, 513, *made.encode_text("the")]) == "the"


def test_tokens_of_added_tokens_json_are_special_only_where_they_are_named() -> None:
    added = {"<|im_start|>": 512, "<|im_end|>": 513}
    made = tokenizer(parse_settings({"eos_token": "<|im_end|>"}, None, added))
    assert made.added_ids.items() >= added.items()
    assert "<|im_end|>" in made.control_ids
    assert "<|im_start|>" not in made.control_ids
    assert made.eos_token_id == 513


def test_the_ids_of_tokenizer_json_win_over_added_tokens_json() -> None:
    made = tokenizer(parse_settings(NAMES, None, {"other": 1, "<x>": 512}))
    assert made.added_ids == {"<unk>": 0, "<s>": 1, "</s>": 2, "<x>": 512}


def test_a_token_with_a_name_is_special_unless_all_tokens_are_listed() -> None:
    ordinary = {"id": 512, "content": "<t>", **FLAGS, "special": False}
    content = json.dumps(SMALL | {"added_tokens": [*SMALL["added_tokens"], ordinary]}).encode()
    named = {"think_token": "<t>"}
    assert "<t>" in Tokenizer(content, parse_settings(named), WHERE).control_ids
    listed = named | {"added_tokens_decoder": {}}
    assert "<t>" not in Tokenizer(content, parse_settings(listed), WHERE).control_ids


@pytest.mark.parametrize("key", ["extra_special_tokens", "additional_special_tokens"])
def test_further_special_tokens_come_after_those_with_names(key: str) -> None:
    made = tokenizer(parse_settings({key: ["<a>", {"content": "<b>", **FLAGS}], "eos_token": "<e>"}))
    assert {token.content: i for i, token in made._added.items() if i > 2} == {"<e>": 512, "<a>": 513, "<b>": 514}
    assert {"<a>", "<b>", "<e>"} <= set(made.control_ids)
    assert parse_settings({}, {key: ["<a>"]}).extra[0].content == "<a>"


def test_a_bos_that_no_file_lists_leaves_the_model_its_own() -> None:
    assert tokenizer(parse_settings({"bos_token": "<nobody>"}), bos=1).bos_token_id == 1
    assert tokenizer(parse_settings({"bos_token": "<nobody>"})).bos_token_id == 512
    listed = {"bos_token": "<|im_start|>", "added_tokens_decoder": LISTED}
    assert tokenizer(parse_settings(listed), bos=1).bos_token_id == 512


@pytest.mark.parametrize(
    "decoder",
    [
        7,
        {"x": {"content": "<a>"}},
        {"-1": {"content": "<a>"}},
        {"99999999999": {"content": "<a>"}},
        {"512": {}},
        {"512": None},
        {"512": {"content": 5}},
        {"512": {"content": "<a>", "lstrip": "yes"}},
        {"512": {"content": "\ud800"}},
    ],
)
def test_a_listed_token_without_a_meaning_is_refused(decoder: object) -> None:
    with pytest.raises(BadCheckpoint, match=r"tokenizer_config\.json"):
        parse_settings({"added_tokens_decoder": decoder})


@pytest.mark.parametrize("added", [{"<a>": "512"}, {"<a>": -1}, {"<a>": True}, {"<a>": 1.5}, {"": 512}])
def test_an_appended_token_without_a_meaning_is_refused(added: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match=r"added_tokens\.json"):
        parse_settings({}, None, added)


@pytest.mark.parametrize("place", ["added_tokens_decoder", "added_tokens.json"])
def test_more_tokens_than_any_vocabulary_has_are_refused_before_they_are_read(place: str) -> None:
    many = dict.fromkeys(map(str, range(MAX_LISTED + 1)))
    given = ({place: many}, {}, {}) if place == "added_tokens_decoder" else ({}, {}, many)
    with pytest.raises(BadCheckpoint, match="lists over 131072 added tokens"):
        parse_settings(*given)


@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
def test_a_token_too_long_to_look_for_is_refused(place: str) -> None:
    long = {"id": 512, "content": "<" * 513, **FLAGS}
    content = SMALL | ({"added_tokens": [*SMALL["added_tokens"], long]} if place == "tokenizer.json" else {})
    config = {} if place == "tokenizer.json" else {"added_tokens_decoder": {"512": long}}
    with pytest.raises(BadCheckpoint, match="513 characters"):
        Tokenizer(json.dumps(content).encode(), parse_settings(config), WHERE)


def test_a_name_written_as_an_object_makes_an_appended_token_special_only_at_the_end() -> None:
    """As transformers does: the token is normalized, since it was read as one that is not special."""
    named = {"eos_token": {"__type": "AddedToken", "content": "<e>", **FLAGS}}
    made = tokenizer(parse_settings(named, None, {"<e>": 512}))
    assert [(token.normalized, token.special) for token in made._added.values() if token.content == "<e>"] == [
        (True, True)
    ]
    assert tokenizer(parse_settings({"eos_token": "<e>"}, None, {"<e>": 512}))._added[512].normalized is False


def test_of_a_token_with_several_names_the_last_flags_count() -> None:
    names = {"eos_token": "<e>", "pad_token": {"content": "<e>", **FLAGS, "rstrip": True}}
    for extra in ([], ["<e>"]):  # the text alone came before, with eos_token
        made = tokenizer(parse_settings({}, names | {"additional_special_tokens": extra}))
        assert made._added[512].rstrip
