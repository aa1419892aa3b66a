"""What all requests for an answer have in common: their options, and the answer as it comes and as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elm_mlx.errors import Cancelled, InvalidRequest
from elm_mlx.sidecar.answers import completion_object, delta_object
from elm_mlx.sidecar.client import Asked
from elm_mlx.sidecar.parameters import Parameters, refuse_unknown

if TYPE_CHECKING:
    from elm_mlx.api import Piece, SessionStream, Stream

ASKED_FOR = ("max_tokens", "stream", "snapshots", "options")  # parameters of every request for an answer


def options_in(params: Parameters) -> dict[str, Any]:
    """The options of a call, judged by their names. Raises InvalidRequest for a name that is none."""
    from elm_mlx.api.options import Options

    given = params.get("options", dict) or {}
    refuse_unknown("option", given, Options.__annotations__)
    if isinstance(biases := given.get("logit_bias"), dict):
        given = {**given, "logit_bias": {number_in(id): bias for id, bias in biases.items()}}
    return given


def number_in(id: str) -> int:
    """The token id that is a key of a JSON object. Raises InvalidRequest."""
    if not (id.isascii() and id.isdecimal() and len(id) <= 20):
        raise InvalidRequest(f"logit_bias names {id!r:.80}; its names must be token ids.")
    return int(id)


def length_in(params: Parameters) -> dict[str, Any]:
    """How long an answer may be; without max_tokens as long as the context has room for."""
    return {"max_tokens": params.number("max_tokens")}


class Deltas:
    """Sends the pieces of an answer to the client as they come, unless `stream` is false; with `snapshots` each has all
    of the text so far, too."""

    def __init__(self, asked: Asked, method: str, params: Parameters, named: Mapping[str, Any] | None = None) -> None:
        """Sends notifications of this `method` about a request, which begin with the parameters in `named`."""
        self._asked, self._method, self._named = asked, method, named or {}
        self._is_wanted, self._has_snapshots = params.flag("stream", default=True), params.flag("snapshots")
        self._texts: list[str] = []

    async def tell(self, piece: Piece) -> None:
        """Sends a piece that says something."""
        delta = delta_object(piece, self._named)
        if self._is_wanted and delta:
            if piece.kind == "text" and self._has_snapshots:
                self._texts.append(piece.text)
                delta["text_so_far"] = "".join(self._texts)
            await self._asked.notify(self._method, delta)


async def answer(stream: Stream | SessionStream, deltas: Deltas) -> dict[str, Any]:
    """The whole answer, whose pieces are told as they come. Raises what ends the answer; Cancelled, with what came,
    where the request was cancelled or its model closed."""
    try:
        async for piece in stream:
            await deltas.tell(piece)
    except asyncio.CancelledError:
        stream.close()
        raise cancelled(stream) from None
    done = stream.completion
    if done.finish_reason not in ("stop", "length"):
        raise cancelled(stream)
    return completion_object(done)


def cancelled(stream: Stream | SessionStream) -> Cancelled:
    """Makes the error for an answer that was cancelled."""
    return Cancelled("The request was cancelled before its end.", completion=stream.completion)
