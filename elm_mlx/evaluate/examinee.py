"""A LanguageModel as lm-eval asks it: the methods of lm_eval.api.model.LM, without its class, which is not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from elm_mlx import LanguageModel
from elm_mlx.api.endings import Ending, EndingScorer, families
from elm_mlx.api.options import Options
from elm_mlx.arguments import Progress
from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.borders import chat_ending, cut, ids_in_front, rolling, text_ending
from elm_mlx.evaluate.generation_settings import generation_options
from elm_mlx.evaluate.remembered import Remembered, key_of
from elm_mlx.seeds import seed_of

SLICE = 64  # texts that are scored before the answers are kept; other requests are answered in between


class Asked(Protocol):
    """What lm-eval asks: an lm_eval.api.instance.Instance."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The texts, and settings where an answer is to be generated."""
        ...


class Counts(NamedTuple):
    """What an evaluation has asked: answers that were computed, that were remembered, and texts that lost their
    beginning as the model's context is too short for them."""

    computed: int = 0
    remembered: int = 0
    cut: int = 0


class Examinee:
    """Answers what lm-eval asks of a model, in its order. `options` say how keys and values are held, and name an
    adapter; `seed` is for answers that are drawn. `progress` is called with (answered, in all), for each kind of
    question by itself."""

    rank, world_size = 0, 1  # of processes that share lm-eval's work: this one does all

    def __init__(
        self,
        lm: LanguageModel,
        remembered: Remembered,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.lm, self.remembered, self.seed, self.progress = lm, remembered, seed, progress
        self.options = {name: value for name, value in (options or {}).items() if value is not None}
        self.scorer: EndingScorer = lm.ending_scorer(**self.options)
        self.counts = Counts()
        self._chats: dict[str, tuple[list[dict[str, str]], bool]] = {}  # what lm-eval knows as text

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names prompts by that it keeps; none are kept here."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat by the model's template; without `add_generation_prompt` its last message goes on. Raises
        as `LanguageModel.chat_prompt`."""
        text = self.lm.chat_text(chat_history, **({} if add_generation_prompt else {"goes_on": True}))
        self._chats.setdefault(text, (chat_history, not add_generation_prompt))
        return text

    def loglikelihood(self, requests: Sequence[Asked]) -> list[tuple[float, bool]]:
        """How likely each text is after its context, and whether its tokens are the likeliest."""

        def ask(missing: dict[str, tuple[Any, ...]]) -> Iterable[tuple[str, list[Any]]]:
            for keys, endings in slices((key, self._ending(*args)) for key, args in missing.items()):
                yield from zip(keys, map(list, self.scorer(endings)), strict=True)

        return [tuple(answer) for answer in self._answers("loglikelihood", requests, ask)]

    def loglikelihood_rolling(self, requests: Sequence[Asked]) -> list[float]:
        """How likely each whole text is, read in windows that begin with BOS."""
        front = ids_in_front(self.lm.tokenizer)

        def ask(missing: dict[str, tuple[Any, ...]]) -> Iterable[tuple[str, float]]:
            encode, context = self.lm.tokenizer.encode_text, self.lm.config.context_length
            for key, (text,) in missing.items():
                windows = list(rolling(encode(text), front, context))
                yield key, sum(one.logprob for one in self.scorer(windows))

        return self._answers("loglikelihood_rolling", requests, ask)

    def generate_until(self, requests: Sequence[Asked]) -> list[str]:
        """An answer to each context, up to a stop string, greedy unless a task asks for drawn ones. Raises
        InvalidRequest for settings that mean nothing here."""

        def ask(missing: dict[str, tuple[Any, ...]]) -> Iterable[tuple[str, str]]:
            alike: dict[str, list[str]] = {}
            for key, (_, settings) in missing.items():
                alike.setdefault(key_of("settings", settings), []).append(key)
            for keys in alike.values():
                yield from self._generate({key: missing[key] for key in keys})

        return self._answers("generate_until", requests, ask)

    def _generate(self, asked: dict[str, tuple[Any, ...]]) -> Iterable[tuple[str, str]]:
        """Answers contexts with equal settings, several at once, as they end. Drawn answers have a seed each."""
        tokens, options = generation_options(next(iter(asked.values()))[1])
        options |= self.options
        keys = list(asked)
        prompts = [self._prompt(asked[key][0], tokens) for key in keys]
        if "temperature" not in options:
            done = self.lm.batch(prompts, tokens, ordered=False, **cast(Options, options))
            yield from ((keys[at], completion.text) for at, completion in done)
            return
        for key, prompt in zip(keys, prompts, strict=True):
            drawn = {**options, "seed": seed_of(self.seed, key)}
            yield key, self.lm.generate(prompt, tokens, **cast(Options, drawn)).text

    def _answers(
        self,
        kind: str,
        requests: Sequence[Asked],
        ask: Callable[[dict[str, tuple[Any, ...]]], Iterable[tuple[str, Any]]],
    ) -> list[Any]:
        """The answers in the order of the requests: those that are remembered, and what `ask` finds of the others."""
        keys = names_of(kind, requests)
        asked = {key: one.args for key, one in zip(keys, requests, strict=True)}
        missing = {key: args for key, args in asked.items() if key not in self.remembered.answers}
        before = len(asked) - len(missing)
        computed, _, shorter = self.counts
        self.counts = Counts(computed, self.counts.remembered + before, shorter)
        for number, (key, answer) in enumerate(ask(missing) if missing else (), 1):
            self.remembered.add(key, answer)
            self.counts = self.counts._replace(computed=computed + number)
            if self.progress:
                self.progress(number, len(missing))
        self.scorer.close()
        return [self.remembered.answers[key] for key in keys]

    def _ending(self, context: str, ending: str) -> Ending:
        """A context and what follows as ids, cut to what the model reads."""
        chat = self._chats.get(context)
        whole = chat_ending(self.lm, *chat, ending) if chat else text_ending(self.lm.tokenizer, context, ending)
        return self._shorter(whole, cut(whole, self.lm.config.context_length))

    def _prompt(self, context: str, tokens: int) -> list[int]:
        """The ids of a prompt that leaves room for so many tokens: the last ones of one that is too long."""
        if chat := self._chats.get(context):
            ids = self.lm.chat_prompt(chat[0], **({"goes_on": True} if chat[1] else {}))
        else:
            ids = self.lm.tokenizer.encode(context) or ids_in_front(self.lm.tokenizer)
        room = self.lm.config.context_length - tokens
        if room < 1:
            raise InvalidRequest(f"A task asks for answers of {tokens:,} tokens, and the model's context is "
                                 f"{self.lm.config.context_length:,}.", "Leave this task out of {tasks}.")  # fmt: skip
        return self._shorter(ids, ids[-room:])

    def _shorter(self, whole: Any, rest: Any) -> Any:
        """The rest of a text, which is counted where it is not the whole."""
        if rest != whole:
            self.counts = self.counts._replace(cut=self.counts.cut + 1)
        return rest


def slices(endings: Iterable[tuple[str, Ending]]) -> Iterator[tuple[list[str], list[Ending]]]:
    """Texts with their keys in parts of about SLICE, families whole, each made when it is asked for."""
    keys, part = list[str](), list[Ending]()

    def noted() -> Iterator[Ending]:
        for key, ending in endings:
            keys.append(key)
            yield ending

    for family in families(noted()):
        part += family.endings
        if len(part) >= SLICE:
            yield keys[: len(part)], part
            del keys[: len(part)]
            part = []
    if part:
        yield keys, part


def names_of(kind: str, requests: Sequence[Asked]) -> list[str]:
    """A key for each request: equal ones share an answer, unless answers are drawn."""
    times: dict[str, int] = {}
    keys = []
    for one in requests:
        key = key_of(kind, *one.args)
        times[key] = nth = times.get(key, 0) + 1
        is_drawn = kind == "generate_until" and "temperature" in generation_options(one.args[1])[1]
        keys.append(key_of(kind, *one.args, nth) if nth > 1 and is_drawn else key)
    return keys
