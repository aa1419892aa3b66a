"""Tokenizers of each kind, with texts and ids that are hard to decode piece by piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from helpers import checkpoints
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
# An entry without text, which may stand before a blank, and specials: they vanish inside a character, too.
EMPTY, EOT = 512, 513
EXTRA = {"id": EOT, "content": "<|eot_id|>", "special": True} | dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized"), False
)
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
DECODERS: dict[str, dict[str, Any] | None] = {
    "sentencepiece": SMALL["decoder"],
    "metaspace": METASPACE,
    "metaspace-bytes": {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, METASPACE, {"type": "Fuse"}],
    },
    "strip-two": {
        "type": "Sequence",
        "decoders": [*SMALL["decoder"]["decoders"][:-1], SMALL["decoder"]["decoders"][-1] | {"start": 2}],
    },
    "none": None,
}
CORPUS = [
    "the cat sat on the mat 😀 the dog 👩‍👩‍👧 字 é\n",
    "  the moon 😀😀 字字 ﷺ",
    "   indented\n\n\ttext",
] * 20


def llama3(path: Path) -> None:
    """A byte-level BPE as Llama 3's, its characters cut into several tokens; specials come after the vocabulary."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+|[^\s\p{L}]+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.add_tokens([AddedToken("<think> it\n", special=False, normalized=False)])
    tokenizer.save(str(path))


def sentencepiece(path: Path, decoder: dict[str, Any] | None) -> None:
    """The small tokenizer's vocabulary, an entry without text in it, with another decoder."""
    model = SMALL["model"] | {"vocab": SMALL["model"]["vocab"] | {"": EMPTY}}
    content = SMALL | {"model": model, "decoder": decoder, "added_tokens": [*SMALL["added_tokens"], EXTRA]}
    path.write_text(json.dumps(content), encoding="utf-8")


def write(path: Path, kind: str) -> Tokenizer:
    """Writes the tokenizer of a kind, "llama-3" or one of DECODERS, and reads it."""
    if kind == "llama-3":
        llama3(path)
    else:
        sentencepiece(path, DECODERS[kind])
    return Tokenizer.from_file(path, TokenizerSettings())
