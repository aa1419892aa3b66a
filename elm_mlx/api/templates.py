"""The chat templates of a loaded model: its own by name, and one that the caller gives instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from elm_mlx.errors import BadCheckpoint, ElmError, InvalidRequest
from elm_mlx.store.text_settings import has_template, read_templates
from elm_mlx.text.chat.calls import one_call_a_message
from elm_mlx.text.chat.messages import check_messages
from elm_mlx.text.chat.template import FOR_TOOLS, USUAL, ChatTemplate, choose
from elm_mlx.text.marks import Marks, find_marks
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

T = TypeVar("T")
CALLS: list[dict[str, Any]] = [
    {"id": name, "type": "function", "function": {"name": name, "arguments": {}}}
    for name in ("first_call", "second_call")
]
TWO_CALLS: list[dict[str, Any]] = [{"role": "user", "content": "Go."}, {"role": "assistant", "tool_calls": CALLS}]


class Templates:
    """The chat templates of the model in a directory; `given` is the one that is used instead, if there is one."""

    def __init__(self, directory: Path, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        self._directory, self._settings, self._tokenizer = directory, settings, tokenizer
        self.given: ChatTemplate | None = None
        self._marks: Marks | None = None

    @property
    def are_there(self) -> bool:
        """Whether there is a template, the model's own or a given one."""
        return bool(self.given) or has_template(self._directory, self._settings)

    @cached_property
    def _own(self) -> dict[str, ChatTemplate]:
        """The model's own templates by name."""
        return read_templates(self._directory, self._settings)

    @property
    def _usable(self) -> list[ChatTemplate]:
        """The templates that may be used."""
        # What is wrong with the model's own is said when a chat needs them.
        try:
            usable = [one for name, one in self._own.items() if name in (USUAL, FOR_TOOLS)]
        except BadCheckpoint:
            usable = []
        return usable + ([self.given] if self.given else [])

    @property
    def turn_ends(self) -> frozenset[int]:
        """The ids that end a turn in any template that may be used."""
        return frozenset().union(*(template.turn_ends(self._tokenizer) for template in self._usable))

    @property
    def marks(self) -> Marks:
        """The marks that set parts of an answer apart, in these templates or among the tokens."""
        if self._marks is None:
            self._marks = find_marks(self._tokenizer, (template.source for template in self._usable))
        return self._marks

    def give(self, template: str | Path) -> None:
        """Uses a template by its name or file instead of the model's own. Raises NotFound, BadCheckpoint."""
        self.given = ChatTemplate.from_name(template, self._settings.texts)
        self._marks = None

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The ids of messages by the given template, else by that of the model's own which suits. Where it refuses them
        and one of them has several calls of tools, each call gets a message of its own. Raises InvalidRequest,
        NotFound, BadCheckpoint."""
        template = self.given or choose(self._own, self._directory, variables.get("tools"))
        ids = written(partial(template.encode, tokenizer=self._tokenizer, **variables), messages)
        if not ids:
            raise template.unusable("writes nothing for these messages")
        return ids

    def text(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The text that `prompt` makes ids of. Raises as `prompt`."""
        template = self.given or choose(self._own, self._directory, variables.get("tools"))
        return written(partial(template.render, **variables), messages)

    def takes_several_calls(self) -> bool:
        """Whether the template for tools writes two calls of one message, instead of refusing them."""
        template = self.given or choose(self._own, self._directory, ())
        try:
            shown = template.render(TWO_CALLS, tools=[])
        except ElmError:
            return False
        return all(str(call["id"]) in shown for call in CALLS)

    def refuse_without_tools(self) -> None:
        """Raises InvalidRequest where the template tells the model of no tools, and as `prompt` where there is none."""
        template = self.given or choose(self._own, self._directory, ())
        if not template.shows_tools:
            raise InvalidRequest("The chat template of this model does not show tools to it, so it would call none.",
                                 "Leave the tools out, or give a {chat_template} that shows them.")  # fmt: skip


def written(write: Callable[[Sequence[Mapping[str, Any]]], T], messages: Sequence[Mapping[str, Any]]) -> T:
    """What a template makes of messages. Where it refuses them and one of them has several calls of tools, each call
    gets a message of its own."""
    try:
        return write(messages)
    except InvalidRequest:
        apart = one_call_a_message(check_messages(messages))
        if len(apart) == len(messages):
            raise
        return write(apart)
