"""Many prompts at once: answers in order, or as they end, while the queue is filled only as fast as it empties."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from elm_mlx.api.completion import Completion
from elm_mlx.api.stream import Stream

AHEAD = 4  # requests under way for each row that decodes: a long answer must not keep the other rows empty
Prompt = TypeVar("Prompt")


def answers_in_order(
    submit: Callable[[Prompt], Stream], prompts: Iterable[Prompt], most: int
) -> Generator[Completion, None, None]:
    """Submits the prompts, at most `most` at a time, and gives their answers in order. Closing it cancels the rest."""
    streams: deque[Stream] = deque()
    try:
        for prompt in prompts:
            streams.append(submit(prompt))
            if len(streams) == most:
                yield streams.popleft().result()
        while streams:
            yield streams.popleft().result()
    finally:
        cancel_all(streams)


def answers_as_they_end(
    submit: Callable[[Prompt], Stream], prompts: Iterable[Prompt], most: int
) -> Generator[tuple[int, Completion], None, None]:
    """Submits the prompts, at most `most` at a time, and gives (index of the prompt, its answer) as answers end.
    Closing it cancels the rest."""
    streams: dict[int, Stream] = {}
    ended: SimpleQueue[int] = SimpleQueue()
    numbered = enumerate(prompts)
    try:
        begin(submit, islice(numbered, most), streams, ended)
        while streams:
            index = ended.get()
            answer = streams.pop(index).result()
            begin(submit, islice(numbered, 1), streams, ended)
            yield index, answer
    finally:
        cancel_all(streams.values())


def begin(
    submit: Callable[[Prompt], Stream],
    prompts: Iterable[tuple[int, Prompt]],
    streams: dict[int, Stream],
    ended: SimpleQueue[int],
) -> None:
    """Submits numbered prompts into `streams`; the number of each is put into `ended` when its answer has ended."""
    for index, prompt in prompts:
        streams[index] = submit(prompt)
        streams[index].when_over(partial(ended.put, index))


def cancel_all(streams: Iterable[Stream]) -> None:
    """Cancels answers that nobody will read."""
    for stream in streams:
        stream.cancel()
