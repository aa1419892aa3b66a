"""Whether a model that was just written can chat: a chat template that cannot be used is kept, and told."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.config import ModelConfig
from elm_mlx.errors import ElmError
from elm_mlx.files import optional_json
from elm_mlx.store.load import load_tokenizer
from elm_mlx.text.chat.template import ChatTemplate

QUESTION = [{"role": "user", "content": "Hello"}]


def chat_refusal(directory: Path, config: ModelConfig) -> str | None:
    """Says why the chat template of a directory refuses a plain question, as `elm-mlx generate` would; None where it
    takes it, or where there is no template."""
    try:
        settings = optional_json(directory / "tokenizer_config.json")
        if settings.get("chat_template") is None and not (directory / "chat_template.jinja").exists():
            return None
        ChatTemplate.from_directory(directory, settings).encode(QUESTION, load_tokenizer(directory, config))
    except ElmError as error:
        return str(error)
    return None
