"""`elm-mlx chat`: a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli import conversation
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import NO_SYSTEM, load_with_notices, refuse_system
from elm_mlx.cli.generation_options import (
    CACHES,
    CHAT_TEMPLATE,
    MODEL_AND_BITS,
    PLAIN,
    SEED,
    SHOW_CONFIG,
    SPECULATION,
    max_tokens,
    sampling,
)
from elm_mlx.cli.kinds import STOP, TEXT
from elm_mlx.cli.messages import quietable, say, tell, with_flags
from elm_mlx.cli.sections import SectionedCommand
from elm_mlx.cli.show_config import print_config
from elm_mlx.cli.wishes import settle
from elm_mlx.errors import ElmError, InvalidRequest, PromptTooLong

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel, Stream

PROMPT, MORE = "> ", ". "
BLOCK = '"""'  # begins and ends a text of several lines
HELP = {
    "/help": "show this",
    "/system TEXT": "set what the model is told about its role, and begin again",
    "/reset": "forget the conversation",
    "/regen": "answer the last message again",
    "/stats": "show the figures of the last answer",
    "/save FILE": "write the conversation as JSON",
    "/load FILE": "go on with a saved conversation",
    "/exit": "leave, as Ctrl-D does",
}


@click.command(cls=SectionedCommand)
@MODEL_AND_BITS
@click.option("--system", type=TEXT, help="What the model is told about its role.")
@CHAT_TEMPLATE
@sampling()
@SEED
@PLAIN
@max_tokens(default=1024, meaning="Of an answer.")
@STOP
@CACHES
@SPECULATION
@click.option("--json", "as_json", is_flag=True, help="With --show-config: print one JSON object.")
@SHOW_CONFIG
@quietable
def command(
    model: str | None,
    bits: str | None,
    force: bool,
    system: str | None,
    chat_template: str | None,
    as_json: bool,
    show_config: bool,
    **options: Any,
) -> None:
    """Talk to a model. Answers go to standard output as they come; /help lists what may be typed.

    A model with a chat template is asked through it; any other completes what you type and goes on from there.
    A line that ends in a backslash goes on in the next, and three quotes begin and end a longer text. Ctrl-C
    stops an answer, Ctrl-D ends the program.
    """
    if show_config:
        print_config(model, bits, {"chat_template": chat_template, "system": system}, options, as_json)
        return
    settle(refuse_json, {"as_json": as_json}, "as_json")
    prefer_fast_blas()
    lm = load_with_notices(model, bits, force, chat_template, options)
    asked = {"system": system}
    settle(partial(refuse_system, lm), asked, "system")
    if model and not lm.has_chat_template:
        say("This model has no chat template, so it completes what you type. --chat-template gives it one.")
    talk = Chat(lm, asked["system"], options)
    talk.run(read_entries())
    if talk.failure and not sys.stdin.isatty():  # at a terminal a person has seen it
        raise click.exceptions.Exit(talk.failure.exit_code)


def refuse_json(as_json: bool) -> None:
    """Raises InvalidRequest for a conversation as JSON, which is text."""
    if as_json:
        raise InvalidRequest("A conversation is text.", "Leave {as_json} out; it is for {show_config}.")


def read_entries() -> Iterator[str]:
    """Reads what is typed, an entry at a time, until the input ends; with line editing and history at a terminal."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # not built into every Python
            import readline  # noqa: F401
    while True:
        try:
            yield read_entry()
        except EOFError:
            if sys.stdin.isatty():
                tell("")  # ends the line, so that the shell's prompt begins one
            return
        except KeyboardInterrupt:
            end_line()  # Ctrl-C at the prompt drops the line
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                "What is typed is not UTF-8 text. Convert it first, for example with iconv."
            ) from error


def end_line() -> None:
    """Ends the line on which the terminal shows ^C. Another Ctrl-C meanwhile, of someone who presses it twice, means no
    more than the first: it must not end the conversation."""
    with suppress(KeyboardInterrupt):
        tell("")


def read_entry() -> str:
    """Reads one entry: a line, lines joined by backslashes, or what stands between triple quotes."""
    shown = sys.stdin.isatty() and sys.stdout.isatty()
    text = input(PROMPT if shown else "")
    with suppress(EOFError):  # the end of the input ends an unfinished entry, too
        if text.lstrip().startswith(BLOCK):
            text = text.lstrip().removeprefix(BLOCK)
            while not text.rstrip().endswith(BLOCK):
                text += "\n" + input(MORE if shown else "")
            return text.rstrip().removesuffix(BLOCK)
        while text.endswith("\\"):
            text = text[:-1] + "\n"
            text += input(MORE if shown else "")
    return text


class Chat:
    """A conversation: messages for a model with a template, one growing text for any other."""

    def __init__(self, lm: LanguageModel, system: str | None, options: dict[str, Any]) -> None:
        self.lm, self.options = lm, options
        self.messages: list[dict[str, str]] = []
        self.system = system
        self.last: Stream | None = None
        self.failure: ElmError | None = None  # the first one

    def run(self, entries: Iterator[str]) -> None:
        """Answers each entry, until there are no more or one asks to leave. Of those that fail the error is told, and
        the first stays in `failure`."""
        for text in entries:
            if text.strip() in ("/exit", "/quit", "/bye"):
                return
            before = list(self.messages)
            try:
                self.handle(text)
            except ElmError as error:
                self.messages = before  # a message that cannot be answered is dropped
                self.failure = self.failure or error
                anew = " /reset begins a new conversation." if isinstance(error, PromptTooLong) else ""
                tell(f"elm-mlx: {with_flags(error)}{anew}")
            except KeyboardInterrupt:
                self.messages = before  # stopped before there was an answer
                end_line()

    def handle(self, text: str) -> None:
        """Carries out one entry: a command if it begins with /, else a message to answer."""
        name, _, rest = text.strip().partition(" ")
        if name.startswith("/"):
            self.commands().get(name, self.refuse_unknown)(rest.strip())
        elif text.strip():
            self.messages.append({"role": "user", "content": text})
            self.answer()

    def commands(self) -> dict[str, Callable[[str], None]]:
        """The commands that may be typed instead of a message, by name."""
        return {
            "/help": self.show_help,
            "/system": self.set_system,
            "/reset": lambda _: self.messages.clear(),
            "/regen": self.regenerate,
            "/stats": self.show_stats,
            "/save": self.save,
            "/load": self.load,
        }

    def prompt(self) -> list[int]:
        """The ids that the model is given: the messages by its template, or the whole text so far."""
        if not self.lm.has_chat_template:
            return self.lm.tokenizer.encode("".join(message["content"] for message in self.messages))
        told = [{"role": "system", "content": self.system}] if self.system else []
        return self.lm.chat_prompt([*told, *self.messages])

    def answer(self) -> None:
        """Prints the answer to the last message as it comes. Ctrl-C stops it: what came stays as the answer. Raises
        KeyboardInterrupt where nothing came."""
        prompt = self.prompt()
        stream = self.lm.stream(prompt, **self.options)
        is_whole = print_pieces(stream)
        if not (is_whole or stream.completion.tokens):
            raise KeyboardInterrupt
        self.last = stream
        print()
        self.messages.append({"role": "assistant", "content": self.answer_text(prompt, stream.completion)})
        if is_whole and self.lm.has_chat_template and stream.completion.finish_reason == "length":
            tell("The answer was cut at its length; --max-tokens allows for longer ones.")

    def answer_text(self, prompt: list[int], done: Completion) -> str:
        """The text of an answer; where that continues the prompt's text, with the blank that may stand between them."""
        if self.lm.has_chat_template:
            return done.text
        decode = self.lm.tokenizer.decode
        cut = len(decode(done.tokens)) - len(done.text)  # characters of a stop string, and after it
        text = decode([*prompt, *done.tokens])
        return text[: len(text) - cut].removeprefix(decode(prompt))

    def refuse_unknown(self, _: str) -> None:
        raise InvalidRequest("There is no such command; /help lists them.")

    def show_help(self, _: str) -> None:
        for name, meaning in HELP.items():
            tell(f"{name:<14} {meaning}")

    def set_system(self, text: str) -> None:
        if not self.lm.has_chat_template:
            raise InvalidRequest(NO_SYSTEM)
        self.system = text or None
        self.messages.clear()

    def regenerate(self, _: str) -> None:
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise InvalidRequest("There is no message to answer yet.")
        self.answer()

    def show_stats(self, _: str) -> None:
        if self.last is None:
            raise InvalidRequest("There is no answer yet, and so there are no figures.")
        tell(str(self.last.completion.stats))

    def save(self, name: str) -> None:
        """Writes the conversation as JSON. Raises InvalidRequest without a name, and as `conversation.save`."""
        if not name:
            raise InvalidRequest("Give a file: /save FILE.")
        conversation.save(name, self.system, self.messages)
        tell(f"Saved to {name}.")

    def load(self, name: str) -> None:
        """Goes on with a conversation that `save` wrote. Raises InvalidRequest without a name, and as
        `conversation.load`."""
        if not name:
            raise InvalidRequest("Give a file: /load FILE.")
        self.system, self.messages = conversation.load(name)
        tell(f"{len(self.messages)} messages loaded.")


def print_pieces(stream: Stream) -> bool:
    """Prints an answer as it comes; returns whether it came to its end, and was not stopped by Ctrl-C."""
    try:
        for piece in stream:
            print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        return False
    except ElmError:
        if stream.completion.text:
            print()  # what came stays, and the error begins a line
        raise
    finally:
        stream.close()
    return True
