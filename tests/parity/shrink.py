"""Makes a difference small: takes away from its files and its chat whatever it does not need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from differential import Difference, comparison
from helpers.wild.chats import Chat
from helpers.wild.directory import Directory
from sides import REFUSED

PARTS = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\n|[^{\n]+|\{", re.DOTALL)
KEPT = set(
    "messages tools variables role content vocab merges model added_tokens version id type name template decoder "
    "normalizer pre_tokenizer post_processor single_word lstrip rstrip normalized special start stop tokenizer_class "
    "config.json tokenizer.json tokenizer_config.json".split()
)
WHOLE = set(
    "variables additional_special_tokens extra_special_tokens vocab merges config.json type role tokenizer_class model "
    "decoder name".split()
)


def smaller(value: Any, name: str = "") -> Iterator[Any]:
    """The values that are a step smaller than `value`."""
    if name in WHOLE or name.endswith("_token"):
        return
    if isinstance(value, bool):
        yield from [False] if value else []
    elif isinstance(value, str):
        pieces = PARTS.findall(value) if "{%" in value else [*value]
        for size in (len(pieces), len(pieces) // 2, len(pieces) // 4, 3, 2, 1):
            for start in range(0, len(pieces) if size else 0, max(size, 1)):
                yield "".join(pieces[:start] + pieces[start + size :])
    elif isinstance(value, dict):
        for key in value:
            if key not in KEPT:
                yield {other: item for other, item in value.items() if other != key}
            if key in ("normalizer", "pre_tokenizer", "post_processor") and value[key] is not None:
                yield {**value, key: None}
        for key, item in value.items():
            if key != "content" or "single_word" not in value:  # a token's text stays
                yield from ({**value, key: less} for less in smaller(item, key))
    elif isinstance(value, list) and name != "extra_special_tokens":
        yield from (value[:place] + value[place + 1 :] for place in range(len(value)))
        for place, item in enumerate(value):
            yield from ([*value[:place], less, *value[place + 1 :]] for less in smaller(item, name))


def shrink(found: Difference, attempts: int = 1000) -> Difference:
    """A difference in the same comparison that is as small as single steps make it, within so many attempts."""
    tried = 0
    progress = True
    while progress and tried < attempts:
        progress = False
        for directory, given in candidates(found):
            tried += 1
            again = None if (directory, given) == (found.directory, found.given) else attempt(found, directory, given)
            if again:
                found, progress = again, True
            if again or tried >= attempts:
                break
    return found


def candidates(found: Difference) -> Iterator[tuple[Directory, Any]]:
    """Directories and chats (or texts) that are a step smaller."""
    given = found.given
    if isinstance(given, Chat):
        for less in smaller({"messages": given.messages, "tools": given.tools}):
            if less["messages"] and (less["tools"] or less["tools"] == given.tools):
                yield found.directory, replace(given, messages=less["messages"], tools=less["tools"])
        yield found.directory, replace(given, tools=None)
    elif isinstance(given, str):
        yield from ((found.directory, less) for less in smaller(given))
    for files in smaller(found.directory.files):
        yield replace(found.directory, files=files), given


def attempt(found: Difference, directory: Directory, given: Any) -> Difference | None:
    """The difference that is left, if it is one of the same kind."""
    try:
        with comparison(directory) as pair:
            if REFUSED in (pair.theirs, pair.ours):
                again = pair.loading()
            elif isinstance(given, Chat):
                again = pair.difference(given, "") if pair.fits(given) else None
            else:
                again = pair.compare(found.what, given, lambda side: side.text_ids(given))
    except Exception:  # what is left is no model directory any more
        return None
    refusals = [side == REFUSED for side in (found.theirs, found.ours)]
    same = again and again.what == found.what and refusals == [s == REFUSED for s in (again.theirs, again.ours)]
    return again if same else None
