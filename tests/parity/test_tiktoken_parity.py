"""The tokenizer.json that we write from Meta's tokenizer.model cuts text as tiktoken does, and as transformers' own
conversion of that file does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers import tiktoken_craft as craft

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers")
converter = pytest.importorskip("transformers.convert_slow_tokenizer")

from elm_mlx.config import config_from_dict
from elm_mlx.convert import tokenizer as tokenizer_files
from elm_mlx.convert.tokenizer.tiktoken import SPECIALS, special_tokens
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer

SIZE, SAMPLES = 2000, 10_000
NAMES = special_tokens(later=True)


@pytest.fixture(scope="module")
def tokens() -> list[bytes]:
    return craft.trained(SIZE)


def prepared(folder: Path, tokens: list[bytes]) -> Tokenizer:
    """Writes Meta's file in `folder`, converts it for a Llama 3.1, and loads the tokenizer from `folder/written`."""
    (folder / "tokenizer.model").write_bytes(craft.model_file(tokens))
    (folder / "written").mkdir()
    config = config_from_dict(checkpoints.CONFIGS["llama-3.1"] | {"vocab_size": len(tokens) + SPECIALS})
    tokenizer_files.prepare_tokenizer(folder, None, config).write(folder / "written")
    return Tokenizer.from_file(folder / "written" / "tokenizer.json", parse_settings({"bos_token": NAMES[0]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meta")


@pytest.fixture(scope="module")
def ours(folder: Path, tokens: list[bytes]) -> Tokenizer:
    return prepared(folder, tokens)


@pytest.fixture(scope="module")
def theirs(folder: Path, ours: Tokenizer) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder / "written")


def characters(count: int) -> list[str]:
    """Random texts of all characters there are, control characters and unassigned ones among them."""
    draw = random.Random(2)
    ranges = [range(0x80), range(0x300), range(0xD800), range(0xE000, 0x110000)]
    lengths = [draw.randint(0, 30) for _ in range(count)]
    return ["".join(chr(draw.choice(draw.choice(ranges))) for _ in range(length)) for length in lengths]


def test_ids_are_tiktoken_s(ours: Tokenizer, tokens: list[bytes]) -> None:
    original = craft.oracle(tokens, NAMES)
    for text in craft.texts(SAMPLES, craft.UNITS) + characters(SAMPLES):
        assert ours.encode_text(text) == original.encode(text, allowed_special=set(), disallowed_special=()), text


def test_every_character_is_of_the_same_kind_as_in_tiktoken(tmp_path: Path) -> None:
    """The two libraries of regular expressions agree on what is a letter, a digit or a blank. Every pair of bytes is a
    token, pairs of an ASCII byte and another byte first, so the ids show which neighbours lie in one word."""
    pairs = [a + b for a in craft.SINGLE for b in craft.SINGLE]
    tokens = [*craft.SINGLE, *sorted(pairs, key=lambda pair: (pair[0] < 128) == (pair[1] < 128))]
    ours, original = prepared(tmp_path, tokens), craft.oracle(tokens)
    planes = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000))  # the others are private or empty
    for start in range(0, len(planes), 64):
        text = "".join(f"a{c}\n1{c}\n!{c}\n  {c}\n{c}a\n" for c in map(chr, planes[start : start + 64]))
        assert ours.encode_text(text) == original.encode_ordinary(text), hex(planes[start])


def test_transformers_loads_it_with_the_same_ids(ours: Tokenizer, theirs: Any) -> None:
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (SIZE, SIZE + 1, SIZE + SPECIALS)
    for text in craft.texts(1000, craft.UNITS):
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == ids, text
        assert theirs.decode(ids, skip_special_tokens=True) == text == ours.decode(ids)


def test_special_tokens_that_a_template_writes_are_cut_as_in_tiktoken(theirs: Any, tokens: list[bytes]) -> None:
    original = craft.oracle(tokens, NAMES)
    for text in craft.texts(1000, [*craft.UNITS, *NAMES[:12]]):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == original.encode(text, allowed_special="all"), text


def test_transformers_own_conversion_gives_the_same_ids(folder: Path, ours: Tokenizer) -> None:
    names = dict.fromkeys(NAMES)
    own = converter.TikTokenConverter(str(folder / "tokenizer.model"), extra_special_tokens=names).converted()
    own.encode_special_tokens = True
    assert own.token_to_id("<|python_tag|>") == SIZE + 10
    for text in craft.texts(SAMPLES, craft.UNITS):
        assert ours.encode_text(text) == own.encode(text).ids, text
