"""The answers of a completion, as one object and as a stream of objects of the same kind, text_completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts, ScoredPrompt
from elm_mlx.protocols.openai.answers import head_of, reason_of, timings_of, usage_of
from elm_mlx.protocols.openai.entries import Entries, Entry, entries_of, prompt_entries
from elm_mlx.protocols.openai.events import Events
from elm_mlx.protocols.openai.lead import Lead, has_text, with_lead
from elm_mlx.protocols.openai.token_logprobs import after, of_text
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel, Piece


def head(facts: Facts) -> dict[str, Any]:
    """The keys with which an answer and each of its events begin."""
    return head_of("cmpl-", "text_completion", facts)


def choice_of(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
    """One choice of a text_completion."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class Prompt:
    """What of a prompt shows in its answers: the text that they echo, with the `logprobs` of that, and whether a blank
    may follow it."""

    def __init__(self, prompt: str | Sequence[int], texts: TokenTexts, lm: LanguageModel, *, echoes: bool) -> None:
        self.has_text = has_text(prompt, lm.tokenizer)
        self.echo = (prompt if isinstance(prompt, str) else lm.tokenizer.decode(prompt)) if echoes else ""
        self.logprobs: dict[str, Any] | None = None
        self._texts = texts

    def tell(self, scored: ScoredPrompt) -> None:
        """Takes the log-probabilities of the prompt."""
        self.logprobs = of_text(prompt_entries(scored, self._texts), self._texts)


def prompts_of(ask: Ask, facts: Facts, texts: TokenTexts, *, echoes: bool) -> list[Prompt]:
    """All prompts of a request."""
    prompts = [Prompt(prompt, texts, facts.lm, echoes=echoes) for prompt in ask.prompts]
    for prompt, scored in zip(prompts, facts.scored, strict=False):
        prompt.tell(scored)
    return prompts


def whole_of(ask: Ask, facts: Facts, completions: Sequence[Completion], *, echoes: bool) -> dict[str, Any]:
    """The text_completion object with all answers."""
    texts = TokenTexts(facts.lm.tokenizer)
    prompts = prompts_of(ask, facts, texts, echoes=echoes)
    choices = [choice_with(index, one, prompts[index // ask.n], texts) for index, one in enumerate(completions)]
    return {
        **head(facts),
        "choices": choices,
        "usage": usage_of(ask, completions, facts),
        "timings": timings_of(completions[0].stats),
    }


def choice_with(index: int, completion: Completion, prompt: Prompt, texts: TokenTexts) -> dict[str, Any]:
    """One whole answer, behind what it echoes."""
    said = (completion.reasoning or "") + completion.text  # which are one text here
    said = with_lead(said, completion, texts, prompt.has_text)
    logprobs = None
    if completion.logprobs is not None:
        entries = entries_of(completion, texts, keeps_blank=prompt.has_text)
        logprobs = after(prompt.logprobs, of_text(entries, texts, len(prompt.echo)))
    return choice_of(index, prompt.echo + said, logprobs, reason_of(completion))


class TextEvents(Events):
    """The events of one request: what each answer echoes, its text as it comes, why it ends, the numbers of tokens
    where they are asked for, and [DONE]."""

    def __init__(self, ask: Ask, facts: Facts, body: Mapping[str, Any], *, echoes: bool) -> None:
        super().__init__(ask, facts, body, head(facts))
        prompts = prompts_of(ask, facts, self._texts, echoes=echoes)
        self._prompts = [prompt for prompt in prompts for _ in range(ask.n)]
        self._leads = [Lead(self._texts, prompt.has_text) for prompt in self._prompts]
        self._entries = [Entries(self._texts, keeps_blank=prompt.has_text) for prompt in self._prompts]

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """What each answer echoes, if it does."""
        shown = [(index, one) for index, one in enumerate(self._prompts) if one.echo or one.logprobs]
        return [self._event(choice_of(index, one.echo, one.logprobs, None)) for index, one in shown]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The event of one piece: none for one without text."""
        if piece.logprob and not isinstance(piece.stop_reason, int):
            self._entries[index].add(piece.token, piece.logprob)
        if not (text := self._leads[index].with_blank(piece.token, piece.text)):
            return []
        entries = self._entries[index].given(text) if self._notes else None
        return [self._event(choice_of(index, text, self._logprobs(index, entries), None))]

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """The event that says why an answer ends."""
        rest = self._entries[index].rest(completion.stop_reason) or None
        choice = choice_of(index, "", self._logprobs(index, rest), reason_of(completion))
        return [self._event(choice, completion)]

    def _logprobs(self, index: int, entries: Sequence[Entry] | None) -> dict[str, Any] | None:
        return None if entries is None else of_text(entries, self._texts, len(self._prompts[index].echo))
