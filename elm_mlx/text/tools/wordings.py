"""How models write calls of tools: the words round a call's name and arguments, and how a text in them is read.

Which of these a model has is seen in what its chat template makes of a call. The templates are those that were
published with Llama 3.1 to 3.3; Qwen 2.5, Qwen 3 and Nous Hermes; Qwen3-Coder and Qwen 3.5; Mistral 7B v0.3, Nemo, and
Small 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from elm_mlx.text.tools.json_calls import NAME_LENGTH, Called, called, object_of, read_json, strict_json
from elm_mlx.text.tools.shapes import Shape

WRAP, WRAP_END = "<tool_call>", "</tool_call>"
CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
ID = "\0"  # stands for the id of a call
ID_LENGTH = 9  # letters and digits: Mistral's templates refuse any other id

JSON_HEAD = re.compile(r"\s*+(\{)?+")
TAGS_HEAD = re.compile(r"\s*+<function=[^<>\s]{1,256}+(>)")
NAMED = re.compile(r"\s*+([\w.-]{1,256})(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?\s*+(\{.*)", re.DOTALL)
NAMED_SO_FAR = re.compile(r"[\w.\-\[\]\s]*+")
TAGS_CALL = re.compile(
    r"<tool_call>\s*+<function=([^<>\s]{1,256}+)>\s*+((?:<parameter=.*</parameter>)?)\s*"
    r"</function>\s*+(?:</tool_call>)?\s*+",
    re.DOTALL,
)
KEY = re.compile(r"[^<>\n]{1,256}+")  # the name of an argument between tags
PARAMETER = re.compile(rf"<parameter=({KEY.pattern})>\n?")
NEXT = re.compile(r"\n?</parameter>\s*+(?=<parameter=|\Z)")


@dataclass(frozen=True)
class Wording:
    """The words of calls: before the first (`start`), before the name of each, between its name and its arguments, and
    after them; `between` two calls, and after the last (`stop`). In `middle`, ID stands for the call's id. Arguments
    are JSON, or each between tags (`is_tagged`). `marks` are those of the words that may be tokens; `anywhere` has the
    forms that are looked for in all of an answer, by the mark with which each begins."""

    before: str
    middle: str
    after: str
    start: str = ""
    between: str = ""
    stop: str = ""
    is_tagged: bool = False
    marks: tuple[str, ...] = ()
    anywhere: Mapping[str, Shape] = field(default_factory=dict)

    def is_in(self, text: str, name: str, call_id: str) -> bool:
        """Whether a text has a call, the first of some, in these words."""
        return self.start + self.before + name + self.middle.replace(ID, call_id) in text


def head_after(mark: str, pattern: re.Pattern[str], text: str) -> bool | None:
    """Whether a text begins with a mark, and then as a pattern says whose group is the last character."""
    if mark.startswith(text):
        return None
    found = pattern.fullmatch(text, len(mark)) if text.startswith(mark) else None
    return False if found is None else True if found[1] else None


def tagged_head(text: str) -> bool | None:
    """Whether a text begins as <tool_call><function=name> does."""
    if WRAP.startswith(text):
        return None
    rest = text[len(WRAP) :]
    if not text.startswith(WRAP) or TAGS_HEAD.fullmatch(rest):
        return text.startswith(WRAP)
    words = rest.lstrip()
    return None if "<function=".startswith(words) or re.fullmatch(r"<function=[^<>\s]*+", words) else False


def mistral_head(text: str) -> bool | None:
    """Whether a text begins as [TOOL_CALLS] [ or [TOOL_CALLS]name[ARGS]{ does."""
    if CALLS.startswith(text):
        return None
    rest = text[len(CALLS) :].lstrip()
    if not text.startswith(CALLS) or rest == "[":
        return text.startswith(CALLS)
    return True if NAMED.fullmatch(rest) else None if NAMED_SO_FAR.fullmatch(rest) else False


def read_wrapped(text: str) -> list[Called] | None:
    """The call that <tool_call>{"name": ..., "arguments": ...}</tool_call> is."""
    found = read_json(text.strip().removeprefix(WRAP).removesuffix(WRAP_END))
    return found if found and len(found) == 1 else None


def read_tagged(text: str) -> list[Called] | None:
    """The call that <tool_call><function=name><parameter=key>value</parameter>...</function></tool_call> is. All values
    are texts: the tool's schema says what they are."""
    found = TAGS_CALL.fullmatch(text)
    if not found:
        return None
    arguments, rest = dict[str, Any](), found[2]
    place = 0
    while place < len(rest):
        opening = PARAMETER.match(rest, place)
        closing = NEXT.search(rest, opening.end()) if opening else None
        if opening is None or closing is None or opening[1] in arguments:
            return None
        arguments[opening[1]] = rest[opening.end() : closing.start()]
        place = closing.end()
    return [Called(found[1], arguments)]


def read_mistral(text: str) -> list[Called] | None:
    """The calls of [TOOL_CALLS] and a list of objects, each with an id or none, or of a name and its arguments."""
    rest = text.strip().removeprefix(CALLS)
    try:
        if named := NAMED.fullmatch(rest):
            arguments = object_of(strict_json(named[2]))
            return None if arguments is None or len(named[1]) > NAME_LENGTH else [Called(named[1], arguments)]
        listed = strict_json(rest)
    except ValueError:
        return None
    found = [called(without_id(one)) for one in (listed if isinstance(listed, list) else [])]
    return [one for one in found if one] if found and all(found) else None


def without_id(value: object) -> object:
    """An object without its id."""
    return {key: one for key, one in value.items() if key != "id"} if isinstance(value, dict) else value


WRAPPED = Shape(partial(head_after, WRAP, JSON_HEAD), read_wrapped, quotes='"', tail=WRAP_END, first=-1)
# A value may have </function> in it: the end follows that of an argument, or, without any, the name.
TAGGED_END = r"(?:</parameter>|\A>)\s{0,8}</function>\s{0,8}</tool_call>"
TAGGED = Shape(tagged_head, read_tagged, first=-1, until=TAGGED_END)
MISTRAL = Shape(mistral_head, read_mistral, quotes='"', first=-1)

LLAMA = Wording('{"name": "', '", "parameters": ', "}", between="; ")
QWEN = Wording('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n", marks=(WRAP, WRAP_END),
               anywhere={WRAP: WRAPPED})  # fmt: skip
QWEN_TAGS = Wording("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", between="\n", is_tagged=True,
                    marks=(WRAP, WRAP_END), anywhere={WRAP: TAGGED})  # fmt: skip
MISTRAL_LISTS = [
    Wording('{"name": "', '", "arguments": ', "}", start, ", ", "]", marks=(CALLS,), anywhere={CALLS: MISTRAL})
    for start in (f"{CALLS} [", f"{CALLS}[")
]
MISTRAL_NAMES = [
    Wording(CALLS, middle, "", marks=(CALLS, ARGS, CALL_ID), anywhere={CALLS: MISTRAL})
    for middle in (ARGS, CALL_ID + ID + ARGS)
]
KNOWN = (QWEN_TAGS, QWEN, *MISTRAL_LISTS, *MISTRAL_NAMES, LLAMA)
# What a template, or the tokens, must mention where no call of it is known.
MENTIONS = (((WRAP, "<parameter="), QWEN_TAGS), ((WRAP,), QWEN), ((CALLS, ARGS), MISTRAL_NAMES[0]),
            ((CALLS,), MISTRAL_LISTS[0]))  # fmt: skip


def wording_in(rendered: str, name: str, call_id: str) -> Wording | None:
    """The words in which a template has written a call of a tool with this name; None where they are not known."""
    return next((wording for wording in KNOWN if wording.is_in(rendered, name, call_id)), None)


def wording_mentioned(text: str) -> Wording:
    """The words whose marks a text mentions, such as a template's source with the tokens; Llama's without any."""
    return next((wording for words, wording in MENTIONS if all(word in text for word in words)), LLAMA)
