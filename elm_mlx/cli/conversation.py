"""A conversation at the terminal: its messages and answers, and the commands that may be typed between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from elm_mlx.cli.chat_files import file_path, read_schema, read_tools
from elm_mlx.cli.chat_session import open_session, print_pieces
from elm_mlx.cli.entries import end_line
from elm_mlx.cli.find import NO_SYSTEM
from elm_mlx.cli.messages import tell, with_flags
from elm_mlx.errors import ElmError, InvalidRequest, PromptTooLong

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel, SessionStream

HELP = {
    "/help": "show this",
    "/system TEXT": "set the system message, and begin again",
    "/reset": "forget the conversation",
    "/regen": "answer the last message again",
    "/stats": "show the figures of the last answer",
    "/save FILE": "write the conversation as JSON",
    "/load FILE": "continue a saved conversation",
    "/tools FILE": "offer the tools in a JSON file to the model; you type their results (off: no tools)",
    "/schema FILE": "hold answers to the JSON schema in a file (off: any text)",
    "/exit": "leave, as Ctrl-D does",
}


class Chat:
    """A conversation as a session: messages for a model with a template, one growing text for any other."""

    def __init__(self, lm: LanguageModel, system: str | None, options: dict[str, Any]) -> None:
        self.lm, self.options = lm, options
        self.tools: list[Any] = []
        self.last: SessionStream | None = None
        self.failure: ElmError | None = None  # the first one
        self.begin(system, [])

    def begin(self, system: str | None, messages: list[Any]) -> None:
        """Goes on after these messages, in a new session."""
        told = [{"role": "system", "content": system}] if system else []
        self.session = open_session(self.lm, [*told, *messages], self.tools)
        self.system = system

    @property
    def messages(self) -> list[Any]:
        """What was said so far, without the system message."""
        return self.session.transcript[bool(self.system) :]

    def run(self, entries: Iterator[str]) -> None:
        """Answers each entry, until there are no more or one asks to leave. Of those that fail the error is told, and
        the first stays in `failure`."""
        for text in entries:
            if text.strip() in ("/exit", "/quit", "/bye"):
                return
            try:
                self.handle(text)  # where it fails, the conversation stays as it was
            except ElmError as error:
                self.failure = self.failure or error
                anew = " /reset begins a new conversation." if isinstance(error, PromptTooLong) else ""
                tell(f"elm-mlx: {with_flags(error)}{anew}")
            except KeyboardInterrupt:
                end_line()

    def handle(self, text: str) -> None:
        """Carries out one entry: a command if it begins with /, else a message to answer, or the result of a call."""
        name, _, rest = text.strip().partition(" ")
        if name.startswith("/"):
            self.commands().get(name, self.refuse_unknown)(rest.strip())
        elif calls := self.session.pending_calls:
            self.session.add_results({calls[0].id: text})
            if not self.show_call():
                self.answer(None)
        elif text.strip():
            self.answer(text)

    def commands(self) -> dict[str, Callable[[str], None]]:
        """The commands that may be typed instead of a message, by name."""
        return {
            "/help": self.show_help,
            "/system": self.set_system,
            "/reset": lambda _: self.begin(self.system, []),
            "/regen": self.regenerate,
            "/stats": self.show_stats,
            "/save": self.save,
            "/load": self.load,
            "/tools": self.set_tools,
            "/schema": self.set_schema,
        }

    def answer(self, text: str | None) -> None:
        """Prints the answer to a message (None: to the last one) as it comes. Ctrl-C stops it: what came stays as the
        answer. Raises KeyboardInterrupt where nothing came."""
        choice = "none" if self.tools and self.options.get("schema") else "auto"  # a form leaves no room for calls
        stream = self.session.stream(text, tool_choice=choice, **self.options)
        is_whole = print_pieces(stream)
        self.last = stream
        print()
        if is_whole and self.lm.has_chat_template and stream.completion.finish_reason == "length":
            tell("The answer was cut off; --max-tokens allows longer ones.")
        self.read_ahead()
        self.show_call()

    def read_ahead(self) -> None:
        """Lets the model read what the next turn begins with, while somebody types."""
        from elm_mlx.api.session import HELD  # here, as --help needs no MLX

        if not any(self.options.get(name) for name in HELD):  # with them it would be read another way
            with suppress(ElmError):  # what is wrong with the next turn is said there
                self.session.prewarm()

    def show_call(self) -> bool:
        """Shows the next call that waits for its result, and returns whether there is one."""
        calls = self.session.pending_calls
        if calls:
            arguments = json.dumps(dict(calls[0].arguments), ensure_ascii=False)
            tell(f"The model calls {calls[0].name} with {arguments}. Type the result.")
        return bool(calls)

    def refuse_unknown(self, _: str) -> None:
        raise InvalidRequest("There is no such command; /help lists them.")

    def show_help(self, _: str) -> None:
        for name, meaning in HELP.items():
            tell(f"{name:<14} {meaning}")

    def set_system(self, text: str) -> None:
        if not self.lm.has_chat_template:
            raise InvalidRequest(NO_SYSTEM)
        self.begin(text or None, [])

    def set_tools(self, name: str) -> None:
        """Tells the model of the tools in a file from now on; "off" takes them away."""
        if not self.lm.has_chat_template:
            raise InvalidRequest("This model has no chat template, so it can be given no tools.",
                                 "Begin with {chat_template}.")  # fmt: skip
        self.tools, before = [] if name == "off" else read_tools(name), self.tools
        try:
            self.begin(self.system, self.messages)
        except ElmError:
            self.tools = before
            raise
        tell(f"{len(self.tools)} tools.")

    def set_schema(self, name: str) -> None:
        """Gives the next answers the form of the JSON schema in a file; "off" takes it away."""
        self.options = {**self.options, "schema": None if name == "off" else read_schema(name)}

    def regenerate(self, _: str) -> None:
        """Answers the last message again; the answer before stays where that fails."""
        before = self.session.transcript
        asked = [place for place, message in enumerate(before, 1) if message["role"] == "user"]
        if not asked:
            raise InvalidRequest("There is no message to answer yet. Type one.")
        self.session.transcript = before[: asked[-1]]
        try:
            self.answer(None)
        except BaseException:
            self.session.transcript = before
            raise

    def show_stats(self, _: str) -> None:
        if self.last is None:
            raise InvalidRequest("There is no answer yet, so there are no figures. Type a message first.")
        tell(str(self.last.completion.stats))

    def save(self, name: str) -> None:
        """Writes the conversation as JSON. Raises InvalidRequest without a name, and as `Session.save`."""
        if not name:
            raise InvalidRequest("Give a file: /save FILE.")
        self.session.save(file_path(name))
        tell(f"Saved to {name}.")

    def load(self, name: str) -> None:
        """Goes on with a conversation that `save` wrote. Raises InvalidRequest without a name, and as
        `read_transcript`."""
        from elm_mlx.api.transcript import read_transcript  # here, as --help needs no MLX

        if not name:
            raise InvalidRequest("Give a file: /load FILE.")
        found = read_transcript(file_path(name))
        is_told = bool(found) and found[0]["role"] == "system"
        self.begin(found[0]["content"] if is_told else None, found[is_told:])
        tell(f"{len(self.messages)} messages loaded.")
        self.show_call()
