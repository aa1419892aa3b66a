"""The table of routes: what answers which method and path.

A handler gets a request of Starlette and the house, and returns what answers: an ASGI app. Handlers are imported when
the table is made, as they bring more than importing a module may.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.dialect import Dialect
from elm_mlx.server.gate import HEALTH

if TYPE_CHECKING:
    from elm_mlx.server.house import House

Handler = Callable[[Any, "House"], Awaitable[Any]]
Row = tuple[str, str, Handler]  # method, path, handler


def rows() -> list[Row]:
    """The routes, a row each. Those below /v1 are there without it, too."""
    from elm_mlx.protocols import anthropic, responses
    from elm_mlx.protocols.openai import chat, completions
    from elm_mlx.server import models, tokens

    return [
        ("GET", HEALTH, tell_health),
        ("GET", "/metrics", tell_figures),
        ("GET", "/v1/models", models.list_models),
        ("GET", "/v1/models/{id:path}", models.show_model),
        ("POST", "/v1/chat/completions", answering(chat)),
        ("POST", "/v1/completions", answering(completions)),
        ("POST", "/v1/responses", answering(responses)),
        ("POST", "/v1/messages", answering(anthropic)),
        ("POST", "/v1/messages/count_tokens", count_tokens),
        ("POST", "/v1/embeddings", refuse_embeddings),
        ("POST", "/tokenize", tokens.tokenize),
        ("POST", "/detokenize", tokens.detokenize),
        ("POST", "/apply-template", tokens.apply_template),
    ]


def answering(dialect: Dialect) -> Handler:
    """A handler that answers in an API."""

    async def handle(request: Any, house: House) -> Any:
        from elm_mlx.server.answer import answer

        return await answer(request, dialect, house)

    return handle


async def count_tokens(request: Any, house: House) -> Any:
    """Answers how many tokens a request to Anthropic's API has."""
    from elm_mlx.protocols import anthropic
    from elm_mlx.server.tokens import count

    dialect: Any = SimpleNamespace(read=anthropic.read_count, refused=anthropic.refused)
    return await count(request, dialect, house, anthropic.counted)


async def refuse_embeddings(request: Any, house: House) -> Any:
    """Says why there are no embeddings."""
    from elm_mlx.protocols.openai import chat
    from elm_mlx.protocols.openai.models import NO_EMBEDDINGS
    from elm_mlx.server.answer import Refused

    return Refused(chat, NO_EMBEDDINGS)


async def tell_health(request: Any, house: House) -> Any:
    """Answers whether the models make progress."""
    from elm_mlx.server.health import health
    from elm_mlx.server.replies import Reply

    status, told = health(house.shelf)
    return Reply(told, status)


async def tell_figures(request: Any, house: House) -> Any:
    """Answers with the server's figures, for Prometheus."""
    from elm_mlx.server.metrics import KIND
    from elm_mlx.server.replies import TextReply

    return TextReply(house.figures(), KIND)
