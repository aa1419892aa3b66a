"""Routes about the models: GET /v1/models, and /v1/models/{id} for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.openai.models import list_of, model_of
from elm_mlx.server.cards import Card, card, cards
from elm_mlx.server.replies import App, Reply
from elm_mlx.server.tokens import refused

if TYPE_CHECKING:
    from elm_mlx.server.house import House


async def list_models(request: Any, house: House) -> App:
    """Answers with all models."""
    return Reply(list_of(told(one) for one in await cards(house.shelf)))


async def show_model(request: Any, house: House) -> App:
    """Answers with the model that the path names, or says that there is none."""
    try:
        return Reply(told(await card(house.shelf, request.path_params["id"])))
    except Exception as error:  # it belongs to this request
        return refused(house, error)


def told(one: Card) -> dict[str, Any]:
    """A model as OpenAI's API has it, whether it is loaded, and whether it has a chat template (null: not known)."""
    more = {"loaded": one.is_loaded, "has_chat_template": one.has_chat_template}
    return model_of(one.id, one.created, one.context_length, **more)
