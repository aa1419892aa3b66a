"""A row of data as an Example: which ids it has, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elm_mlx.api.templates import Templates
from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tokenizer import Tokenizer
from elm_mlx.train.examples import Example

FORMS = ("text", "prompt and completion", "messages")


@dataclass(frozen=True)
class RowReader:
    """Makes Examples of rows. Without `mask_prompt` every id counts but the first; with it only those of answers: of
    all of a chat's assistant turns, or of the last one (`last_turn_only`). `end` is the id that ends a text (None: the
    model has none)."""

    tokenizer: Tokenizer
    templates: Templates
    end: int | None
    mask_prompt: bool = False
    last_turn_only: bool = False

    def read(self, row: Mapping[str, Any]) -> Example:
        """The example of a row of text, of prompt and completion, or of messages (with tools); other keys are left
        alone. Raises InvalidRequest for any other row, and for one without a target."""
        if "chosen" in row and "rejected" in row:
            raise InvalidRequest("is a pair of answers.", "Take {loss=dpo} for these.")
        forms = [name for name in ("text", "prompt", "messages") if row.get(name) is not None]
        if len(forms) != 1:
            found = " and ".join(forms) or "none of them"
            raise InvalidRequest(f"has {found}, where one of these belongs: {', '.join(FORMS)}.")
        example = {"text": self._text, "prompt": self._answer, "messages": self._chat}[forms[0]](row)
        if not example.targets:
            raise InvalidRequest("has nothing to learn: none of its tokens counts. Leave it out.")
        return example

    def _text(self, row: Mapping[str, Any]) -> Example:
        """A text from its beginning to its end. Nothing in it is a prompt, so all of it counts."""
        ids = self.tokenizer.encode(text_in(row, "text"))
        return spans(self._ended(ids), [(1, len(ids) + 1)])

    def _answer(self, row: Mapping[str, Any]) -> Example:
        """A prompt and its completion: two turns of a chat where the model has a template, else one text. The prompt
        is tokenized alone, as it is when a model is asked. With "raw" true it is one text anyway."""
        prompt, completion = text_in(row, "prompt"), text_in(row, "completion")
        if self.templates.are_there and row.get("raw") is not True:
            turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
            return self._turns(turns, row.get("tools"))
        front = self.tokenizer.encode(prompt)
        ids = self._ended([*front, *self.tokenizer.encode_inside(completion)])
        return spans(ids, [(len(front) if self.mask_prompt else 1, len(ids))])

    def _chat(self, row: Mapping[str, Any]) -> Example:
        """A chat, as the model's template writes it."""
        if not self.templates.are_there:
            raise InvalidRequest("is a chat, and this model has no chat template.",
                                 "Give a {chat_template}, or write it as prompt and completion.")  # fmt: skip
        if not isinstance(row["messages"], list) or not all(isinstance(one, dict) for one in row["messages"]):
            raise InvalidRequest("has messages that are not a list of objects with role and content. Write them so.")
        return self._turns(row["messages"], row.get("tools"))

    def _turns(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> Example:
        """Messages as ids. With `mask_prompt` those count that follow the start of an assistant's turn, to its end."""
        given = {"tools": tools} if tools else {}
        ids = self.templates.prompt(messages, add_generation_prompt=False, **given)
        if not self.mask_prompt:
            return spans(ids, [(1, len(ids))])
        places = [place for place, one in enumerate(messages) if one.get("role") == "assistant"]
        if not places:
            raise InvalidRequest("has no turn of the assistant, and nothing else counts.",
                                 "Add such a turn, or leave {mask_prompt} out.")  # fmt: skip
        chosen = places[-1:] if self.last_turn_only else places
        return spans(ids, [self._turn(ids, messages, place, given) for place in chosen])

    def _turn(
        self, ids: list[int], messages: Sequence[Mapping[str, Any]], place: int, given: dict[str, Any]
    ) -> tuple[int, int]:
        """(first, end) of the ids of the assistant's turn at a place. Raises InvalidRequest where the template writes a
        turn otherwise once others follow it, or a token belongs to the turn and to what comes before it: nobody could
        say which ids are whose."""
        before = self.templates.prompt(messages[:place], **given) if place else ids[:1]
        to_end = self.templates.prompt(messages[: place + 1], add_generation_prompt=False, **given)
        end = len(to_end) if place + 1 < len(messages) else len(ids)
        if ids[: len(before)] != before or ids[:end] != to_end:
            raise InvalidRequest(
                f"has a turn (number {place + 1}) whose tokens cannot be told from those of others: the chat template "
                "writes a turn otherwise when others follow it, or the turn begins in the middle of a token.",
                "Make a row of each answer, take another {chat_template}, or learn all of a row: leave {mask_prompt} "
                "and {loss=dpo} out.",
            )
        return len(before), end

    def _ended(self, ids: list[int]) -> list[int]:
        """The ids of a text with the id that ends it, unless it stands there already."""
        return ids if self.end is None or ids[-1:] == [self.end] else [*ids, self.end]


def spans(ids: Sequence[int], counting: Sequence[tuple[int, int]]) -> Example:
    """An example of which the ids from `first` to before `end` count, for each pair; never the very first id, which
    nothing comes before."""
    counts = [False] * max(0, len(ids) - 1)
    for first, end in counting:
        for place in range(max(first, 1), min(end, len(ids))):
            counts[place - 1] = True
    return Example(tuple(ids), tuple(counts))


def text_in(row: Mapping[str, Any], name: str) -> str:
    """A text of a row. Raises InvalidRequest for anything else, and for an empty one."""
    if not isinstance(row.get(name), str):
        raise InvalidRequest(f"has the {name} {shown(row.get(name))}, where a text belongs.")
    if not row[name]:
        raise InvalidRequest(f"has an empty {name}. Fill it, or leave the row out.")
    return str(row[name])
