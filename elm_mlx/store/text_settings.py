"""What the files beside a model's weights say of its text: added tokens, chat templates, sampling, stop ids.

The layout is transformers' (5.24): a chat template is a file of its own, or stands in tokenizer_config.json. Where
there is a chat_template.jinja, the templates in tokenizer_config.json are older and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.config.generation import Generation, read_generation
from elm_mlx.config.values import Values
from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import optional_json, read_bytes
from elm_mlx.store.side_files import (
    ADDED,
    GENERATION,
    SETTINGS,
    SPECIAL,
    TEMPLATE,
    TEMPLATES,
    files_beside,
    is_template,
    template_name,
)
from elm_mlx.text.chat.template import ChatTemplate, named_templates, read_template
from elm_mlx.text.settings import TokenizerSettings, parse_settings

MAX_TEMPLATES = 100  # files; models have one to five
MAX_TOKENS_BYTES = 64 * 2**20  # of a list of added tokens: 28,672 of them with their flags make 5 MB


def read_tokens(path: Path) -> dict[str, Any]:
    """Reads the object of a file that may list tokens; an empty one where there is no file. Raises BadCheckpoint."""
    return optional_json(path, MAX_TOKENS_BYTES)


def read_settings(directory: Path, config: Mapping[str, Any] | None = None) -> TokenizerSettings:
    """What the side files of a directory say of its tokenizer. `config` stands for tokenizer_config.json's object,
    where that is to be another than the file's. Raises BadCheckpoint."""
    config = read_tokens(directory / SETTINGS) if config is None else config
    special, added = read_tokens(directory / SPECIAL), read_tokens(directory / ADDED)
    return parse_settings(config, special, added, directory / SETTINGS)


def has_template(directory: Path, settings: TokenizerSettings) -> bool:
    """Whether a model has a chat template; no template is read."""
    return bool(settings.chat_template) or any(map(is_template, files_beside(directory)))


def read_templates(directory: Path, settings: TokenizerSettings) -> dict[str, ChatTemplate]:
    """The chat templates of a model by their names, of which "default" is the usual one; each is compiled when it is
    used. Raises BadCheckpoint for a file that is no text, or too large."""
    # default.jinja in the folder comes last, and wins.
    found = sorted(filter(is_template, files_beside(directory)), key=lambda name: name != TEMPLATE)
    if len(found) > MAX_TEMPLATES:
        where = directory / TEMPLATES
        raise BadCheckpoint(f"{where} holds over {MAX_TEMPLATES} chat templates. Remove those that no chat uses.")
    files = {template_name(name): directory / name for name in found}
    place = directory / SETTINGS
    older = {} if "default" in files else named_templates(settings.chat_template, place)
    sources = {name: (text, place) for name, text in older.items()}
    sources |= {name: (read_template(path), path) for name, path in files.items()}
    return {name: ChatTemplate(text, settings.texts, path) for name, (text, path) in sources.items()}


def load_generation(directory: Path) -> Generation:
    """Reads a directory's generation_config.json, if there is one. Raises BadCheckpoint for stop ids that are none."""
    path = directory / GENERATION
    return read_generation(Values(optional_json(path), str(path)))


def read_checked(directory: Path, name: str) -> bytes:
    """The bytes of a side file, once they are known to be what its name says: an object in JSON, or a text. Raises
    BadCheckpoint."""
    path = directory / name
    if path.suffix == ".json":
        read_tokens(path)
        return read_bytes(path, MAX_TOKENS_BYTES)
    return read_template(path).encode()
