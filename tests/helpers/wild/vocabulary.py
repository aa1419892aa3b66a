"""Random tokenizer.json files of the kinds that Llama's relatives have, small but with merges that happen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import tokenizers
from helpers.wild.spelling import private
from tokenizers import models, pre_tokenizers, trainers

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
TEXT = """the user and the assistant write in turn; a system message comes first. You are a helpful model, be brief!
What is the weather in Zürich today? It's 18 degrees, I think, and we'll have rain. naïve café über straße
def main(): return {"name": "weather", "parameters": {"city": "Zürich", "days": 2}} # 1234567890
日本語 の 文章 です 天気 は 晴れ 你好 世界 Привет мир 👩‍👩‍👧 🙂 hello hello world world tool call response think
<b>bold</b> a < b > c | d [x] / y user_name assistant. system: tool. INST end start header turn of text im sep"""
BYTE_LEVEL, SENTENCEPIECE = "byte-level", "sentencepiece"


@dataclass(frozen=True)
class Base:
    """A model without added tokens: `family` is BYTE_LEVEL or SENTENCEPIECE."""

    family: str
    tokenizer: dict[str, Any]

    @property
    def vocab(self) -> dict[str, int]:
        return self.tokenizer["model"]["vocab"]


@cache
def merges_of(family: str) -> tuple[tuple[str, str], ...]:
    """The merges that a BPE learns from TEXT."""
    trained = tokenizers.Tokenizer(models.BPE())
    if family == BYTE_LEVEL:
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        trained.pre_tokenizer, alphabet = pre_tokenizers.Metaspace(), []
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    trained.train_from_iterator([TEXT.replace("\n", " "), TEXT.replace(", ", ",")], trainer)
    return tuple(tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"])


def random_base(rng: Random, reserved: list[str]) -> Base:
    """A random model; `reserved` are tokens that it has as entries of its own, as SentencePiece's <s> and </s>."""
    if rng.random() < 0.5:
        return byte_level(rng, reserved if rng.random() < 0.2 else [])
    return sentencepiece(rng, reserved)


def bpe(rng: Random, letters: list[str], family: str, **more: Any) -> dict[str, Any]:
    """A BPE model of these first entries and a random share of the learned merges."""
    merges = merges_of(family)
    merges = merges[: rng.randint(len(merges) // 4, len(merges))]
    entries = dict.fromkeys([*letters, *(a for a, _ in merges), *(b for _, b in merges)]) | dict.fromkeys(
        a + b for a, b in merges
    )
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": rng.random() < 0.3,
        "vocab": {entry: place for place, entry in enumerate(entries)}, "merges": [list(pair) for pair in merges], **more,
    }  # fmt: skip


def byte_level(rng: Random, reserved: list[str]) -> Base:
    """As Llama 3, Qwen, GPT-2 or DeepSeek cut texts."""
    model = bpe(rng, [*reserved, *sorted(pre_tokenizers.ByteLevel.alphabet())], BYTE_LEVEL)
    level = {"type": "ByteLevel", "add_prefix_space": rng.random() < 0.15, "trim_offsets": True, "use_regex": False}
    pattern = rng.choice([LLAMA_3, QWEN])
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    cutters: list[Any] = [
        {"type": "Sequence", "pretokenizers": [split, level]},
        {**level, "use_regex": True},
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, split, level]},
    ]
    return Base(BYTE_LEVEL, {
        "normalizer": rng.choice([None, None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []}]),
        "pre_tokenizer": rng.choice(cutters), "post_processor": level, "decoder": level, "model": model,
    })  # fmt: skip


def sentencepiece(rng: Random, reserved: list[str]) -> Base:
    """As Llama 2, Mistral or Gemma: blanks are ▁, and what has no entry falls back to bytes or to <unk>."""
    fallback = rng.random() < 0.8
    unknown = private("<unk>") if not fallback or rng.random() < 0.8 else None
    octets = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    model = bpe(rng, [*filter(None, [unknown]), *reserved, *octets, "▁"], SENTENCEPIECE, unk_token=unknown,
                fuse_unk=rng.random() < 0.7, byte_fallback=fallback)  # fmt: skip
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    first: list[Any] = [{"type": rng.choice(["NFC", "NFKC"])}] if rng.random() < 0.3 else []
    kind = rng.choice(["prepend", "metaspace", "metaspace", "gemma", "both"])
    normalizers = {
        "prepend": [*first, {"type": "Prepend", "prepend": "▁"}, blank], "metaspace": first,
        "gemma": [*first, blank], "both": [*first, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}],
    }[kind]  # fmt: skip
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["first", "first", "always", "never"]),
            "split": rng.random() < 0.4}  # fmt: skip
    gemma = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    cutter = {"prepend": None, "metaspace": meta, "gemma": rng.choice([gemma, None]), "both": meta}[kind]
    one = normalizers[0] if len(normalizers) == 1 and rng.random() < 0.5 else None
    decoders: list[Any] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if kind in ("prepend", "metaspace"):
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return Base(SENTENCEPIECE, {
        "normalizer": one or ({"type": "Sequence", "normalizers": normalizers} if normalizers else None),
        "pre_tokenizer": cutter, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
    })  # fmt: skip
