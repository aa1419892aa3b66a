"""Whether a model that was just written can chat: a chat template that cannot be used is kept, and told."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.config import ModelConfig
from elm_mlx.errors import ElmError
from elm_mlx.store.load import load_tokenizer
from elm_mlx.store.text_settings import has_template, read_settings, read_templates
from elm_mlx.text.chat.template import choose

QUESTION = [{"role": "user", "content": "Hello"}]


def chat_refusal(directory: Path, config: ModelConfig) -> str | None:
    """Says why the chat template of a directory refuses a plain question, as `elm-mlx generate` would; None where it
    takes it, or where there is no template."""
    try:
        settings = read_settings(directory)
        if not has_template(directory, settings):
            return None
        template = choose(read_templates(directory, settings), directory, None)
        template.encode(QUESTION, load_tokenizer(directory, settings, config))
    except ElmError as error:
        return error.message
    return None
