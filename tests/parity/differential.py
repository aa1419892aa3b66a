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

    seed: int
    number: int
    what: str
    theirs: Any
    ours: Any
    directory: Directory
    given: Any

    def __str__(self) -> str:
        files = public(self.directory.files)
        model = files["tokenizer.json"].pop("model")
        brief = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
        lines = [f"seed {self.seed}, case {self.number}: {self.what}", f"model: {brief}"]
        lines += [f"{name}: {json.dumps(content, ensure_ascii=False)}" for name, content in files.items()
                  if name != "config.json"]  # fmt: skip
        return "\n".join([*lines, f"given: {self.given}", f"theirs: {self.theirs}", f"ours:   {self.ours}"])


def outcome(call: Callable[[], Any], refusal: type[Exception]) -> Any:
    """What a call returns, or "refused"."""
    try:
        return call()
    except refusal as error:
        return "refused"


class Comparison:
    """The directory of a seed in both spellings, with transformers on each and elm-mlx on the public one."""

    def __init__(self, seed: int, path: Path) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.directory = random_directory(self.rng)
        public_path = self.directory.write(path / "public", published=True)
        self.theirs = outcome(lambda: Theirs(public_path), Exception)
        self.ours = outcome(lambda: Ours(public_path), ElmError)
        self.hidden: Any = "refused"
        if self.theirs != "refused":
            self.hidden = Theirs(self.directory.write(path / "private", published=False))

    def differences(self, chats: int) -> Iterator[Difference | None]:
        """Compares the directory, `chats` conversations and as many texts: None for each case that is equal."""
        if self.theirs == "refused" or self.ours == "refused":
            if self.ours != self.theirs and self.theirs != "refused":
                yield self.difference(0, "load", None, self.theirs, self.ours)
            return
        for number in range(chats):
            kind = self.rng.choice([PLAIN, PLAIN, PLAIN, ORDINARY, SOFT, CONTROL, CONTROL])
            yield self.case(number, kind)

    def writer(self, kind: str) -> Writer:
        special = [token for token, is_special in self.theirs.added.items() if is_special]
        others = [token for token in self.theirs.added if token not in special]
        marks = set(self.directory.control)
        soft = [token for token in others if token in marks and not any(one in token for one in special)]
        words = [token for token in others if token not in marks]
        control = [token for token in special if token in marks]
        planted = {PLAIN: [], ORDINARY: words, SOFT: soft, CONTROL: fragments(self.rng, control)}[kind]
        forbidden = {PLAIN: [*self.theirs.added], ORDINARY: [*special, *soft], SOFT: special + words,
                     CONTROL: [*soft, *(token for token in special if token not in marks)]}[kind]  # fmt: skip
        return Writer(self.rng, forbidden, planted)

    def case(self, number: int, kind: str) -> Difference | None:
        writer = self.writer(kind)
        chat, text = random_chat(self.rng, kind, writer), self.writer(PLAIN).text()
        return (
            self.compare(number, f"text of a {kind} chat", chat, lambda side: side.chat_text(chat))
            or self.compare_ids(number, chat)
            or self.compare(number, "ids of a text", text, lambda side: side.text_ids(text))
        )

    def compare_ids(self, number: int, chat: Chat) -> Difference | None:
        what = f"ids of a {chat.kind} chat"
        reference = self.hidden if chat.kind == CONTROL else self.theirs
        theirs = outcome(lambda: reference.chat_ids(chat), Exception)
        ours = outcome(lambda: self.ours.chat_ids(chat), ElmError)
        if theirs != ours and chat.kind == CONTROL and "refused" not in (theirs, ours):
            if not self.hidden.is_written_whole(chat):
                control = {i for i, token in self.hidden.tokenizer.added_tokens_decoder.items() if token.special}
                theirs, ours = ([i for i in ids if i in control] for ids in (theirs, ours))
                what = f"control {what}"
        return None if theirs == ours else self.difference(number, what, chat, theirs, ours)

    def compare(self, number: int, what: str, given: Any, ask: Callable[[Any], Any]) -> Difference | None:
        theirs, ours = outcome(lambda: ask(self.theirs), Exception), outcome(lambda: ask(self.ours), ElmError)
        return None if theirs == ours else self.difference(number, what, given, theirs, ours)

    def difference(self, number: int, what: str, given: Any, theirs: Any, ours: Any) -> Difference:
        return Difference(self.seed, number, what, theirs, ours, self.directory, given)


@contextmanager
def comparison(seed: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as path:
        yield Comparison(seed, Path(path))


def replay(seed: int, chats: int = 8) -> None:
    """Prints every difference of a seed."""
    with comparison(seed) as pair:
        for one in filter(None, pair.differences(chats)):
            print(one, end="\n\n")
