"""One random case: what transformers and elm-mlx make of it, and a description by which it can be replayed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from helpers.wild.chats import CONTROL, ORDINARY, PLAIN, SOFT, Chat, Writer, fragments, random_chat, random_tools
from helpers.wild.directory import Directory, random_directory
from helpers.wild.spelling import public
from sides import NO_ANSWER, NO_PLAIN_TEXT, REFUSED, Ours, Theirs, ours_of, theirs_of


@dataclass(frozen=True)
class Difference:
    """A case in which the two differ: `what` was compared, on which directory and chat (or text), with what result."""

    what: str
    directory: Directory
    given: Any
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        files = public(self.directory.files)
        tokenizer = files.pop("tokenizer.json")
        model = {key: value for key, value in tokenizer.pop("model").items() if key not in ("vocab", "merges")}
        shown = {"model": model, "tokenizer.json": tokenizer, **files, "given": self.given}
        lines = [f"{name}: {value!r}" for name, value in shown.items() if name != "config.json"]
        return "\n".join([self.what, *lines, f"theirs: {self.theirs}", f"ours:   {self.ours}"])


class Comparison:
    """A directory in both spellings, with transformers on each and elm-mlx on the public one."""

    def __init__(self, directory: Directory, path: Path) -> None:
        self.directory = directory
        published = directory.write(path / "public", published=True)
        self.theirs = theirs_of(lambda: Theirs(published))
        self.ours = ours_of(lambda: Ours(published))
        self.hidden: Any = REFUSED
        if self.theirs != REFUSED:
            self.hidden = Theirs(directory.write(path / "private", published=False))

    def loading(self) -> Difference | None:
        """The difference that there is if only transformers can load the directory."""
        if self.theirs != REFUSED and self.ours == REFUSED:
            return Difference("loading", self.directory, None, "loads", REFUSED)
        return None

    def random_cases(self, rng: Random, count: int) -> Iterator[tuple[Chat, str]]:
        """Random conversations, each with a text."""
        for _ in range(count):
            kind, words = rng.choice([PLAIN, PLAIN, PLAIN, ORDINARY, SOFT, CONTROL, CONTROL]), self._writer(rng, PLAIN)
            tools = random_tools(rng, words)
            yield random_chat(rng, kind, self._writer(rng, kind, tools), tools), words.text()

    def _words(self, rng: Random, kind: str, tools: Any) -> tuple[list[str], list[str]]:
        """What the texts of a chat of this kind hold, and what they must not."""
        marks, missed = self.theirs.marks(tools) if kind != PLAIN else (set(), set())
        special = [token for token, is_special in self.theirs.added.items() if is_special]
        others = [token for token in self.theirs.added if token not in special]
        hidden = set(self.directory.control)  # those whose private spelling differs
        if self.directory.files["tokenizer.json"]["model"].get("ignore_merges"):
            hidden -= {"<unk>"}  # may be a word of the vocabulary, and no control
        soft = [token for token in others if token in marks]
        words = [token for token in others if token not in marks | missed]
        words = [token for token in words if not any(one in token for one in special + soft)]
        loose, forged = [t for t in others if t not in soft + words], [t for t in special + soft if t not in hidden]
        return {
            PLAIN: ([], [*special, *others]),
            ORDINARY: (words, [*special, *soft, *loose]),
            SOFT: ([t for t in soft if t in hidden], [*special, *words, *loose, *forged]),
            CONTROL: (fragments(rng, [t for t in special if t in hidden]), [*others, *forged]),
        }[kind]

    def _writer(self, rng: Random, kind: str, tools: Any = None) -> Writer:
        """A writer of texts for a chat of this kind."""
        planted, forbidden = self._words(rng, kind, tools)
        ends = (token[place:] for token in self.theirs.added for place in range(1, len(token)))
        return Writer(rng, forbidden, planted, {end for end in ends if end.isalpha()})

    def fits(self, chat: Chat) -> bool:
        """Whether the texts of a chat hold only what its kind says."""
        _, forbidden = self._words(Random(0), chat.kind, chat.tools)
        texts = json.dumps(chat.messages, ensure_ascii=False)
        return not any(json.dumps(word, ensure_ascii=False)[1:-1] in texts for word in forbidden if word)

    def difference(self, chat: Chat, text: str) -> Difference | None:
        """The first difference in a case: the chat as text, as ids, the text as ids."""
        return (
            self.compare(f"text of a {chat.kind} chat", chat, lambda side: side.chat_text(chat))
            or self._ids(chat)
            or self.compare("ids of a text", text, lambda side: side.text_ids(text))
        )

    def _ids(self, chat: Chat) -> Difference | None:
        """Compares with what transformers makes of the chat; where a caller writes control tokens, in the spelling in
        which they are none."""
        theirs = theirs_of(lambda: self._reference(chat))
        ours = ours_of(lambda: self.ours.chat_ids(chat))
        if theirs in (ours, NO_ANSWER) or (ours == NO_PLAIN_TEXT and self.theirs.may_make_control_of_plain_text(chat)):
            return None
        return Difference(f"ids of a {chat.kind} chat", self.directory, chat, theirs, ours)

    def _reference(self, chat: Chat) -> list[int]:
        """The ids that a chat should have."""
        return self.theirs.chat_ids(chat) if chat.kind in (PLAIN, ORDINARY) else self.hidden.safe_ids(chat)

    def compare(self, what: str, given: Any, ask: Callable[[Any], Any]) -> Difference | None:
        """The difference between what both sides answer."""
        theirs, ours = theirs_of(lambda: ask(self.theirs)), ours_of(lambda: ask(self.ours))
        return None if theirs in (ours, NO_ANSWER) else Difference(what, self.directory, given, theirs, ours)


@contextmanager
def comparison(directory: Directory) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as path:
        yield Comparison(directory, Path(path))


def cases(seed: int, chats: int = 8) -> Iterator[Difference | None]:
    """Compares the random directory of `seed` on as many random cases; None for each that is equal."""
    rng = Random(seed)
    with comparison(random_directory(rng)) as pair:
        if pair.theirs == REFUSED or pair.ours == REFUSED:
            yield from filter(None, [pair.loading()])
            return
        for chat, text in pair.random_cases(rng, chats):
            yield pair.difference(chat, text)


def replay(seed: int) -> None:
    """Prints the differences of a seed."""
    for difference in filter(None, cases(seed)):
        print(difference, end="\n\n")
