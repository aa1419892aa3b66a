"""The list of models as clients of OpenAI's API read it, and why there are no embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from elm_mlx.protocols.refusal import Refusal

OWNER = "elm-mlx"
NO_EMBEDDINGS = Refusal(
    400,
    "elm-mlx has no embeddings: the models that run here continue texts, and their inner states were not trained to "
    "compare texts by. Use a model that was made for embeddings.",
    code="unsupported_endpoint",
)


def model_of(name: str, created: int, context_length: int | None = None, **more: Any) -> dict[str, Any]:
    """One model: its name for requests, when it came here in seconds since 1970, and how many tokens its context has,
    under the two names that clients look for. `more` are further keys."""
    context = {} if context_length is None else {"context_length": context_length, "max_model_len": context_length}
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER, "name": name, **context, **more}


def list_of(models: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of GET /v1/models. Codex looks for a list `models`, whose objects have another form, and does with an
    empty one."""
    return {"object": "list", "data": list(models), "models": []}
