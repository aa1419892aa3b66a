"""What stop strings cost the thread that draws ids: microseconds an id, beside what decoding takes.

    python benchmarks/stop_strings.py [TOKENIZER.json]

Without a tokenizer it takes that of the built-in demo. Decoding alone and decoding with stop strings take turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from elm_mlx import demo
from elm_mlx.text.settings import TokenizerSettings
from elm_mlx.text.stop_strings import StopStrings
from elm_mlx.text.stops import Stops
from elm_mlx.text.tokenizer import Tokenizer

TEXT = "Once upon a time there was a little fox. She looked at the moon and said: I am here!\n" * 40
CASES = {
    "none": [],
    "4 strings": ["\n\n", "User:", "###", "<|end|>"],
    "4 strings that often begin": ["a x", "the moon.", "She is", "\nOnce more"],
    "16 strings of 256 characters": [chr(97 + n) + "e" * 255 for n in range(16)],
}
TURNS = 15


def cost(tokenizer: Tokenizer, ids: list[int], stops: Stops) -> float:
    """Seconds of processor time that the ids of one answer take."""
    text = StopStrings(tokenizer, stops)
    begun = time.process_time()
    for token in ids:
        text.add(token)
    return time.process_time() - begun


def main() -> None:
    """Prints a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, nargs="?", default=demo.demo_directory() / "tokenizer.json")
    tokenizer = Tokenizer.from_file(parser.parse_args().tokenizer, TokenizerSettings())
    ids = tokenizer.encode_text(TEXT)
    best = dict.fromkeys(CASES, float("inf"))
    for _ in range(TURNS):
        for name, strings in CASES.items():
            best[name] = min(best[name], cost(tokenizer, ids, Stops(strings)))
    decoding = best.pop("none") / len(ids)
    print(f"{len(ids)} ids; decoding takes {decoding * 1e6:.2f} us an id")
    for name, seconds in best.items():
        print(f"{name}: {(seconds / len(ids) - decoding) * 1e6:+.2f} us an id")
    begun = time.process_time()
    Stops(CASES["16 strings of 256 characters"])
    print(f"making the longest: {(time.process_time() - begun) * 1e3:.1f} ms a request")


if __name__ == "__main__":
    main()
