"""GGUF's `gpt2` tokenizers: byte-level BPE whose merges are in the file, and whose way to cut text has only a name.

What the names stand for: ggml-org/llama.cpp src/llama-vocab.cpp (`llm_tokenizer_bpe`, and where it reads
tokenizer.ggml.pre); the parts of a tokenizer.json are those of the models that have these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elm_mlx.convert.gguf.tokens import Vocabulary
from elm_mlx.convert.tokenizer.sentencepiece import bos_template
from elm_mlx.convert.tokenizer.tiktoken import PATTERN, byte_pairs
from elm_mlx.errors import BadCheckpoint, Unsupported

PRE, MERGES, ADD_BOS = "tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token"


def bytes_only(by_gpt2: bool) -> dict[str, Any]:
    """The step that writes bytes as characters, after a cut as GPT-2 makes it where `by_gpt2` is true."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": by_gpt2}


@dataclass(frozen=True)
class Cut:
    """How text is cut before it is merged: the steps of a pre-tokenizer; whether a word that is a token is not merged
    at all; whether a text begins with BOS where the file does not say."""

    steps: tuple[dict[str, Any], ...]
    whole_words: bool = False
    adds_bos: bool = False


LLAMA_3 = ({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, bytes_only(False))
CUTS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Cut(LLAMA_3, whole_words=True, adds_bos=True)),
    "smaug-bpe": Cut(LLAMA_3),
    "gpt-2": Cut((bytes_only(True),)),
    "smollm": Cut(({"type": "Digits", "individual_digits": True}, bytes_only(True))),
}


def tokenizer_json(
    where: Path, metadata: Mapping[str, Any], vocabulary: Vocabulary, ids: Mapping[str, int | None]
) -> tuple[dict[str, Any], bool]:
    """(the object of tokenizer.json, whether a text begins with BOS). Raises BadCheckpoint, and Unsupported, with the
    name, for a cut that is not known."""
    name = metadata.get(PRE)
    cut = CUTS.get(name) if isinstance(name, str) else None
    if cut is None:
        raise Unsupported(f"{where} cuts text in a way ({PRE}: {name!r:.40}) that elm-mlx does not know; it knows "
                          f"{', '.join(CUTS)}.", "Give the model's own tokenizer: {tokenizer=PATH}.")  # fmt: skip
    adds_bos = bool(metadata.get(ADD_BOS, cut.adds_bos))
    bos = ids["bos_token"]
    vocab = {text: id for id, text in enumerate(vocabulary.texts[: vocabulary.boundary])}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(0),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(cut.steps)},
        "post_processor": bos_template(vocabulary.texts[bos], bos) if adds_bos and bos is not None else None,
        **byte_pairs(vocab, merges(where, metadata, vocab), cut.whole_words),
    }
    return content, adds_bos


def merges(where: Path, metadata: Mapping[str, Any], vocab: Mapping[str, int]) -> list[list[str]]:
    """The pairs of tokens that are joined, the first before all others. Raises BadCheckpoint for pairs that the
    vocabulary does not have."""
    listed = metadata.get(MERGES)
    if not isinstance(listed, list):
        raise BadCheckpoint(f"{where} has no list of merges in its metadata. Fetch it again.")
    pairs = [pair.split(" ") for pair in listed]
    if not all(len(pair) == 2 and all(text in vocab for text in (*pair, "".join(pair))) for pair in pairs):
        raise BadCheckpoint(f"{where} merges tokens that are not in its vocabulary. Fetch it again.")
    return pairs
