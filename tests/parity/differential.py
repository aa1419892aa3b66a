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

import transformers
from helpers.wild.chats import CONTROL, ORDINARY, PLAIN, SOFT, Chat, Writer, fragments, random_chat
from helpers.wild.directory import Directory, random_directory
from helpers.wild.spelling import is_private, public

from elm_mlx.config import config_from_dict
from elm_mlx.errors import ElmError
from elm_mlx.files import optional_json
from elm_mlx.store.load import load_tokenizer
from elm_mlx.text.chat.template import ChatTemplate

transformers.logging.set_verbosity_error()
REFUSED = "refused"


class Ours:
    """elm-mlx on a directory. This is the only place of the differential tests that knows how it is called."""

    def __init__(self, directory: Path) -> None:
        config = config_from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
        self.directory, self.tokenizer = directory, load_tokenizer(directory, config)
        self.settings = optional_json(directory / "tokenizer_config.json")
        self._templates: dict[bool, ChatTemplate] = {}

    def template(self, tools: Any) -> ChatTemplate:
        if bool(tools) not in self._templates:
            self._templates[bool(tools)] = ChatTemplate.from_directory(
                self.directory, self.settings, with_tools=bool(tools)
            )
        return self._templates[bool(tools)]

    def chat_ids(self, chat: Chat) -> list[int]:
        return self.template(chat.tools).encode(chat.messages, self.tokenizer, tools=chat.tools, **chat.variables)

    def chat_text(self, chat: Chat) -> str:
        return self.template(chat.tools).render(chat.messages, tools=chat.tools, **chat.variables)

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


class Theirs:
    """transformers on a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    @property
    def added(self) -> dict[str, bool]:
        """Every added token, and whether it is special."""
        return {token.content: token.special for token in self.tokenizer.added_tokens_decoder.values()}

    def chat_ids(self, chat: Chat) -> list[int]:
        return self.tokenizer.apply_chat_template(
            chat.messages, tools=chat.tools, tokenize=True, return_dict=False, **chat.variables
        )

    def chat_text(self, chat: Chat) -> str:
        return self.tokenizer.apply_chat_template(chat.messages, tools=chat.tools, tokenize=False, **chat.variables)

    def text_ids(self, text: str) -> list[int]:
        """The ids of a prompt, BOS in front by our rule: as add_bos_token says, else as the tokenizer itself does."""
        settings = json.loads((self.directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        bos = config["bos_token_id"] if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        adds = self.tokenizer("a").input_ids[:1] == [bos]
        wanted = settings["add_bos_token"] if isinstance(settings.get("add_bos_token"), bool) else adds
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return [bos, *ids] if wanted and bos is not None else ids

    def is_written_whole(self, chat: Chat) -> bool:
        """Whether every private letter of the prompt is part of an added token, so that no spelling shows in its ids."""
        prompt = self.chat_text(chat)
        found = self.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False)
        ids = self.tokenizer.added_tokens_decoder
        seen = {place for token, (start, end) in zip(found.ids, found.offsets, strict=True)
                if token in ids for place in range(start, end)}  # fmt: skip
        return all(place in seen for place, letter in enumerate(prompt) if is_private(letter))


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


def ours_of(call: Callable[[], Any]) -> Any:
    """What a call of elm-mlx returns, or REFUSED where it raises one of its own errors."""
    try:
        return call()
    except ElmError:
        return REFUSED


def theirs_of(call: Callable[[], Any]) -> Any:
    """What a call of transformers returns, or REFUSED where it fails; its tokenizers can fail with a BaseException."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return REFUSED


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
            kind = rng.choice([PLAIN, PLAIN, PLAIN, ORDINARY, SOFT, CONTROL, CONTROL])
            yield random_chat(rng, kind, self._writer(rng, kind)), self._writer(rng, PLAIN).text()

    def _writer(self, rng: Random, kind: str) -> Writer:
        """A writer of texts for a chat of this kind."""
        special = [token for token, is_special in self.theirs.added.items() if is_special]
        others = [token for token in self.theirs.added if token not in special]
        marked = set(self.directory.control)
        soft = [token for token in others if token in marked and not any(one in token for one in special)]
        words = [token for token in others if token not in marked]
        control, forged = [token for token in special if token in marked], set(special) - marked
        planted, forbidden = {
            PLAIN: ([], [*special, *others]),
            ORDINARY: (words, [*special, *soft]),
            SOFT: (soft, [*special, *words]),
            CONTROL: (fragments(rng, control), [*soft, *sorted(forged)]),
        }[kind]
        return Writer(rng, forbidden, planted)

    def difference(self, chat: Chat, text: str) -> Difference | None:
        """The first difference in a case: the chat as text, as ids, the text as ids."""
        return (
            self._compare(f"text of a {chat.kind} chat", chat, lambda side: side.chat_text(chat))
            or (self._control(chat) if chat.kind == CONTROL else None)
            or (self._compare(f"ids of a {chat.kind} chat", chat, lambda side: side.chat_ids(chat))
                if chat.kind != CONTROL else None)
            or self._compare("ids of a text", text, lambda side: side.text_ids(text))
        )  # fmt: skip

    def _control(self, chat: Chat) -> Difference | None:
        """Compares with what a tokenizer makes of the prompt to which a caller's text cannot look like control. Where
        a token of the template is no token in its place, only the control ids can be compared."""
        theirs, ours = theirs_of(lambda: self.hidden.chat_ids(chat)), ours_of(lambda: self.ours.chat_ids(chat))
        what = "ids of a control chat"
        if REFUSED not in (theirs, ours) and not self.hidden.is_written_whole(chat):
            control = {i for i, token in self.hidden.tokenizer.added_tokens_decoder.items() if token.special}
            theirs, ours = ([i for i in ids if i in control] for ids in (theirs, ours))
            what = "control ids of a control chat"
        return None if theirs == ours else Difference(what, self.directory, chat, theirs, ours)

    def _compare(self, what: str, given: Any, ask: Callable[[Any], Any]) -> Difference | None:
        theirs, ours = theirs_of(lambda: ask(self.theirs)), ours_of(lambda: ask(self.ours))
        return None if theirs == ours else Difference(what, self.directory, given, theirs, ours)


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
