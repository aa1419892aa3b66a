"""The blank between a text and what goes on with it: decoding leaves it out at the beginning of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from elm_mlx.api import Completion


class Lead:
    """Puts the blank back that stands between a prompt and an answer which goes on with it, piece by piece."""

    def __init__(self, texts: TokenTexts, is_needed: bool) -> None:
        """`is_needed` says whether there is a text before the answer."""
        self._texts, self._is_due = texts, is_needed
        self._is_first, self._blank = True, ""

    def with_blank(self, token: int, text: str) -> str:
        """The next text of an answer, which came with this token, perhaps with a blank before it."""
        if not self._is_due:
            return text
        if self._is_first:
            self._is_first = False
            self._blank = " " if self._texts.loses_blank(token) else ""
        if not text:
            return text
        self._is_due = False
        return self._blank + text


def with_lead(text: str, completion: Completion, texts: TokenTexts, is_needed: bool) -> str:
    """A text with which a whole answer begins, with its blank where one `is_needed`."""
    return Lead(texts, is_needed).with_blank(completion.tokens[0], text) if completion.tokens else text


def has_text(prompt: str | Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether a prompt shows any text before the answer."""
    return bool(prompt) if isinstance(prompt, str) else bool(tokenizer.decode(prompt))


def continues_text(ask: Ask) -> bool:
    """Whether the answers to a chat go on with a text, that of its last message."""
    return ask.goes_on and bool(ask.messages and ask.messages[-1].get("content"))
