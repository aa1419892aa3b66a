"""SentencePiece's tokenizer.model, a protocol buffer, read to its pieces and rebuilt as a tokenizer.json.

Format: google/sentencepiece src/sentencepiece_model.proto and protobuf's wire format. The tokenizer.json follows
the original's algorithm: merges ranked by the score of the piece they make, byte fallback, no pre-tokenizer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
SPACE = "\u2581"  # how a piece writes a blank
MAX_PIECE = 512  # characters; the trainer's own limit, and what bounds the search for merges


@dataclass(frozen=True)
class VocabularyPiece:
    """One entry of the vocabulary; its id is its place in it."""

    text: str
    score: float
    kind: int


@dataclass
class SentencePieceModel:
    """The parts of a tokenizer.model that decide how text is cut."""

    pieces: list[VocabularyPiece] = field(default_factory=list)
    model_type: int = 1
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False

    def text_of(self, token: int) -> str | None:
        """The piece of an id, or None where there is none (ids of -1 mean absent)."""
        return self.pieces[token].text if 0 <= token < len(self.pieces) else None


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The (number, value) pairs of one message: ints, 4- and 8-byte words as bytes, and nested data as views."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = varint(data, position)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, position = varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError("a field of an unknown kind, or one that ends past the data")
        yield number, data[position : position + size]
        position += size


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("an integer of more than 64 bits")


def parse(data: bytes, where: object) -> SentencePieceModel:
    """Parses a tokenizer.model. Raises BadCheckpoint, which names `where`, for anything else."""
    model = SentencePieceModel()
    readers = {1: _read_piece, 2: _read_trainer, 3: _read_normalizer}
    try:
        for number, value in fields(memoryview(data)):
            if number in readers:
                readers[number](model, value)
    except ValueError as error:
        raise BadCheckpoint(f"{where} is not a SentencePiece model ({error}). Fetch it again.") from error
    except (IndexError, struct.error, TypeError) as error:  # whose words are of Python, not of the file
        raise BadCheckpoint(f"{where} is not a SentencePiece model, or is cut short. Fetch it again.") from error
    if not model.pieces:
        raise BadCheckpoint(f"{where} is not a SentencePiece model: it has no pieces. Fetch it again.")
    if len({piece.text for piece in model.pieces}) < len(model.pieces):
        raise BadCheckpoint(f"{where} is not a SentencePiece model: it has one piece twice. Fetch it again.")
    return model


def _read_piece(model: SentencePieceModel, data: memoryview) -> None:
    values = dict(fields(data))
    text = str(values.get(1, b""), "utf-8")  # str() refuses an int; bytes() would turn it into that many zeros
    kind = values.get(3, NORMAL)
    if not 0 < len(text) <= MAX_PIECE or kind not in range(NORMAL, BYTE + 1):
        raise ValueError("a piece without text, of too much, or of an unknown kind")
    (score,) = struct.unpack("<f", values.get(2, bytes(4)))
    model.pieces.append(VocabularyPiece(text, score, kind))


def _read_trainer(model: SentencePieceModel, data: memoryview) -> None:
    values = dict(fields(data))
    model.model_type = int(values.get(3, 1))
    model.whitespace_as_suffix = bool(values.get(24, 0))
    ids = {40: "unk_id", 41: "bos_id", 42: "eos_id"}
    for number, name in ids.items():
        if number in values:
            setattr(model, name, values[number] if values[number] < 2**31 else -1)  # negative: absent


def _read_normalizer(model: SentencePieceModel, data: memoryview) -> None:
    values = dict(fields(data))
    model.charsmap = memoryview(values.get(2, b"")).tobytes()
    model.add_dummy_prefix = bool(values.get(3, 1))
    model.remove_extra_whitespaces = bool(values.get(4, 1))
    model.escape_whitespaces = bool(values.get(5, 1))


def tokenizer_json(model: SentencePieceModel, where: object) -> dict[str, Any]:
    """The tokenizer.json that cuts every text as SentencePiece does. Raises Unsupported for other algorithms."""
    _refuse_others(model, where)
    normalizers: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if model.add_dummy_prefix else []
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": bos_template(model.text_of(model.bos_id), model.bos_id),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.text_of(model.unk_id),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": any(piece.kind == BYTE for piece in model.pieces),
            "ignore_merges": False,
            "vocab": {piece.text: i for i, piece in enumerate(model.pieces)},
            "merges": merges(model.pieces),
        },
    }


def _refuse_others(model: SentencePieceModel, where: object) -> None:
    kind = MODEL_TYPES.get(model.model_type, model.model_type)
    if kind != "bpe":
        raise unsupported(f"{where}: SentencePiece model type", kind, ["bpe"])
    if model.charsmap or model.remove_extra_whitespaces or model.whitespace_as_suffix or not model.escape_whitespaces:
        raise Unsupported(f"{where} normalises text before cutting it, which OpenELM's and Llama's tokenizers do not. "
                          "Give a tokenizer.json instead.")  # fmt: skip
    kinds = {piece.kind for piece in model.pieces}
    if UNUSED in kinds:
        raise Unsupported(f"{where} has unused pieces, which cannot be converted. Give a tokenizer.json made for it.")
    if USER_DEFINED in kinds and model.add_dummy_prefix:
        raise Unsupported(f"{where} has user-defined pieces and puts a blank before a text; a tokenizer.json would put "
                          "one after each such piece, too. Give a tokenizer.json made for it.")  # fmt: skip


def _added_tokens(model: SentencePieceModel) -> list[dict[str, Any]]:
    """Control pieces, never made from text, and user-defined ones, cut out of it before all else.

    A user-defined piece with a blank never matches, since blanks are SPACE by then.
    """
    kinds = {UNKNOWN: True, CONTROL: True, USER_DEFINED: False}
    return [
        added_token(i, piece.text, special=kinds[piece.kind])
        for i, piece in enumerate(model.pieces)
        if piece.kind in kinds and (kinds[piece.kind] or " " not in piece.text)
    ]


def added_token(token: int, text: str, *, special: bool) -> dict[str, Any]:
    """An entry of `added_tokens`; one that is not special is searched in text whose blanks are SPACE."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": token, "content": text} | plain | {"special": special}


def bos_template(bos: str | None, token: int) -> dict[str, Any] | None:
    """The post-processor that puts BOS in front of a text, or None for a model without BOS."""
    if bos is None:
        return None
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, {"SpecialToken": {"id": bos, "type_id": 1}}, b],
        "special_tokens": {bos: {"id": bos, "ids": [token], "tokens": [bos]}},
    }


def merges(pieces: list[VocabularyPiece]) -> list[list[str]]:
    """Pairs of pieces in the order in which SentencePiece would join them.

    SentencePiece joins the pair that makes the best-scored piece, the leftmost among equals. BPE's ranks do so on runs
    of whitespace pieces, too, which all have one score, if the longer left part ranks first among equal scores.
    """
    scores = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    pairs = [
        (score, text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    pairs.sort(key=lambda pair: (-pair[0], -len(pair[1]), -len(pair[2])))
    return [[left, right] for _, left, right in pairs]
