"""What a call gives back: pieces as they come, the completion that they add up to, and its figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from elm_mlx.device.backend import mx
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.stream_decoder import StreamDecoder
from elm_mlx.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Stats:
    """Times and sizes of one completion. Rates are None where there was nothing to time.

    `time_to_first_token_s` runs from the request to the first id; `prefill_tokens_per_s` is the prompt over that
    time; `decode_tokens_per_s` counts the ids after the first; `peak_memory_bytes` is the highest that MLX's
    allocator has reached in this process.
    """

    prompt_tokens: int
    generated_tokens: int
    time_to_first_token_s: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory_bytes: int

    def __str__(self) -> str:
        rate = f", then {self.decode_tokens_per_s:,.1f} tokens/s" if self.decode_tokens_per_s else ""
        return (
            f"{self.prompt_tokens} + {self.generated_tokens} tokens: the first after "
            f"{self.time_to_first_token_s:.2f} s{rate}; {self.peak_memory_bytes / 1e6:,.0f} MB at most"
        )


@dataclass(frozen=True)
class Completion:
    """A finished answer: `tokens` without the id that ended it; `finish_reason` "stop" or "length"."""

    text: str
    tokens: list[int]
    finish_reason: str
    stats: Stats


@dataclass(frozen=True)
class Piece:
    """One token as it comes: its id, the text that is certain with it (possibly none), and on the last one why it ends.

    The piece of an end-of-text id has finish_reason "stop" and whatever text was still held back.
    """

    text: str
    token: int
    finish_reason: str | None


@dataclass(frozen=True)
class Asked:
    """One call: the tokens of its prompt, the most tokens of its answer, and the clock's seconds when it began."""

    prompt_tokens: int
    max_tokens: int
    begun: float


class Stream:
    """An iterator over Pieces; once it is exhausted, or closed, `completion` sums it up.

    A stream is read in the thread that began it, since MLX's device streams belong to threads. Times are as the reader
    saw them: what the reader does between two pieces counts.
    """

    def __init__(
        self, asked: Asked, ids: Generator[int, None, None], tokenizer: Tokenizer, stop_ids: frozenset[int]
    ) -> None:
        self._asked, self._ids, self._stop_ids = asked, ids, stop_ids
        self._decoder = StreamDecoder(tokenizer)
        self._first = self._last = asked.begun
        self._thread = threading.get_ident()
        self._pieces: list[Piece] = []

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if threading.get_ident() != self._thread:
            raise InvalidRequest("A stream is read in the thread that began it. Begin it there, or pass the pieces on.")
        token = next(self._ids)
        self._last = time.perf_counter()
        if not self._pieces:
            self._first = self._last
        self._pieces.append(self._piece(token, is_last=len(self._pieces) + 1 == self._asked.max_tokens))
        return self._pieces[-1]

    def _piece(self, token: int, *, is_last: bool) -> Piece:
        if token in self._stop_ids:
            return Piece(self._decoder.flush(), token, "stop")
        text = self._decoder.add(token)
        return Piece(text + self._decoder.flush(), token, "length") if is_last else Piece(text, token, None)

    def close(self) -> None:
        """Stops the generation; what came so far stays in `completion`."""
        self._ids.close()

    @property
    def completion(self) -> Completion:
        """The answer as far as it has come; a stream closed early counts as ended by its length."""
        tokens = [piece.token for piece in self._pieces if piece.finish_reason != "stop"]
        reason = self._pieces[-1].finish_reason if self._pieces else None
        text = "".join(piece.text for piece in self._pieces)
        return Completion(text, tokens, reason or "length", self._stats(len(tokens)))

    def _stats(self, generated: int) -> Stats:
        wait, spent = self._first - self._asked.begun, self._last - self._first
        return Stats(
            prompt_tokens=self._asked.prompt_tokens,
            generated_tokens=generated,
            time_to_first_token_s=wait,
            prefill_tokens_per_s=self._asked.prompt_tokens / wait if wait else None,
            decode_tokens_per_s=(len(self._pieces) - 1) / spent if spent else None,
            peak_memory_bytes=mx.get_peak_memory(),
        )
