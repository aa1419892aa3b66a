"""A SentencePiece BPE tokenizer for the stories, with the settings of Llama 2's."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from elm_mlx.config import config_from_dict


def train_tokenizer(stories: Iterable[str], config: dict[str, Any], folder: Path) -> None:
    """Writes tokenizer.model, tokenizer.json and tokenizer_config.json; the same stories give the same bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(stories),
        model_writer=model,
        model_type="bpe",
        vocab_size=config["vocab_size"],
        unk_id=0,
        bos_id=config["bos_token_id"],
        eos_id=config["eos_token_id"],
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        max_sentence_length=1 << 16,  # in bytes; a longer story would be left out without a word
        num_threads=1,
        minloglevel=2,
    )
    from elm_mlx.convert.tokenizer import prepare_tokenizer  # here, as it imports MLX

    (folder / "tokenizer.model").write_bytes(model.getvalue())
    prepare_tokenizer(folder / "tokenizer.model", None, config_from_dict(config)).write(folder)


def load_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """Reads the tokenizer that `train_tokenizer` wrote."""
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
