"""Answers the lines of a job, several at a time, and writes each answer as it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elm_mlx.arguments import Progress
from elm_mlx.errors import Cancelled, ElmError, EngineStopped, Forked, QueueFull
from elm_mlx.jobs.ask import Ask
from elm_mlx.jobs.entry import Entry
from elm_mlx.jobs.origin import Origin
from elm_mlx.jobs.prompts import fields_of
from elm_mlx.jobs.results import Printed, Results
from elm_mlx.jobs.source import Source
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.api.language_model import LanguageModel

ENDS_ALL = (EngineStopped, QueueFull, Forked, Cancelled)  # errors that no line is to blame for


@dataclass(frozen=True)
class Way:
    """How lines are answered: what all answers have in common; the `options` of lines that name none, max_tokens among
    them; whether every prompt is given `as_is`, also where the model has a chat template; whether lines say what was
    asked (`with_prompts`)."""

    origin: Origin
    options: Mapping[str, Any]
    as_is: bool = False
    with_prompts: bool = False


@dataclass
class Tally:
    """What one run of a job did: lines written, those of them that hold an error, and tokens generated."""

    lines: int = 0
    errors: int = 0
    tokens: int = 0


class Job:
    """The lines of `source` whose keys are `todo`, answered by a model in one way and written to `results`. Both files
    are open."""

    def __init__(
        self, lm: LanguageModel, way: Way, source: Source, todo: Collection[str], results: Results | Printed
    ) -> None:
        self.lm, self.way, self.source, self.todo, self.results = lm, way, source, todo, results
        self.tally = Tally()

    async def run(self, concurrency: int, progress: Progress) -> None:
        """Answers `concurrency` lines at a time; calls `progress` with (lines written, in all) after each. An error of
        one line stays in that line. Raises ElmError and OSError of the two files, and what ends all requests at once;
        what is written stays."""
        entries = self._entries()
        await asyncio.gather(*(self._answer(entries, progress) for _ in range(concurrency)))

    def _entries(self) -> Iterator[Entry]:
        return (entry for entry in self.source.entries() if entry.key in self.todo)

    async def _answer(self, entries: Iterator[Entry], progress: Progress) -> None:
        """Takes lines from those that are left, one after the other, and writes their answers."""
        for entry in entries:
            record = await self._record(entry)
            self.results.add(entry.key, record)
            self.tally.lines += 1
            self.tally.errors += record["error"] is not None
            progress(self.tally.lines, len(self.todo))
            await asyncio.sleep(0)  # lets Ctrl-C in, also where no line has to wait for the model

    async def _record(self, entry: Entry) -> dict[str, Any]:
        """What is to be written for one line. Raises ElmError of ENDS_ALL."""
        origin = self.way.origin
        try:
            ask = entry.read_ask()
            options = {**self.way.options, "seed": origin.seed_of(entry.id), **ask.options}
            completion = await complete(self.lm, self._prompt(ask), options)
            self.tally.tokens += completion.stats.generated_tokens
            texts = TokenTexts(self.lm.tokenizer) if completion.logprobs is not None else None
            record: dict[str, Any] = entry.form.answer(entry.id, origin, ask, completion, texts)
            if self.way.with_prompts:
                record |= fields_of(ask, self._is_raw(ask), completion, self.lm.tokenizer)
        except ElmError as error:
            if isinstance(error, ENDS_ALL):
                raise
            record = entry.form.failure(entry.id, origin, error)
        return record

    def _prompt(self, ask: Ask) -> str | list[int]:
        """The prompt of a line as the model gets it. Raises as `LanguageModel.chat_prompt`."""
        if ask.messages is not None:
            return self.lm.chat_prompt(ask.messages)
        assert ask.prompt is not None  # a line has one or the other
        if self._is_raw(ask):
            return ask.prompt
        return self.lm.chat_prompt([{"role": "user", "content": ask.prompt}])

    def _is_raw(self, ask: Ask) -> bool:
        """Whether a prompt is given to the model as it is."""
        return ask.as_is or self.way.as_is or not self.lm.has_chat_template


async def complete(lm: LanguageModel, prompt: str | list[int], options: dict[str, Any]) -> Completion:
    """Completes one prompt. Raises as `LanguageModel.generate`."""
    return await lm.agenerate(prompt, **options)
