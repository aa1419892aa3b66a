"""A tokenizer in GGUF's metadata becomes a tokenizer.json that cuts every text as the original does."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from helpers import checkpoints, tiktoken_craft
from helpers import gguf_craft as craft
from tokenizers import models, pre_tokenizers, trainers

from elm_mlx.config import config_from_dict
from elm_mlx.convert.gguf.header import read_header
from elm_mlx.convert.gguf.vocabulary import read_tokenizer
from elm_mlx.convert.tokenizer import prepare_tokenizer
from elm_mlx.convert.tokenizer.tiktoken import special_tokens, tokenizer_json
from elm_mlx.convert.tokenizer.within import Within
from elm_mlx.errors import BadCheckpoint, MissingTokenizer, Unsupported
from elm_mlx.text.settings import parse_settings
from elm_mlx.text.tokenizer import Tokenizer

FEW, MANY = 300, 5_000
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
CONFIG = config_from_dict(checkpoints.LLAMA | {"vocab_size": 2000, "bos_token_id": None})
WHERE = Path("model.gguf")
UNITS = tiktoken_craft.UNITS
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


def metadata(folder: Path, add: Callable[[gguf.GGUFWriter], None]) -> dict[str, Any]:
    """What we read of the metadata that the gguf package writes."""
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(folder / "model.gguf").metadata


def rebuilt(found: dict[str, Any]) -> Tokenizer:
    """What our conversion makes of a file's metadata."""
    return prepare_tokenizer(WHERE.parent, None, CONFIG, Within(WHERE, lambda: read_tokenizer(WHERE, found))).tokenizer


def trained_pieces() -> sentencepiece.SentencePieceProcessor:
    """A small model of Llama 2's kind, by SentencePiece itself."""
    choice, out = random.Random(0).choice, io.BytesIO()
    words = sorted({word for word in " ".join(UNITS).split() if word.isalpha()})
    lines = [" ".join(choice(words) for _ in range(12)) for _ in range(200)] + ["    deep    text\tand  blanks"] * 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=410, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def add_pieces(model: sentencepiece.SentencePieceProcessor, more: dict[str, int]) -> Callable[[gguf.GGUFWriter], None]:
    """A model's pieces as llama.cpp's converter writes them, and `more` tokens after them, with their kinds."""

    def kind(id: int) -> int:
        found = (model.IsUnknown(id), UNKNOWN), (model.IsControl(id), CONTROL), (model.IsByte(id), BYTE)
        return next((kind for is_so, kind in found if is_so), NORMAL)

    def add(writer: gguf.GGUFWriter) -> None:
        ids = range(model.GetPieceSize())
        writer.add_tokenizer_model("llama")
        writer.add_token_list([*map(model.IdToPiece, ids), *more])
        writer.add_token_scores([*map(model.GetScore, ids), *[-1000.0] * len(more)])
        writer.add_token_types([*map(kind, ids), *more.values()])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    return add


@pytest.mark.parametrize("count", COUNTS)
def test_pieces_give_sentencepiece_s_own_ids(tmp_path: Path, count: int) -> None:
    model = trained_pieces()
    ours = rebuilt(metadata(tmp_path, add_pieces(model, {})))
    assert ours.encode("") == [1]
    for text in tiktoken_craft.texts(count, [unit for unit in UNITS if "\0" not in unit]):
        assert ours.encode_text(text) == model.EncodeAsIds(text), text


def test_tokens_that_were_added_after_the_pieces_are_found_whole(tmp_path: Path) -> None:
    model = trained_pieces()
    size = model.GetPieceSize()
    more = {"<|im_start|>": CONTROL, "<tool>": USER, "[PAD452]": UNUSED}
    ours = rebuilt(metadata(tmp_path, add_pieces(model, more)))
    assert {text: id for text, id in ours.added_ids.items() if id >= size} == {"<|im_start|>": size, "<tool>": size + 1}
    assert ours.encode_text("<tool>") == [size + 1]
    assert ours.control_ids["<|im_start|>"] == size
    assert max(ours.vocabulary.values()) == size - 1


def add_llama3(
    tokens: list[bytes], specials: list[str], pre: str | None = "llama-bpe"
) -> Callable[[gguf.GGUFWriter], None]:
    """Llama 3's tokenizer as llama.cpp's converter writes it."""
    content = tokenizer_json(tokens, specials, WHERE)["model"]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([*content["vocab"], *specials])
        writer.add_token_types([NORMAL] * len(tokens) + [CONTROL] * len(specials))
        writer.add_token_merges([" ".join(merge) for merge in content["merges"]])
        writer.add_bos_token_id(len(tokens))
        writer.add_eos_token_id(len(tokens) + 9)

    return add


@pytest.mark.parametrize("count", COUNTS)
def test_llama_3_s_vocabulary_gives_tiktoken_s_own_ids(tmp_path: Path, count: int) -> None:
    tokens, specials = tiktoken_craft.trained(600), special_tokens(later=True)
    ours, original = rebuilt(metadata(tmp_path, add_llama3(tokens, specials))), tiktoken_craft.oracle(tokens)
    assert ours.encode("") == [600]
    for text in tiktoken_craft.texts(count, [unit for unit in UNITS if not unit.startswith("<|")]):
        assert ours.encode_text(text) == original.encode_ordinary(text), text
    assert ours.added_ids == {text: 600 + place for place, text in enumerate(specials)}


def library_tokenizer(pre: str) -> tokenizers.Tokenizer:
    """A tokenizer of the library with a pre-tokenizer of this name, its control token first as in SmolLM."""
    library = tokenizers.Tokenizer(models.BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    library.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_only]) if pre == "smollm" else bytes_only
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>"], show_progress=False)  # fmt: skip
    library.train_from_iterator(tiktoken_craft.texts(400, UNITS, seed=7), trainer)
    return library


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_other_cuts_give_the_ids_of_the_tokenizers_library(tmp_path: Path, pre: str, count: int) -> None:
    library = library_tokenizer(pre)
    vocab = library.get_vocab()
    merges = json.loads(library.to_str())["model"]["merges"]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
        writer.add_token_types([CONTROL, *[NORMAL] * (len(vocab) - 1)])
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_eos_token_id(0)

    ours = rebuilt(metadata(tmp_path, add))
    assert ours.encode("") == []
    for text in tiktoken_craft.texts(count, UNITS):
        assert ours.encode_text(text) == library.encode(text, add_special_tokens=False).ids, text


def plain() -> dict[str, Any]:
    """Metadata of a small tokenizer that is right."""
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
        "tokenizer.ggml.token_type": np.array([1, 1, 1, 3]), "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 3,
    }  # fmt: skip


def test_whether_a_text_begins_with_bos_is_what_the_file_says() -> None:
    assert rebuilt(plain()).encode("ab") == [2]
    assert rebuilt(plain() | {"tokenizer.ggml.add_bos_token": True}).encode("ab") == [3, 2]
    llama = plain() | {"tokenizer.ggml.pre": "llama-bpe"}
    assert rebuilt(llama).encode("ab") == [3, 2]
    assert rebuilt(llama | {"tokenizer.ggml.add_bos_token": False}).encode("ab") == [2]


def test_chat_templates_keep_their_names() -> None:
    one = plain() | {"tokenizer.chat_template": "{{ 1 }}"}
    assert read_tokenizer(WHERE, one)[1]["chat_template"] == "{{ 1 }}"
    several = one | {"tokenizer.chat_templates": ["default", "tools"], "tokenizer.chat_template.tools": "{{ 2 }}"}
    assert parse_settings(read_tokenizer(WHERE, several)[1]).chat_template == [
        {"name": "default", "template": "{{ 1 }}"},
        {"name": "tools", "template": "{{ 2 }}"},
    ]


KEY = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": None}, MissingTokenizer, "no tokenizer in its metadata. Give the model's own tokenizer: tokenizer="),
        ({"model": "t5"}, Unsupported, "the kind 't5'"),
        ({"pre": "qwen2"}, Unsupported, "'qwen2'\\) that elm-mlx does not know; it knows llama-bpe"),
        ({"pre": None}, Unsupported, "pre: None.* Give the model's own tokenizer"),
        ({"add_eos_token": True}, Unsupported, "puts the token that ends a text"),
        ({"tokens": None}, BadCheckpoint, "no list of tokens"),
        ({"tokens": ["a", "b", "ab", "a"]}, BadCheckpoint, "one token twice"),
        ({"token_type": np.array([1, 1])}, BadCheckpoint, "not a list of 4 numbers"),
        ({"token_type": None}, Unsupported, "special ones look like text. Give the model's own tokenizer"),
        ({"model": "llama", "scores": np.array([0, 0, np.nan, 0])}, BadCheckpoint, "scores are NaN"),
        ({"merges": ["a c"]}, BadCheckpoint, "merges tokens that are not in its vocabulary"),
        ({"merges": ["a b a"]}, BadCheckpoint, "merges tokens that are not in its vocabulary"),
        ({"merges": None}, BadCheckpoint, "no list of merges"),
        ({"bos_token_id": 4}, BadCheckpoint, "bos_token_id is 4, which is none of 4 ids"),
        ({"model": "llama"}, BadCheckpoint, "pieces without scores"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    found = plain() | {KEY + name: value for name, value in change.items()}
    with pytest.raises(error, match=words):
        read_tokenizer(WHERE, found)


def test_pieces_of_one_score_cannot_say_what_joins_first() -> None:
    """As in files that were made from a tokenizer.json alone."""
    texts = [f"p{i}" for i in range(400)]
    kinds, scores = np.full(400, NORMAL), np.full(400, -1000.0, "f4")
    found = {f"{KEY}model": "llama", f"{KEY}tokens": texts, f"{KEY}scores": scores, f"{KEY}token_type": kinds}
    with pytest.raises(Unsupported, match="one score"):
        read_tokenizer(WHERE, found)


def test_the_tokenizer_of_the_tests_comes_back_as_it_was(tmp_path: Path) -> None:
    original = Tokenizer.from_file(checkpoints.TOKENIZER / "tokenizer.json", parse_settings({}))
    ours = rebuilt(metadata(tmp_path, craft.add_pieces))
    for text in tiktoken_craft.texts(FEW, UNITS):
        assert ours.encode_text(text) == original.encode_text(text), text
