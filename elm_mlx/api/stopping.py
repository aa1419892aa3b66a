"""What ends the answer to a request beside its length: ids and strings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from elm_mlx.engine.request import Request
from elm_mlx.text.answer import FirstCall, Reading
from elm_mlx.text.stop_strings import StopStrings
from elm_mlx.text.stops import Stops
from elm_mlx.text.tokenizer import Tokenizer

NO_STOPS = Stops()


class Stopping(NamedTuple):
    """The stop ids of a request, and what makes the stopper of each answer to it: None where there are no strings."""

    ids: frozenset[int]
    stopper: Callable[[], StopStrings] | None


def stopping(tokenizer: Tokenizer, ids: frozenset[int], strings: Iterable[str]) -> Stopping:
    """What ends an answer by these stop ids and stop strings. A string that is the text of a special token means that
    token, too: its text is never shown, so it would never be found there."""
    stops = Stops(strings)
    if not stops.strings:
        return Stopping(ids, None)
    control = tokenizer.control_ids
    named = {control[string] for string in stops.strings if string in control}
    return Stopping(ids | named, partial(StopStrings, tokenizer, stops))


def answer_text(request: Request, tokenizer: Tokenizer) -> StopStrings:
    """What turns the ids of an answer into its text, for a reader: it finds the stop strings that the request's own
    stopper finds, and so ends at the same id."""
    stopper = request.stopper() if request.stopper else None
    text = stopper.text if isinstance(stopper, FirstCall) else stopper
    return text if isinstance(text, StopStrings) else StopStrings(tokenizer, NO_STOPS)


def ended_with_call(request: Request, reading: Reading, tokenizer: Tokenizer) -> Request:
    """The request, its answer, which is read so, over with its first call."""
    return replace(request, stopper=lambda: FirstCall(reading, answer_text(request, tokenizer)))
