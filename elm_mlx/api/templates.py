"""The chat templates of a loaded model: its own by name, and one that the caller gives instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint
from elm_mlx.store.text_settings import has_template, read_templates
from elm_mlx.text.chat.template import FOR_TOOLS, USUAL, ChatTemplate, choose
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer


class Templates:
    """The chat templates of the model in a directory; `given` is the one that is used instead, if there is one."""

    def __init__(self, directory: Path, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        self._directory, self._settings, self._tokenizer = directory, settings, tokenizer
        self.given: ChatTemplate | None = None

    @property
    def are_there(self) -> bool:
        """Whether there is a template, the model's own or a given one."""
        return bool(self.given) or has_template(self._directory, self._settings)

    @cached_property
    def _own(self) -> dict[str, ChatTemplate]:
        """The model's own templates by name."""
        return read_templates(self._directory, self._settings)

    @property
    def turn_ends(self) -> frozenset[int]:
        """The ids that end a turn in any template that may be used."""
        # What is wrong with the model's own is said when a chat needs them.
        try:
            usable = [one for name, one in self._own.items() if name in (USUAL, FOR_TOOLS)]
        except BadCheckpoint:
            usable = []
        usable += [self.given] if self.given else []
        return frozenset().union(*(template.turn_ends(self._tokenizer) for template in usable))

    def give(self, template: str | Path) -> None:
        """Uses a template by its name or file instead of the model's own. Raises NotFound, BadCheckpoint."""
        self.given = ChatTemplate.from_name(template, self._settings.texts)

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The ids of messages by the given template, else by that of the model's own which suits. Raises
        InvalidRequest, NotFound, BadCheckpoint."""
        template = self.given or choose(self._own, self._directory, variables.get("tools"))
        if not (ids := template.encode(messages, self._tokenizer, **variables)):
            raise template.unusable("writes nothing for these messages")
        return ids
