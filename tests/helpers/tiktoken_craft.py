"""Vocabularies in Meta's tiktoken layout, tiktoken itself as the oracle, and texts that try it."""

from __future__ import annotations

import random
from base64 import b64encode

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

# The converter's pattern, written here a second time: a mistake in one of the two makes a test fail.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
SINGLE = [bytes([byte]) for byte in range(256)]
WORDS = "the cat sat on a mat and it's warm; they'll say 12345678 don't café 字字 мир 😀 hello world".split()
UNITS = [*WORDS, *(f" {word}" for word in WORDS), " ", "  ", " " * 9, "\t", "\n", "\n\n", "\r\n", "\0", "\x1b", "\x7f",
         "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "\ufeff", "\ufffd", "e\u0301", "ﷺ", "٣٤", "Ⅷ", "½", "'S", "'ſ",
         "'LL", "'", "_", "--", "...", "Zq", "👩‍👩‍👧", "Once upon a time there was", "<|begin_of_text|>", "<|eot_id|>",
         "<|reserved_special_token_7|>", "<|", "|>"]  # fmt: skip


def trained(size: int) -> list[bytes]:
    """The tokens, in the order of ranks, of a byte-level BPE trained on words put together from syllables."""
    choice = random.Random(0).choice
    syllables = ["ka", "re", "thi", "no", "s", "mo", "é", "字", "ла", "un", "ing", "12", "'s", "--"]
    lines = [" ".join("".join(choice(syllables) for _ in range(4)) for _ in range(40)) + " " * i for i in range(60)]
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([*lines, *(" ".join(WORDS) for _ in range(9))], trainer)
    shown = {chr(byte): byte for byte in range(256) if chr(byte).isprintable() and byte != 0x20}
    hidden = (byte for byte in range(256) if byte not in shown.values())
    byte_of = shown | {chr(256 + place): byte for place, byte in enumerate(hidden)}
    ranked = sorted(library.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[character] for character in text) for text, _ in ranked]


def drawn(seed: int, size: int = 60) -> list[bytes]:
    """Tokens that no training gives: few letters, any length, the ranks in no order, many never made by joining."""
    draw = random.Random(seed)
    longer = {bytes(draw.choices(b"ab ", k=draw.randint(2, 9))) for _ in range(size)}
    return draw.sample(tokens := [*SINGLE, *sorted(longer)], len(tokens))


def model_file(tokens: list[bytes]) -> bytes:
    """The bytes of Meta's tokenizer.model: a line for each token, base64 and rank."""
    return b"".join(b"%s %d\n" % (b64encode(token), rank) for rank, token in enumerate(tokens))


def oracle(tokens: list[bytes], specials: list[str] | None = None) -> tiktoken.Encoding:
    """tiktoken's own Encoding of these tokens."""
    after = {text: len(tokens) + place for place, text in enumerate(specials or [])}
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("oracle", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=after)


def texts(count: int, units: list[str], seed: int = 1) -> list[str]:
    """Random texts of up to twenty units each."""
    draw = random.Random(seed)
    return ["".join(draw.choices(units, k=draw.randint(0, 20))) for _ in range(count)]
