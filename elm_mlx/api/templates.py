"""The chat templates of a loaded model: its own by name, and one that the caller gives instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.store.text_settings import has_template, read_templates
from elm_mlx.text.chat.calls import one_call_a_message, with_short_ids
from elm_mlx.text.chat.messages import check_messages
from elm_mlx.text.chat.template import FOR_TOOLS, USUAL, ChatTemplate, choose
from elm_mlx.text.marks import Marks, find_marks
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer
from elm_mlx.text.tools.wordings import Wording, wording_mentioned

T = TypeVar("T")


class Templates:
    """The chat templates of the model in a directory; `given` is the one that is used instead, if there is one."""

    def __init__(self, directory: Path, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        self._directory, self._settings, self._tokenizer = directory, settings, tokenizer
        self.given: ChatTemplate | None = None
        self._marks: Marks | None = None
        self._call_marks: Marks | None = None

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
        """The templates that may be used, the one for tools first."""
        # What is wrong with the model's own is said when a chat needs them.
        try:
            usable = [self._own[name] for name in (FOR_TOOLS, USUAL) if name in self._own]
        except BadCheckpoint:
            usable = []
        return ([self.given] if self.given else []) + usable

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

    @property
    def call_marks(self) -> Marks:
        """The marks of an answer's parts, and those of calls of tools, which a template shows by writing a call: that
        takes a moment."""
        if self._call_marks is None:
            wording = wording_of(self._usable, self._tokenizer)
            self._call_marks = find_marks(self._tokenizer, (template.source for template in self._usable), wording)
        return self._call_marks

    def give(self, template: str | Path) -> None:
        """Uses a template by its name or file instead of the model's own. Raises NotFound, BadCheckpoint."""
        self.given = ChatTemplate.from_name(template, self._settings.texts)
        self._marks = self._call_marks = None

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
        return (self.given or choose(self._own, self._directory, ())).takes_several_calls()

    def refuse_without_tools(self) -> None:
        """Raises InvalidRequest where the template tells the model of no tools, and as `prompt` where there is none."""
        template = self.given or choose(self._own, self._directory, ())
        if not template.shows_tools:
            raise InvalidRequest("The chat template of this model does not show tools to it, so it would call none.",
                                 "Leave the tools out, or give a {chat_template} that shows them.")  # fmt: skip


def wording_of(templates: Sequence[ChatTemplate], tokenizer: Tokenizer) -> Wording:
    """How a model words its calls: as the first of its templates does that writes one in words that are known; where
    none does, as those whose marks the templates or the tokens mention."""
    if found := next((template.wording for template in templates if template.wording), None):
        return found
    return wording_mentioned("\0".join([*(template.source for template in templates), *tokenizer.added_ids]))


def written(write: Callable[[Sequence[Mapping[str, Any]]], T], messages: Sequence[Mapping[str, Any]]) -> T:
    """What a template makes of messages. Where it refuses them, their calls are said otherwise: with short ids, or each
    of several in one message in a message of its own. Raises as it did for the messages as they are."""
    try:
        return write(messages)
    except InvalidRequest as error:
        for other in otherwise(check_messages(messages)):
            try:
                return write(other)
            except InvalidRequest:
                continue
        raise error


def otherwise(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages with their calls said in other ways, where that changes them."""
    apart, short = one_call_a_message(messages), with_short_ids(messages)
    if short != messages:
        yield short
    if len(apart) != len(messages):
        yield apart
        yield with_short_ids(apart)
