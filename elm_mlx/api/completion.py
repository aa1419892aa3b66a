"""What an answer is made of: its pieces as they come, the completion that they add up to, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elm_mlx.engine.handle import Handle
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.text.tools import ToolCall


@dataclass(frozen=True)
class Stats:
    """Times and sizes of one completion. Rates are None where there was nothing to time.

    `time_to_first_token_s` runs from the call to the first id, and includes the time that the request waited;
    `prefill_tokens_per_s` is the prompt, but for the `cached_tokens` whose keys and values were held already, over that
    time; `decode_tokens_per_s` counts the ids after the first. `max_tokens` is how many the answer might have had.
    Of the ids that a draft or a lookup `proposed`, `accepted` were right: 0 where nothing was.
    `forgotten_tokens` is how many of prompt and answer a window no longer showed at the end. `peak_memory_bytes` is the
    highest that MLX's allocator had reached in this process when the answer ended. `waited_s` is how long the request
    waited for its turn.
    """

    prompt_tokens: int
    generated_tokens: int
    time_to_first_token_s: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    peak_memory_bytes: int
    cached_tokens: int = 0
    max_tokens: int = 0
    proposed: int = 0
    accepted: int = 0
    forgotten_tokens: int = 0
    waited_s: float = 0.0

    def __str__(self) -> str:
        held = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
        first = f": the first after {self.time_to_first_token_s:.2f} s" if self.time_to_first_token_s else ""
        rate = f", then {self.decode_tokens_per_s:,.1f} tokens/s" if self.decode_tokens_per_s else ""
        counts = f"{self.prompt_tokens}{held} + {self.generated_tokens} tokens"
        guesses = f"; {self.accepted} of {self.proposed} proposals right" if self.proposed else ""
        return f"{counts}{first}{rate}{guesses}; {self.peak_memory_bytes / 1e6:,.0f} MB at most"


@dataclass(frozen=True)
class Completion:
    """An answer. `finish_reason` is "stop" or "length"; "error" where one ended it; and "cancelled" where it was
    cancelled, timed out, or is looked at before its end. With "stop", `stop_reason` is the stop id or the stop string
    that ended it; else, and where its first call ended it, it is None.

    `text` ends before a stop string. `tokens` are all ids that were drawn, a stop id aside: those of an answer that a
    string ended have all of the string in them, and perhaps some text after it, which the last id brought along.
    `logprobs` has an entry for each of `tokens` where the call asked for them, else it is None.

    `parsed` is the value of an answer that was asked for in a form and is whole, else None. `reasoning` is the text of
    the parts that the model marks as its reasoning, which `text` does not have; None where there are none.
    `tool_calls` are the calls that the answer makes, which `text` does not have either; `finish_reason` stays "stop"
    with them. All of what the model wrote, but special tokens, is the text of `tokens` by the model's tokenizer.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stats: Stats
    stop_reason: int | str | None = None
    logprobs: Sequence[TokenLogprob] | None = None
    parsed: Any = None
    reasoning: str | None = None
    tool_calls: Sequence[ToolCall] = ()


@dataclass(frozen=True)
class Piece:
    """One token as it comes: its id, the text that is certain with it (possibly none), and on the last one why it ends.

    The texts of all pieces of kind "text", joined, are the answer's text. The piece of a stop id has finish_reason
    "stop" and whatever text was still held back; that of the id which made a stop string whole has the text before the
    string. Their `stop_reason` is that id or string; elsewhere it is None. `logprob` is the token's entry where the
    call asked for log-probabilities.

    `kind` says what the text is a part of: "text", "reasoning" or "tool". Where tools were given, what may be a call is
    held back until that is certain. A call then comes as one piece of kind "tool" with `tool_call` and the text that it
    was read from; of several that one text has, the first has the text. A token whose text belongs to several parts has
    a piece for each, of which the last has the log-probability and the reason.
    """

    text: str
    token: int
    finish_reason: str | None
    stop_reason: int | str | None = None
    logprob: TokenLogprob | None = None
    kind: str = "text"
    tool_call: ToolCall | None = None


def stats_of(handle: Handle, generated: int) -> Stats:
    """The figures of a request so far, of whose ids `generated` count as tokens of the answer."""
    prompt = len(handle.request.prompt)
    if not (sequence := handle.sequence):
        return Stats(prompt, 0, 0.0, None, None, 0)
    count = len(sequence.ids)
    wait = sequence.first_at - handle.asked_at if count else 0.0
    spent = sequence.last_at - sequence.first_at
    return Stats(
        prompt_tokens=prompt,
        generated_tokens=generated,
        time_to_first_token_s=wait,
        prefill_tokens_per_s=(prompt - sequence.reused) / wait if wait else None,
        decode_tokens_per_s=(count - 1) / spent if spent else None,
        peak_memory_bytes=sequence.peak_bytes,
        cached_tokens=sequence.reused,
        max_tokens=sequence.room,
        proposed=sequence.proposed,
        accepted=sequence.accepted,
        forgotten_tokens=handle.request.cache.forgets(prompt + count),
        waited_s=sequence.admitted_at - handle.asked_at if sequence.admitted_at else 0.0,
    )
