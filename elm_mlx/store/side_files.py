"""The files beside a model's weights that say how it reads, writes and samples text: which there are and where they
lie. Loading, converting and pulling all ask here; `store.text_settings` reads what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from elm_mlx.files import reading

TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
SPECIAL, ADDED, TEMPLATE = "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"
TEMPLATES = "additional_chat_templates"  # a folder; each file in it is named after its template
FIXED = (TOKENIZER, GENERATION, SETTINGS, SPECIAL, ADDED, TEMPLATE)


def is_template(name: str) -> bool:
    """Whether a path inside a model's directory is that of a chat template."""
    return name == TEMPLATE or bool(re.fullmatch(rf"{TEMPLATES}/[^/\\\x00-\x1f\x7f]+\.jinja", name))


def template_name(name: str) -> str:
    """The name by which a chat template is asked for, by its path inside a model's directory."""
    return "default" if name == TEMPLATE else Path(name).name.removesuffix(".jinja")


def side_files(names: Iterable[str]) -> list[str]:
    """The side files among the paths that a repository or a directory holds."""
    return [name for name in names if name in FIXED or is_template(name)]


def file_names(directory: Path) -> list[str]:
    """The paths in a directory that can be a model's, relative to it: its entries, and the templates in their
    folder."""
    folder = directory / TEMPLATES
    with reading(directory):
        templates = [f"{TEMPLATES}/{entry.name}" for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted([*(entry.name for entry in directory.iterdir()), *templates])


def files_beside(directory: Path) -> list[str]:
    """The side files that belong to the tokenizer in a directory, relative to it. A link to nothing is none."""
    names = (name for name in side_files(file_names(directory)) if name not in (TOKENIZER, GENERATION))
    with reading(directory):
        return [name for name in names if (directory / name).exists()]
