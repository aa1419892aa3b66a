"""Answers that are drawn at random within a form, without a model, and what a form takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from elm_mlx import demo
from elm_mlx.text.constraint_row import ConstraintRow
from elm_mlx.text.grammar import Form, Grammars
from elm_mlx.text.schema import check_schema
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.tokenizer import Tokenizer

STOP = 2  # of the demo's tokenizer
STOPS = frozenset({STOP})


def demo_tokenizer() -> Tokenizer:
    """The demo's tokenizer: blanks as U+2581, and bytes."""
    return Tokenizer.from_file(demo.demo_directory() / "tokenizer.json", TokenizerSettings(), entries=2048)


def tokenizer_at(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer in a file, for a model that has a few ids more than it, and how many the model has."""
    rows = Tokenizer.from_file(path, TokenizerSettings()).vocab_size + 40
    return Tokenizer.from_file(path, TokenizerSettings(), entries=rows), rows


def allowed(row: ConstraintRow) -> list[int]:
    """The ids of a mask."""
    bits = np.unpackbits(row.mask().view(np.uint8), bitorder="little")
    return [int(id) for id in np.flatnonzero(bits)]


def draw(row: ConstraintRow, stops: frozenset[int], seed: int, most: int = 200) -> list[int] | None:
    """The ids of an answer, each drawn from those that are allowed, a stop id half of the time where there is one; None
    for an answer that does not end within `most`."""
    rng, ids = np.random.default_rng(seed), list[int]()
    while len(ids) < most:
        found = allowed(row)
        if stops & set(found) and (rng.random() < 0.5 or stops >= set(found)):
            return ids
        ids.append(int(rng.choice([id for id in found if id not in stops])))
        row.accept(ids[-1])
    return None


def begin(grammars: Grammars, form: Form, stops: frozenset[int] = STOPS) -> ConstraintRow:
    """An answer's place in a form, once that is compiled. Raises NotEnforceable."""
    return grammars.compile(form).result().begin(stops)


def takes(grammars: Grammars, form: Form, text: str) -> bool:
    """Whether a whole text has a form, spelled a byte a token."""
    row = begin(grammars, form)
    matcher, known = row._matcher, grammars._ready().bytes
    by_byte = {data: id for id, data in enumerate(known.of) if len(data) == 1}
    ids = [by_byte[bytes([byte])] for byte in text.encode()]
    return all(matcher.consume_token(id) for id in ids) and bool(matcher.is_accepting())


def schema_form(schema: Any) -> Form:
    """The form of a JSON schema. Raises NotEnforceable."""
    return Form("json_schema", check_schema(schema))


def choice_form(*texts: str) -> Form:
    """The form of one of some texts."""
    return Form("choice", json.dumps(texts))


def compact(value: Any) -> str:
    """A value as answers have it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
