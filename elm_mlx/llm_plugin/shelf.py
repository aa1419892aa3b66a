"""The models that llm may ask: which there are, what they can do by their files, and those that are loaded."""

from __future__ import annotations

import importlib.util
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from elm_mlx.demo import demo_directory
from elm_mlx.errors import ElmError

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel

DEMO = "demo"

_lock = threading.Lock()
_loaded: dict[Path, LanguageModel] = {}


def names_here() -> dict[str, Path]:
    """The demo, and the models on this machine that load as they are, by their names. Loads none, asks no network.
    Where they cannot be read there is the demo alone, and a warning in the log: llm has models of others to list."""
    from elm_mlx.library.here import models_here  # here, as it reads much of the library

    names = {DEMO: demo_directory()}
    try:
        return names | {name: path for name, (path, _) in models_here().items()}
    except ElmError as error:
        logging.getLogger(__name__).warning("elm-mlx shows its demo alone: %s", error)
        return names


def takes_tools(directory: Path) -> bool:
    """Whether a chat template of the model tells it of tools."""
    from elm_mlx.store.text_settings import read_settings, read_templates

    try:
        return any(one.shows_tools for one in read_templates(directory, read_settings(directory)).values())
    except ElmError:  # whoever asks the model is told what is wrong
        return False


def takes_forms() -> bool:
    """Whether answers may have a form here: the extra `structure` is installed."""
    return importlib.util.find_spec("llguidance") is not None


def loaded(directory: Path) -> LanguageModel:
    """The model of a directory, loaded by the first who asks, and kept until the program ends or `close_all`. Raises as
    `elm_mlx.load`."""
    with _lock:
        if directory not in _loaded:
            import elm_mlx

            with suppress(ElmError):  # there is none, or MLX was imported before: it is only slower
                elm_mlx.use_fast_blas()
            _loaded[directory] = elm_mlx.load(directory)
        return _loaded[directory]


def close_all() -> None:
    """Gives back the memory of all models that are loaded; the next who asks loads his anew."""
    with _lock:
        while _loaded:
            _loaded.popitem()[1].close()
