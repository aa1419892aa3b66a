"""What forms of answers cost outside of the model: compiling them, their masks, and hostile ones, for a vocabulary of
bytes with random words, as large as Llama 3's.

    python benchmarks/structured_compile.py [--ids 128000]

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from elm_mlx.api.structure import form_in
from elm_mlx.errors import ElmError
from elm_mlx.text.grammar import Grammars
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.token_bytes import LETTERS
from elm_mlx.text.tokenizer import Tokenizer

NOUN = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["name", "age"]}  # fmt: skip
SMALL = [NOUN | {"title": f"number {i}"} for i in range(9)]
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


def timed(call: Callable[[], Any]) -> tuple[Any, str]:
    """(what a call returns or its error; milliseconds of the clock and of the processor, the longest sleep beside it,
    and by how many megabytes the process's highest memory grew)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Ticking() as ticking:
        begun, spent = time.perf_counter(), time.process_time()
        try:
            answer = call()
        except ElmError as error:
            answer = error
        begun, spent = time.perf_counter() - begun, time.process_time() - spent
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    figures = f"{begun * 1e3:8.1f} ms, processor {spent * 1e3:8.1f}, longest sleep {ticking.longest_s * 1e3:6.1f}"
    return answer, f"{figures}, memory +{grown:.0f} MB"


def first_mask(grammars: Grammars, stop: frozenset[int], options: dict[str, Any]) -> np.ndarray:
    """Compiles the form of some options and computes the first mask."""
    asked = form_in(options)
    assert asked
    return grammars.compile(asked.form, stop)().mask()


def walk(grammars: Grammars, stop: frozenset[int], options: dict[str, Any], seed: int) -> list[float]:
    """Seconds that each mask of a random answer takes, of 200 at most."""
    rng, asked, spent = np.random.default_rng(seed), form_in(options), []
    assert asked
    row = grammars.compile(asked.form, stop)()
    for _ in range(200):
        begun = time.perf_counter()
        words = row.mask()
        spent.append(time.perf_counter() - begun)
        ids = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
        token = int(rng.choice(ids))
        if token in stop:
            break
        row.accept(token)
    return spent


def main() -> None:
    """Prints a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=128_256)
    ids = parser.parse_args().ids
    grammars, stop = Grammars(random_tokenizer(ids), ids), frozenset({ids - 1})
    print("before any form:      ", timed(grammars.prepare)[1])
    print("first form of a model:", timed(lambda: first_mask(grammars, stop, {"schema": NOUN}))[1])
    for schema in SMALL:
        print("new small schema:     ", timed(lambda schema=schema: first_mask(grammars, stop, {"schema": schema}))[1])
    for schema in SMALL[:3]:
        print("schema seen before:   ", timed(lambda schema=schema: first_mask(grammars, stop, {"schema": schema}))[1])
    for name, options in {"an object": {"schema": NOUN}, "any JSON": {"response_format": {"type": "json_object"}},
                          "words": {"regex": "([A-Z][a-z]{1,9} ){1,40}"}}.items():  # fmt: skip
        spent = sorted(s for seed in range(10) for s in walk(grammars, stop, options, seed))
        tenth = spent[len(spent) * 9 // 10]
        print(f"a mask of {name}: median {statistics.median(spent) * 1e6:.0f} us, of 9 in 10 up to {tenth * 1e6:.0f}, "
              f"longest {spent[-1] * 1e6:.0f} ({len(spent)} masks)")  # fmt: skip
    for name, options in HOSTILE.items():
        answer, figures = timed(lambda options=options: first_mask(grammars, stop, options))
        print(f"{name:28}{figures}; {f'refused: {answer}'[:90] if isinstance(answer, ElmError) else 'enforced'}")


if __name__ == "__main__":
    main()
