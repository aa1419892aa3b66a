"""Meta's tokenizer.model for Llama 3, tiktoken's lines of `base64 rank`, read to its tokens and rebuilt as a
tokenizer.json.

Format, pattern and special tokens: meta-llama/llama-models models/llama3/tokenizer.py and openai/tiktoken
tiktoken/load.py, src/lib.rs; the special tokens' names are those of Hugging Face's files.
"""

from __future__ import annotations

import io
from base64 import b64decode
from itertools import count
from typing import Any

from elm_mlx.convert.tokenizer.sentencepiece import added_token, bos_template
from elm_mlx.errors import BadCheckpoint

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = 256  # ids after the ranks, most of them reserved
NAMES = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
LATER_NAMES = {4: "finetune_right_pad_id", 8: "eom_id", 10: "python_tag"}  # from Llama 3.1 on
MAX_TOKEN = 256  # bytes: long runs of blanks fit, and the search for merges has a bound
UNRANKED = 1 << 32  # above every rank
# GPT-2's alphabet of bytes: a printable one is the character of that code, the others follow from 256 on.
HIDDEN = [*range(33), *range(127, 161), 173]
ALPHABET = {byte: 256 + place for place, byte in enumerate(HIDDEN)}


def parse(data: bytes, where: object) -> list[bytes]:
    """The tokens in the order of their ranks. Raises BadCheckpoint, naming `where`, unless the ranks count up from 0
    and every single byte is among the tokens, none of which comes twice."""
    tokens: dict[bytes, None] = {}
    for rank, line in enumerate(io.BytesIO(data)):
        try:
            token = _token(line, rank)
        except ValueError as error:
            raise _vocabulary_refusal(where, f"line {rank + 1}: {error}") from error
        if token in tokens:
            raise _vocabulary_refusal(where, f"line {rank + 1} has a token that came before")
        tokens[token] = None
    if not all(bytes([byte]) in tokens for byte in range(256)):
        raise _vocabulary_refusal(where, "single bytes are missing")
    return list(tokens)


def _token(line: bytes, rank: int) -> bytes:
    words = line.split()
    if len(words) != 2 or words[1] != b"%d" % rank:
        raise ValueError(f"not a token and the rank {rank}")
    token = b64decode(words[0], validate=True)
    if len(token) > MAX_TOKEN:
        raise ValueError(f"a token of {len(token)} bytes")
    return token


def _vocabulary_refusal(where: object, why: str) -> BadCheckpoint:
    return BadCheckpoint(f"{where} is not a tiktoken vocabulary ({why}). Fetch it again.")


def special_tokens(later: bool) -> list[str]:
    """The special tokens in the order of their ids: those of Llama 3.1 and later, or of 3."""
    names = NAMES | (LATER_NAMES if later else {})
    reserved = count()
    return [f"<|{names.get(i) or f'reserved_special_token_{next(reserved)}'}|>" for i in range(SPECIALS)]


def tokenizer_json(tokens: list[bytes], specials: list[str], where: object) -> dict[str, Any]:
    """The tokenizer.json that cuts every text as tiktoken does; `specials` take the ids after the tokens.

    Raises BadCheckpoint where a special token is an ordinary one, too.
    """
    texts = {token: token.decode("latin-1").translate(ALPHABET) for token in tokens}
    vocab = {text: rank for rank, text in enumerate(texts.values())}
    if any(text in vocab for text in specials):
        raise _vocabulary_refusal(where, "it has a special token as an ordinary one")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, text, special=True) for i, text in enumerate(specials, start=len(tokens))],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": bos_template(specials[0], len(tokens)),
        # whole words, as tiktoken looks a word up before it merges
        **byte_pairs(vocab, [[texts[left], texts[right]] for left, right in merges(tokens)], whole_words=True),
    }


def byte_pairs(vocab: dict[str, int], pairs: list[list[str]], whole_words: bool) -> dict[str, Any]:
    """The decoder and the model of a tokenizer.json for byte-level BPE: ids by text, and the pairs that are merged, in
    their order. With `whole_words` a word that is a token is not merged. Format: the tokenizers library's own."""
    return {
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_words,
            "vocab": vocab,
            "merges": pairs,
        },
    }


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token, in the order of ranks; none for a token that is found only as a whole word.

    tiktoken always joins the neighbours that make the token of lowest rank. Until a token is made, only its own bytes
    take part, so in every text it is made from the two parts from which it is made when it stands alone.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = (last_parts(token, ranks) for token in tokens if len(token) > 1)
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def last_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The parts of `token` before the join that would make it whole: two, or more where no two of them join."""
    parts = [token[i : i + 1] for i in range(len(token))]
    joined = [ranks.get(token[i : i + 2], UNRANKED) for i in range(len(token) - 1)]
    while len(parts) > 2 and (lowest := min(joined)) < UNRANKED:
        i = joined.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del joined[i]
        for left in range(max(i - 1, 0), min(i + 1, len(joined))):
            joined[left] = ranks.get(parts[left] + parts[left + 1], UNRANKED)
    return parts
