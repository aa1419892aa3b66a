"""What a model's files say of how it is asked, read without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elm_mlx.api.defaults import Defaults, read_defaults
from elm_mlx.api.templates import Templates
from elm_mlx.config import ModelConfig
from elm_mlx.store.load import load_tokenizer, named_stop_ids, read_config
from elm_mlx.store.text_settings import load_generation, read_settings


@dataclass(frozen=True)
class ModelFiles:
    """The configuration of a model, how it is sampled without options, the ids and the texts that end its answers, and
    whether there is a chat template, its own or a given one."""

    config: ModelConfig
    defaults: Defaults
    stop_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    has_chat_template: bool


def read_model_files(directory: Path, chat_template: str | Path | None = None) -> ModelFiles:
    """Reads the files beside the weights of the model in a directory, which is asked with this template instead of its
    own if there is one. Raises NotFound, MissingTokenizer, BadCheckpoint, Unsupported."""
    config, settings = read_config(directory), read_settings(directory)
    tokenizer = load_tokenizer(directory, settings, config)
    templates = Templates(directory, settings, tokenizer)
    if chat_template:
        templates.give(chat_template)
    generation = load_generation(directory)
    return ModelFiles(
        config,
        read_defaults(directory),
        named_stop_ids(config, generation, tokenizer) | templates.turn_ends,
        generation.stop_strings,
        templates.are_there,
    )
