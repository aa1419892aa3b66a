"""What llm calls when it wants to know of models. None is loaded, and MLX is not imported, before one is asked."""

from __future__ import annotations

from collections.abc import Callable

import llm


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tells llm of every model here, each for plain programs and for asyncio."""
    from elm_mlx.llm_plugin.models import AsyncElmModel, ElmModel
    from elm_mlx.llm_plugin.shelf import names_here

    for name, directory in names_here().items():
        register(ElmModel(name, directory), AsyncElmModel(name, directory))
