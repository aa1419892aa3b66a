"""A prompt with a better and a worse answer, as examples whose answers count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.train.examples import Example, batch_of
from elm_mlx.train.rows import RowReader

CHOSEN, REJECTED = "chosen", "rejected"
Messages = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Pair:
    """The answer that is to become likelier and the one that is to become less likely, each after its prompt; only the
    ids of answers count."""

    chosen: Example
    rejected: Example

    @property
    def targets(self) -> int:
        """How many ids of both answers count; 0 where one of them has none, so that there is nothing to compare."""
        both = self.chosen.targets, self.rejected.targets
        return sum(both) if all(both) else 0

    @property
    def length(self) -> int:
        """The ids of the longer one."""
        return max(self.chosen.length, self.rejected.length)

    @property
    def facts(self) -> list[Any]:
        """What makes it this pair, as JSON has it."""
        return [self.chosen.facts, self.rejected.facts]

    def cut(self, length: int) -> Pair:
        """Both with their first `length` ids."""
        return Pair(self.chosen.cut(length), self.rejected.cut(length))


@dataclass(frozen=True)
class PairBatch:
    """P pairs as arrays: the chosen ones, then the rejected ones. `ids` [2P, L], `counts` [2P, L - 1] of 0 and 1, and
    `reference` [2P]: the log-probability of each answer by the reference. A target is a pair."""

    ids: mx.array
    counts: mx.array
    reference: mx.array
    targets: int


def pair_batch(pairs: Sequence[Pair], reference: Sequence[tuple[float, float]]) -> PairBatch:
    """Pairs as one batch, with the log-probabilities of both answers of each by the reference."""
    batch = batch_of([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    of_chosen, of_rejected = zip(*reference, strict=True)
    return PairBatch(batch.ids, batch.counts, mx.array([*of_chosen, *of_rejected], mx.float32), len(pairs))


@dataclass(frozen=True)
class PairReader:
    """Makes Pairs of rows with "prompt", "chosen" and "rejected", as `reader` makes examples. A prompt is a text or a
    list of messages, an answer a text or a list of one message."""

    reader: RowReader

    def read(self, row: Mapping[str, Any]) -> Pair:
        """The pair of a row (its "tools" are shown; other keys are left alone). Raises InvalidRequest for any other
        row, and for one whose answers are the same."""
        missing = [name for name in ("prompt", CHOSEN, REJECTED) if row.get(name) is None]
        if missing:
            raise InvalidRequest(f"has no {' and no '.join(missing)}; a row of pairs has prompt, chosen and rejected.")
        prompt, answers = row["prompt"], {name: answer_in(row, name) for name in (CHOSEN, REJECTED)}
        if answers[CHOSEN] == answers[REJECTED]:
            raise InvalidRequest("has one answer twice, so there is nothing to learn of it. Leave it out.")
        made = [self._example(prompt, answer, row.get("tools")) for answer in answers.values()]
        return Pair(*made)

    def _example(self, prompt: Any, answer: Mapping[str, Any], tools: Any) -> Example:
        """One answer after the prompt."""
        if isinstance(prompt, str):
            if not self.reader.templates.are_there and isinstance(answer["content"], str):
                return self.reader.read({"prompt": prompt, "completion": answer["content"]})
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, list):
            raise InvalidRequest(f"has the prompt {shown(prompt)}, where a text or a list of messages belongs.")
        return self.reader.read({"messages": [*prompt, answer], "tools": tools})


def answer_in(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An answer of a row as a message. Raises InvalidRequest for what is none, and for several messages."""
    value = row[name]
    if isinstance(value, str) and value:
        return {"role": "assistant", "content": value}
    one = value[0] if isinstance(value, list) and len(value) == 1 else None
    if isinstance(one, dict) and one.get("role") == "assistant":
        return one
    raise InvalidRequest(f"has {name} {shown(value)}, where a text belongs, or a list of one message of the assistant.")
