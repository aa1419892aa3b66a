"""What of a model is needed before its weights: how it reads text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elm_mlx.api.templates import Templates
from elm_mlx.config import ModelConfig
from elm_mlx.store.load import load_tokenizer, named_stop_ids, read_config
from elm_mlx.store.text_settings import load_generation, read_settings
from elm_mlx.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Student:
    """The model that learns: where it lies, its tokenizer and chat templates, and the id that ends a text (None: it has
    none)."""

    directory: Path
    config: ModelConfig
    tokenizer: Tokenizer
    templates: Templates
    end: int | None


def read_student(directory: Path, chat_template: str | None = None) -> Student:
    """Reads a model's directory but for its weights; `chat_template` is the name or file of one to use instead of the
    model's own. Raises as loading a model does."""
    config, settings = read_config(directory), read_settings(directory)
    tokenizer = load_tokenizer(directory, settings, config)
    templates = Templates(directory, settings, tokenizer)
    if chat_template:
        templates.give(chat_template)
    own = tokenizer.eos_token_id
    stops = named_stop_ids(config, load_generation(directory), tokenizer)
    return Student(directory, config, tokenizer, templates, own if own is not None else min(stops, default=None))
