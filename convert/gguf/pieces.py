"""GGUF's `llama` tokenizers: SentencePiece's pieces with their scores, as Llama 2 and OpenELM have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.convert.gguf.tokens import Vocabulary
from elm_mlx.convert.tokenizer import sentencepiece
from elm_mlx.convert.tokenizer.sentencepiece import BYTE, MAX_PIECE, NORMAL, SentencePieceModel, VocabularyPiece
from elm_mlx.errors import BadCheckpoint, Unsupported

MAX_CHARACTERS = 16 * 2**20  # of all pieces: what bounds the search for merges
ADD_BOS, ADD_PREFIX = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"
REMOVE_BLANKS, CHARSMAP = "tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"


def tokenizer_json(
    where: Path, metadata: Mapping[str, Any], vocabulary: Vocabulary, ids: Mapping[str, int | None]
) -> tuple[dict[str, Any], bool]:
    """(the object of tokenizer.json, whether a text begins with BOS). Raises BadCheckpoint, Unsupported."""
    check_pieces(where, vocabulary)
    count = vocabulary.boundary
    triples = zip(vocabulary.texts[:count], vocabulary.scores, vocabulary.kinds, strict=False)
    adds_bos, bos = bool(metadata.get(ADD_BOS, True)), ids["bos_token"]
    unknown = ids["unk_token"]
    model = SentencePieceModel(
        pieces=[VocabularyPiece(*triple) for triple in triples],
        model_type=2,  # BPE: the name `llama` stands for it
        unk_id=0 if unknown is None else unknown,
        bos_id=bos if adds_bos and bos is not None else -1,
        add_dummy_prefix=bool(metadata.get(ADD_PREFIX, True)),
        remove_extra_whitespaces=bool(metadata.get(REMOVE_BLANKS, False)),
        charsmap=b"?" if CHARSMAP in metadata else b"",
    )
    content = sentencepiece.tokenizer_json(model, where)
    content["added_tokens"] += vocabulary.added(count)
    return content, adds_bos


def check_pieces(where: Path, vocabulary: Vocabulary) -> None:
    """Raises BadCheckpoint for pieces that SentencePiece does not make, and Unsupported where scores do not rank them:
    then the file was made from a tokenizer.json, whose merges it lacks."""
    lengths = [len(text) for text in vocabulary.texts]
    if not vocabulary.scores or not all(0 < length <= MAX_PIECE for length in lengths):
        raise BadCheckpoint(f"{where} has pieces without scores, without text, or of over {MAX_PIECE} characters. "
                            "Fetch it again.")  # fmt: skip
    if sum(lengths) > MAX_CHARACTERS or not {*vocabulary.kinds} <= {*range(NORMAL, BYTE + 1)}:
        raise BadCheckpoint(f"{where} has pieces of unknown kinds, or of over {MAX_CHARACTERS:,} characters in all. "
                            "Fetch it again.")  # fmt: skip
    pairs = zip(vocabulary.texts, vocabulary.scores, vocabulary.kinds, strict=True)
    scores = {score for text, score, kind in pairs if kind == NORMAL and len(text) > 1}
    if len(scores) == 1 and vocabulary.boundary > 300:
        raise Unsupported(f"{where} gives all pieces of its tokenizer one score, so that nothing says which are joined "
                          "first.", "Give the model's own tokenizer: {tokenizer=PATH}.")  # fmt: skip
