"""A guest in our engine's loop against mlx-lm's own loop: tokens a second, and the time to the first token.

With --rows also how much faster so many requests are answered together than one after another, by elm-mlx alone.
Both run the same classes of mlx-lm's over the same weights in one process, in turns; what counts are the ratios of
medians. Without --model random weights are written to a temporary folder. For example:
python benchmarks/guests.py --family qwen3 --runs 9
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

ROOT = Path(__file__).parents[1]
SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 4096}  # fmt: skip
ENOUGH = 0.98  # of mlx-lm's tokens a second


def measure(directory: Path, runs: int, prompt: int, tokens: int, policy: str) -> dict[str, float]:
    """The ratios ours / theirs: of tokens a second, above 1 is faster, and of the time to the first token, below 1."""
    import elm_mlx
    from elm_mlx.bench.cases import DECODE, FIRST, Case
    from elm_mlx.bench.clock import sample
    from elm_mlx.bench.ours import Ours
    from elm_mlx.bench.theirs import Theirs
    from elm_mlx.device.thread import on_device

    cases = {"decode": Case(DECODE, tokens, depth=prompt), "first": Case(FIRST, prompt)}
    with elm_mlx.load(directory, cpu_policy=policy) as lm:
        programs = {"ours": on_device(lambda _: Ours(lm)), "theirs": on_device(lambda _: Theirs(directory))}
        times: dict[tuple[str, str], list[float]] = {(case, who): [] for case in cases for who in programs}
        for run in range(runs + 1):
            for name, case in cases.items():
                for who in sorted(programs, reverse=bool(run % 2)):
                    program = programs[who]
                    work = partial(sample, program, case, case.token_ids(500))
                    spent = on_device(lambda _, work=work: work()).seconds
                    if run:  # the first one warms up
                        times[name, who].append(spent)
    middle = {key: median(found) for key, found in times.items()}
    return {
        "tokens_per_s": tokens / middle["decode", "ours"],
        "speed_ratio": middle["decode", "theirs"] / middle["decode", "ours"],
        "first_token_ratio": middle["first", "ours"] / middle["first", "theirs"],
    }


def rows_ratio(directory: Path, rows: int, runs: int, prompt: int, tokens: int, policy: str) -> float:
    """How many times as fast so many requests are answered together as one after another; each of the same length."""
    import elm_mlx

    prompts = [[1, *((7 * place + 3 * row) % 400 + 3 for place in range(prompt))] for row in range(rows)]
    asked = {"temperature": 0.0, "reuse": False, "plain": True}
    times: dict[str, list[float]] = {"together": [], "apart": []}
    with elm_mlx.load(directory, cpu_policy=policy) as lm:
        lm = cast(Any, lm)
        for run in range(runs + 1):
            begun = time.perf_counter()
            list(lm.batch(prompts, tokens, banned_ids=lm.stop_ids, **asked))
            between = time.perf_counter()
            for one in prompts:
                lm.generate(one, tokens, banned_ids=lm.stop_ids, **asked)
            if run:  # the first one warms up
                times["together"].append(between - begun)
                times["apart"].append(time.perf_counter() - between)
    return median(times["apart"]) / median(times["together"])


def main() -> None:
    """Measures, and prints one object of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the directory of a model of another family")
    parser.add_argument("--family", default="qwen3", help="the family of random weights, without --model")
    parser.add_argument("--bits", type=int, help="quantize random weights to these bits")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cpu-policy", default="compiled", help="compiled, as mlx-lm runs, or plain")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of the answer")
    parser.add_argument("--rows", type=int, help="also measure so many requests together")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = asked.model
        if directory is None:
            sys.path.insert(0, str(ROOT / "tests"))
            from helpers.guests import write_guest

            directory = write_guest(Path(folder) / asked.family, asked.family, asked.bits, **SHAPE)
        found = measure(directory, asked.runs, asked.prompt, asked.tokens, asked.cpu_policy)
        if asked.rows:
            how = asked.rows, asked.runs, asked.prompt, asked.tokens, asked.cpu_policy
            found["rows_ratio"] = rows_ratio(directory, *how)
    print(json.dumps(found | {"enough": found["speed_ratio"] >= ENOUGH}))


if __name__ == "__main__":
    main()
