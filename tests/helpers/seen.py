"""What the tests see of a family that runs through mlx-lm's classes, as docs/guests.md tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.guests import their_ids

import elm_mlx
from elm_mlx.errors import InvalidRequest
from elm_mlx.models.guest import Guest
from elm_mlx.models.guest_cache import leaves

FILE = Path(__file__).parents[1] / "guests" / "families.json"
PROMPT = [1, *((7 * i * i + 3 * i) % 500 + 3 for i in range(45))]  # longer than the windows of the tiny models
TOKENS, SHARED = 24, 30
Make = Callable[..., Path]


def ids_of(lm: elm_mlx.LanguageModel, prompt: list[int], tokens: int = TOKENS, **options: Any) -> list[int]:
    """The ids of a greedy answer."""
    return list(lm.generate(prompt, tokens, temperature=0.0, **options).tokens)


def first_end(theirs: list[int]) -> list[int]:
    """An answer up to the tokenizer's end-of-text, which mlx-lm's bare loop goes beyond."""
    return theirs[: theirs.index(2) + 1] if 2 in theirs else theirs


def equal_ids(folder: Path) -> bool:
    """Whether a greedy answer has the ids of mlx-lm's own loop and loader."""
    theirs = first_end(their_ids(folder, PROMPT, TOKENS))
    with elm_mlx.load(folder, cpu_policy="plain") as lm:
        return len(set(theirs)) > 3 and ids_of(lm, PROMPT) == theirs


def kept(lm: elm_mlx.LanguageModel, following: list[int]) -> int | None:
    """How many positions of a prompt are not read again; None where its answer is then another one."""
    on = lm.generate(following, TOKENS, temperature=0.0)
    return on.stats.cached_tokens if list(on.tokens) == ids_of(lm, following, reuse=False) else None


def seen(make: Make, family: str) -> dict[str, Any]:
    """What a family does: whether its ids are mlx-lm's in floats and in 4 bits, the kinds of its caches, and what of a
    request is used again: a shorter prefix, a prompt that goes on from the end, or from an end that came early; and
    whether ids may be proposed (drafts, lookup) and rows decode together."""
    with elm_mlx.load(make(family)) as lm:
        assert isinstance(lm._model, Guest)
        kinds = sorted({type(one).__name__ for one in leaves(lm._model.make_cache(8)[0].caches)})
        whole = ids_of(lm, PROMPT)
        on = [*PROMPT, *whole[:-1], 9, 17, 33]
        goes_on = kept(lm, on) == len(on) - 3
        shorter = kept(lm, [*PROMPT[:SHARED], 11, 12, 13, 14]) == SHARED
        lm.forget_prefixes()
        begun = lm.generate(PROMPT, TOKENS, temperature=0.0, stop=[lm.tokenizer.decode(whole[:14])[-6:]])
        early = [*PROMPT, *begun.tokens, 9, 17, 33]
        after_an_early_end = (kept(lm, early) or 0) >= len(early) - 4
        return {
            "floats": equal_ids(make(family)), "4 bits": equal_ids(make(family, 4)), "caches": kinds,
            "goes on": goes_on, "shorter prefix": shorter, "goes on after an early end": after_an_early_end,
            "proposals": proposes(lm, whole), "rows": lm.config.abilities.rows and together(lm, whole),
        }  # fmt: skip


def together(lm: elm_mlx.LanguageModel, whole: list[int]) -> bool:
    """Whether rows of two lengths that run at the same time answer as alone."""
    prompts = [PROMPT, PROMPT[:SHARED]]
    streams = [lm.submit(prompt, TOKENS, temperature=0.0, reuse=False) for prompt in prompts]
    found = [list(stream.result().tokens) for stream in streams]
    return found == [whole, ids_of(lm, prompts[1], reuse=False)]


def proposes(lm: elm_mlx.LanguageModel, whole: list[int]) -> bool:
    """Whether ids are proposed by a lookup, and change nothing."""
    try:
        return ids_of(lm, PROMPT, lookup=True, reuse=False) == whole
    except InvalidRequest:
        return False


def read() -> dict[str, Any]:
    """What was seen of each family when the file was written."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(found: dict[str, Any]) -> None:
    """Writes what was seen."""
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
