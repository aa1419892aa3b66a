"""What is measured: tests named as llama-bench names them, over token ids that are fixed before."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from elm_mlx.bench.loads import Arrival, Load
from elm_mlx.config import ModelConfig
from elm_mlx.errors import InvalidRequest, PromptTooLong

PROMPT, DECODE, FIRST = "pp", "tg", "ttft"
FIRST_PROMPT = 16  # tokens of the prompt before the first token that is timed
LEAST_PIECE = 32  # ids; no program reads a prompt in smaller pieces


@dataclass(frozen=True)
class Case:
    """One test: `kind` pp reads a prompt of `tokens`, tg decodes `tokens`, ttft waits for the first token after a
    prompt of `tokens`; each after `depth` tokens that are in the cache already."""

    kind: str
    tokens: int
    depth: int = 0

    @property
    def name(self) -> str:
        """The test's name, such as pp512, tg128 or tg128 @ d2048."""
        return f"{self.kind}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def before(self) -> int:
        """How many ids are in the cache when the clock starts; decoding begins with one at least."""
        return max(self.depth, 1) if self.kind == DECODE else self.depth

    @property
    def positions(self) -> int:
        """How many positions of the context the test takes; the first token that is decoded comes before those that
        are timed, and in a test of it one follows."""
        return self.before + self.tokens + {PROMPT: 0, DECODE: 1, FIRST: 2}[self.kind]

    def token_ids(self, vocab_size: int) -> list[int]:
        """The ids that are read, always the same: those before, and those of the prompt that is timed."""
        count = self.before + (0 if self.kind == DECODE else self.tokens)
        return random.Random(0).choices(range(vocab_size), k=count)


@dataclass(frozen=True)
class Together:
    """One test of requests that are answered together: `rows` prompts of `prompt` ids each are read, and once each has
    its first token, `tokens` more are decoded for each."""

    prompt: int
    tokens: int
    rows: int

    @property
    def name(self) -> str:
        """The test's name, such as pp512 tg128 b8."""
        return f"{PROMPT}{self.prompt} {DECODE}{self.tokens} b{self.rows}"

    @property
    def answer(self) -> int:
        """The most tokens of one answer: the first to be read goes on while the others are read, a piece a step."""
        return 1 + self.tokens + self.rows * (3 + self.prompt // LEAST_PIECE)

    @property
    def positions(self) -> int:
        """How many positions of the context each request takes at most."""
        return self.prompt + self.answer

    def load(self, vocab_size: int) -> Load:
        """The requests, of ids that differ and are always the same."""
        ids = random.Random(0).choices(range(vocab_size), k=self.rows * self.prompt)
        prompts = [ids[start : start + self.prompt] for start in range(0, len(ids), self.prompt)]
        return Load([Arrival(prompt, self.answer) for prompt in prompts], self.rows, self.rows * self.tokens)


class Sample(NamedTuple):
    """One run of a test: its time, the host's processor time in it, and the most bytes that MLX's allocator reached."""

    seconds: float
    host_seconds: float
    peak_bytes: int


def cases(prompts: Iterable[int], generations: Iterable[int], depths: Iterable[int]) -> list[Case]:
    """The tests: first token, then every prompt and every generation at every depth; those of 0 tokens are left out.

    Raises InvalidRequest for numbers below 0, and where nothing is left.
    """
    kinds = {PROMPT: list(prompts), DECODE: list(generations)}
    found = [Case(kind, n, depth) for depth in depths for kind, counts in kinds.items() for n in counts if n]
    if wrong := [case.name for case in found if case.tokens < 0 or case.depth < 0]:
        raise InvalidRequest(f"{', '.join(wrong)}: there is no test of fewer than 0 tokens. Give 1 or more.")
    if not found:
        raise InvalidRequest("There is nothing to measure.", "Give {prompts} or {generations} a number above 0, and "
                             "{depths} one depth at least.")  # fmt: skip
    return [Case(FIRST, FIRST_PROMPT), *dict.fromkeys(found)]


def together(prompts: Iterable[int], generations: Iterable[int], rows: Iterable[int]) -> list[Together]:
    """The tests of requests that are answered together: every prompt with every generation in all numbers of rows.

    Raises InvalidRequest for a number below 1, as a prompt of no ids cannot be read.
    """
    found = [Together(*each) for each in product(prompts, generations, rows)]
    if not found or any(min(test.prompt, test.tokens, test.rows) < 1 for test in found):
        raise InvalidRequest("Requests that are answered together have a prompt and an answer of one token at least.",
                             "Give {prompts}, {generations} and {batch} numbers above 0.")  # fmt: skip
    return list(dict.fromkeys(found))


def check_context(tests: Iterable[Case | Together], config: ModelConfig) -> None:
    """Raises PromptTooLong for a test that the model's context has no room for."""
    for case in tests:
        if case.positions > config.context_length:
            raise PromptTooLong(f"{case.name} takes {case.positions} positions, and the model's context has "
                                f"{config.context_length}.",
                                "Take fewer with {prompts}, {generations} or {depths}.")  # fmt: skip
