"""What forms of answers cost outside of the model: compiling them, their masks, and hostile ones, for a vocabulary of
bytes with random words, as large as Llama 3's.

    python benchmarks/structured_compile.py [--ids 128256] [--json FILE]

A thread that only wakes up every half millisecond shows for how long the interpreter's lock was held: its longest sleep
is the longest that another row of an engine could have waited. Times are the clock's; on a busy machine compare the
processor time beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from elm_mlx.api.structure import form_in
from elm_mlx.bench.facts import machine_facts, software_facts
from elm_mlx.errors import ElmError
from elm_mlx.text.constraint_row import ConstraintRow
from elm_mlx.text.grammar import Grammars
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.token_bytes import LETTERS
from elm_mlx.text.tokenizer import Tokenizer

NOUN = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["name", "age"]}  # fmt: skip
SMALL = [NOUN | {"title": f"number {i}"} for i in range(9)]
LARGE = {"type": "object", "additionalProperties": False, "properties": {f"field {i}": NOUN for i in range(350)}}
FOLLOWED: dict[str, dict[str, Any]] = {"an object": {"schema": NOUN}, "any JSON": {"response_format": {
    "type": "json_object"}}, "words": {"regex": "([A-Z][a-z]{1,9} ){1,40}"}}  # fmt: skip
HOSTILE: dict[str, dict[str, Any]] = {
    "enum of 50,000": {"schema": {"enum": [f"value {i}" for i in range(50_000)]}},
    "enum of 5,000": {"schema": {"enum": [f"v{i}" for i in range(5000)]}},
    "2,000 optional properties": {"schema": {"properties": {f"p{i}": {"type": "integer"} for i in range(2000)},
                                             "additionalProperties": False}},
    "anyOf of 3,000": {"schema": {"anyOf": [{"type": "string", "pattern": f"^{i}b*"} for i in range(3000)]}},
    "anyOf of 900": {"schema": {"anyOf": [{"type": "object", "required": [f"p{i}"]} for i in range(900)]}},
    "nested 5,000 deep": {"schema": '{"items":' * 5000 + "{}" + "}" * 5000},
    "2,000 references in a chain": {"schema": {"$ref": "#/$defs/0", "$defs": {"1999": {}} | {
        str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(1999)}}},
    "(a?){500}a{500}": {"regex": "(a?){500}a{500}"},
    "(.*)a.{30}b": {"regex": "(.*)a.{30}b"},
    "a{1000000000}": {"regex": "a{1000000000}"},
    "pattern with both": {"schema": {"type": "string", "pattern": "^(a?){500}a{500}$|(.*)a.{30}b"}},
    "exploding allOf": {"schema": {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}}
                                             for j in range(6)]} for i in range(9)]}},
    "multipleOf 99991": {"schema": {"type": "integer", "multipleOf": 99991}},
    "minItems 1e9": {"schema": {"type": "array", "minItems": 10**9}},
    "maxLength 1e9": {"schema": {"type": "string", "maxLength": 10**9}},
    "6,000 rules in a chain": {"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}|\"x\"\n" for i in range(3500))
                               + 'r3500: "y"'},
    "ambiguous grammar": {"grammar": 'start: a\na: a a | "x" |'},
}  # fmt: skip


class Ticking:
    """While it is entered, a thread sleeps for half a millisecond again and again; `longest_s` is its longest sleep."""

    def __enter__(self) -> Self:
        self.longest_s, self._ended = 0.0, False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._ended:
            time.sleep(0.0005)
            now = time.perf_counter()
            self.longest_s, last = max(self.longest_s, now - last), now

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()


def random_tokenizer(ids: int) -> Tokenizer:
    """A tokenizer of bytes with so many random words, 256 special tokens among them."""
    rng, letters = random.Random(0), {byte: chr(letter) for letter, byte in LETTERS.items()}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    single = [letters[byte] for byte in b' etaoinshrdluETAOIN{}[]":,0123456789.bcfgjkmpqvwxyz\n']
    pool, merges = list(single), []
    while len(vocabulary) < ids - 256:
        pair = rng.choice(pool), rng.choice(single)
        if len(word := "".join(pair)) <= 12 and word not in vocabulary:
            vocabulary[word] = len(vocabulary)
            merges.append(list(pair))
            pool.append(word)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": ids - 256 + i, "content": f"<|special_{i}|>"} | flags for i in range(256)]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": True}
    data = {"version": "1.0", "added_tokens": added, "pre_tokenizer": split, "decoder": split, "model": model}
    return Tokenizer(json.dumps(data).encode(), TokenizerSettings(), Path("random"), entries=ids)


class Timed(NamedTuple):
    """What a call took: milliseconds of the clock and of the processor, the longest sleep of another thread meanwhile,
    and by how many megabytes the process's highest memory grew. `error` is what it raised."""

    clock_ms: float
    processor_ms: float
    sleep_ms: float
    memory_mb: float
    error: str | None

    def __str__(self) -> str:
        refused = f"; refused: {self.error}"[:90] if self.error else ""
        return (f"{self.clock_ms:8.1f} ms, processor {self.processor_ms:8.1f}, longest sleep {self.sleep_ms:6.1f}, "
                f"memory +{self.memory_mb:.0f} MB{refused}")  # fmt: skip


def timed(call: Callable[[], Any]) -> Timed:
    """What a call takes."""
    before, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    with Ticking() as ticking:
        begun, spent = time.perf_counter(), time.process_time()
        try:
            call()
        except ElmError as raised:
            error = str(raised)
        took, spent = time.perf_counter() - begun, time.process_time() - spent
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return Timed(took * 1e3, spent * 1e3, ticking.longest_s * 1e3, grown, error)


def compiling(grammars: Grammars, options: dict[str, Any]) -> Future[ConstraintRow]:
    """Begins to compile the form of some options, as a call does before it returns."""
    asked = form_in(options)
    assert asked
    return grammars.compile(asked.form)


def compile_times(grammars: Grammars, stop: frozenset[int]) -> Iterator[tuple[str, Timed]]:
    """What each form takes until its first mask; and a call with a large one, until it returns."""

    def first_mask(options: dict[str, Any]) -> Timed:
        return timed(lambda: compiling(grammars, options).result().begin(stop).mask())

    yield "before any form", timed(grammars.prepare)
    yield "first form of a model", first_mask({"schema": NOUN})
    for schema in SMALL:
        yield "new small schema", first_mask({"schema": schema})
    for schema in SMALL[:3]:
        yield "schema seen before", first_mask({"schema": schema})
    yield "a call with a schema of 60 kB", timed(lambda: compiling(grammars, {"schema": LARGE}))
    yield "the rest of it", first_mask({"schema": LARGE})
    for name, options in HOSTILE.items():
        yield name, first_mask(options)


def mask_times(row: ConstraintRow, stop: frozenset[int], seed: int) -> list[float]:
    """Microseconds that each mask of a random answer takes, of 200 at most."""
    rng, spent = np.random.default_rng(seed), []
    for _ in range(200):
        begun = time.perf_counter()
        words = row.mask()
        spent.append(1e6 * (time.perf_counter() - begun))
        token = int(rng.choice(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))))
        if token in stop:
            break
        row.accept(token)
    return spent


def main() -> None:
    """Prints a line a figure, and writes all into a file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=128_256)
    parser.add_argument("--json", type=Path, help="a file for all figures")
    given = parser.parse_args()
    grammars, stop = Grammars(random_tokenizer(given.ids), given.ids), frozenset({given.ids - 1})
    forms, masks = [], {}
    for name, took in compile_times(grammars, stop):
        print(f"{name:30}{took}", flush=True)
        forms.append({"form": name, **took._asdict()})
    for name, options in FOLLOWED.items():
        row = compiling(grammars, options).result()
        spent = masks[name] = sorted(us for seed in range(10) for us in mask_times(row.begin(stop), stop, seed))
        print(f"a mask of {name}: median {statistics.median(spent):.0f} us, of 9 in 10 up to "
              f"{spent[len(spent) * 9 // 10]:.0f}, longest {spent[-1]:.0f} ({len(spent)} masks)")  # fmt: skip
    if given.json:
        report = {"schema": "elm-mlx forms 1", "machine": machine_facts(), "software": software_facts()}
        given.json.write_text(
            json.dumps(report | {"ids": given.ids, "forms": forms, "masks_us": masks}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
