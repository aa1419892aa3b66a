"""Models that say what a test tells them, through the whole of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tokenizers
from helpers import checkpoints, tokenizer_craft
from helpers.shallow import shallow

import elm_mlx

ROWS = 400
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>"]


class Script:
    """A constraint that leaves no choice: these ids, one after the other, and then a stop id."""

    def __init__(self, ids: Sequence[int], place: int = 0) -> None:
        self._ids, self._place = ids, place

    def mask(self) -> np.ndarray:
        words = np.zeros((ROWS + 31) // 32, np.uint32)
        token = self._ids[self._place]
        words[token // 32] = 1 << token % 32
        return words

    def accept(self, token: int) -> None:
        assert token == self._ids[self._place]
        self._place += 1

    def fork(self) -> Self:
        return type(self)(self._ids, self._place)


def write(folder: Path, template: str) -> Path:
    """A Llama of two layers with this chat template, a byte-level tokenizer and Llama 3's special tokens."""
    checkpoints.write(folder, shallow(checkpoints.LLAMA) | {"vocab_size": ROWS, "max_position_embeddings": 8192})
    tokenizer_craft.llama3(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(MARKS)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    eos = [tokenizer.token_to_id(text) for text in ("<|eot_id|>", "<|eom_id|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
    return folder


def ids_of(lm: elm_mlx.LanguageModel, text: str) -> list[int]:
    """The ids of a text in which special tokens count as such."""
    pieces = lm.tokenizer.added_tokens.split(text)
    return [
        token
        for number, piece in enumerate(pieces)
        for token in ([lm.tokenizer.added_ids[piece]] if number % 2 else lm.tokenizer.encode_text(piece))
    ]


def say(patch: pytest.MonkeyPatch, lm: elm_mlx.LanguageModel, text: str) -> list[tuple[int, ...]]:
    """Has the model say a text, which ends with a stop token, from now on. Returns the prompts that it is given."""
    ids, prompts = ids_of(lm, text), list[tuple[int, ...]]()
    submit: Callable[..., Any] = type(lm._worker).submit

    def scripted(request: Any, **options: Any) -> Any:
        prompts.append(request.prompt)
        return submit(lm._worker, replace(request, constraint=lambda: Script(ids)), **options)

    patch.setattr(lm._worker, "submit", scripted)
    return prompts
