"""`elm-mlx chat`: a conversation at the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.find import BITS, MODEL, TEMPLATE_HELP, load_with_notices
from elm_mlx.cli.messages import quietable, say, tell, with_flags
from elm_mlx.errors import ElmError, InvalidRequest, PromptTooLong
from elm_mlx.files import MAX_LARGE_BYTES, disk_errors, read_bytes, write_json

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


@click.command()
@MODEL
@click.option("--bits", type=BITS, help="The variant of a named model to run; made if it is not there.")
@click.option("--system", help="What the model is told about its role.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Of an answer.")
@click.option("--temperature", "--temp", type=click.FloatRange(min=0), help="0 is greedy. Default: the model's own.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Keep the likeliest tokens of this share.")
@click.option("--seed", type=int, help="The same seed gives the same answers.")
@click.option("--chat-template", metavar="FILE", help=TEMPLATE_HELP)
@click.option("--force", is_flag=True, help="Load it even if the memory seems too small.")
@quietable
def command(
    model: str | None, bits: str | None, system: str | None, force: bool, chat_template: str | None, **options: Any
) -> None:
    """Talk to a model. Answers go to standard output as they come; /help lists what may be typed.

    A model with a chat template is asked through it; any other completes what you type and goes on from there.
    A line that ends in a backslash goes on in the next, and three quotes begin and end a longer text. Ctrl-C
    stops an answer, Ctrl-D ends the program.
    """
    prefer_fast_blas()
    lm = load_with_notices(model, bits, force, chat_template)
    if model and not lm.has_chat_template:
        say("This model has no chat template, so it completes what you type. --chat-template gives it one.")
    Chat(lm, system, options).run(read_entries())


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
            tell("")  # Ctrl-C at the prompt drops the line
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                "What is typed is not UTF-8 text. Convert it first, for example with iconv."
            ) from error


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


def expand_home(name: str) -> Path:
    """The path of a file whose name may begin with ~."""
    return Path(os.path.expanduser(name))  # noqa: PTH111, which raises for an unknown user


class Chat:
    """A conversation: messages for a model with a template, one growing text for any other."""

    def __init__(self, lm: LanguageModel, system: str | None, options: dict[str, Any]) -> None:
        self.lm, self.options = lm, options
        self.messages: list[dict[str, str]] = []
        self.system = system
        self.last: Stream | None = None
        if system and not lm.has_chat_template:
            raise InvalidRequest("This model has no chat template, so it can be given no system message.")

    def run(self, entries: Iterator[str]) -> None:
        """Answers each entry, until there are no more or one asks to leave."""
        for text in entries:
            if text.strip() in ("/exit", "/quit", "/bye"):
                return
            before = list(self.messages)
            try:
                self.handle(text)
            except PromptTooLong as error:
                self.messages = before
                tell(f"elm-mlx: {with_flags(error)} /reset begins a new conversation.")
            except ElmError as error:
                self.messages = before  # a message that cannot be answered is dropped
                tell(f"elm-mlx: {with_flags(error)}")
            except KeyboardInterrupt:
                self.messages = before  # stopped before there was an answer
                tell("")

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
        """Prints the answer to the last message as it comes; Ctrl-C stops it and keeps what came."""
        prompt = self.prompt()
        self.last = stream = self.lm.stream(prompt, **self.options)
        with suppress(KeyboardInterrupt):
            for piece in stream:
                print(piece.text, end="", flush=True)
        stream.close()
        print()
        self.messages.append({"role": "assistant", "content": self.answer_text(prompt, stream.completion)})
        if self.lm.has_chat_template and stream.completion.finish_reason == "length":
            tell("The answer was cut at its length; --max-tokens allows for longer ones.")

    def answer_text(self, prompt: list[int], done: Completion) -> str:
        """The text of an answer; where that continues the prompt's text, with the blank that may stand between them."""
        if self.lm.has_chat_template:
            return done.text
        decode = self.lm.tokenizer.decode
        return decode([*prompt, *done.tokens]).removeprefix(decode(prompt))

    def refuse_unknown(self, _: str) -> None:
        tell("There is no such command; /help lists them.")

    def show_help(self, _: str) -> None:
        for name, meaning in HELP.items():
            tell(f"{name:<14} {meaning}")

    def set_system(self, text: str) -> None:
        if not self.lm.has_chat_template:
            raise InvalidRequest("This model has no chat template, so it can be given no system message.")
        self.system = text or None
        self.messages.clear()

    def regenerate(self, _: str) -> None:
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise InvalidRequest("There is nothing to answer again.")
        self.answer()

    def show_stats(self, _: str) -> None:
        if self.last is None:
            raise InvalidRequest("There is no answer yet.")
        tell(str(self.last.completion.stats))

    def save(self, name: str) -> None:
        """Writes the conversation as JSON. Raises InvalidRequest without a name, ElmError if it cannot be written."""
        if not name:
            raise InvalidRequest("Give a file: /save FILE.")
        with disk_errors(f"{name} cannot be written", "Name another file."):
            write_json(expand_home(name), {"system": self.system, "messages": self.messages})
        tell(f"Saved to {name}.")

    def load(self, name: str) -> None:
        """Continues a conversation that `save` wrote. Raises InvalidRequest for other files, ElmError if unreadable."""
        if not name:
            raise InvalidRequest("Give a file: /load FILE.")
        path = expand_home(name)
        try:
            with disk_errors(f"{name} cannot be read", "Name another file."):
                path.stat()  # raises where there is none, with the system's reason
                saved = json.loads(read_bytes(path, MAX_LARGE_BYTES))
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in saved["messages"]]
            system = None if saved.get("system") is None else str(saved["system"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidRequest(f"{name} is no conversation that /save wrote.") from error
        self.messages, self.system = messages, system
        tell(f"{len(messages)} messages loaded.")
