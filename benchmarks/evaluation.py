"""Questions of a task by lm-eval, beside `mlx_lm.evaluate`'s model: in turns, every sample kept.

    python benchmarks/evaluation.py [--model DIR | --random SHAPE] [--questions 40] [--rounds 5] [--json FILE]

Each question is a story without its last sentence, and its four endings are that sentence and those of three other
stories. Both sides answer the same questions of lm-eval's with the same weights in float32, each in a process of its
own, as each sets the threads of the BLAS for itself; on Linux both load the same fast one. A sample is one run of
lm-eval's evaluator over all questions, without loading, and the other process waits meanwhile; ratios are theirs over
ours, so above 1 ours took less. Beside them stand the positions that ours computes, those of each text read by itself,
the two accuracies, and by how much the log-probabilities differ at most. Needs the extras `eval` and `mlx-lm`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import elm_mlx
from elm_mlx.errors import NotFound

if __name__ == "__main__" and "mlx.core" not in sys.modules:
    with suppress(NotFound):  # some machines have none
        elm_mlx.use_fast_blas()
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

from subject import opened

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.demo import demo_directory
from elm_mlx.evaluate.borders import text_ending
from elm_mlx.evaluate.examinee import Examinee
from elm_mlx.evaluate.remembered import Remembered
from elm_mlx.evaluate.run import versions
from elm_mlx.evaluate.tasks import Wanted, load_tasks, quiet

SCHEMA = "elm-mlx evaluation 1"
ENDINGS = 4
TASK = {
    "task": "stories",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "stories.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "endings",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1},
}


def questions(count: int) -> list[dict[str, Any]]:
    """So many questions from the demo's held-out stories."""
    draw = random.Random(0)
    texts = (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()
    stories = [text.rstrip(".").rpartition(". ") for text in texts]
    split = [(f"{before}.", f"{end}.") for before, _, end in stories if before]
    rows = []
    for number in range(count):
        context, right = split[number % len(split)]
        others = draw.sample([end for _, end in split if end != right], ENDINGS - 1)
        label = draw.randrange(ENDINGS)
        rows.append({"context": context, "endings": [*others[:label], right, *others[label:]], "label": label})
    return rows


@contextmanager
def task_file(count: int) -> Iterator[Path]:
    """The task as a file."""
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps(row) + "\n" for row in questions(count))
        Path(folder, "stories.jsonl").write_text(lines, encoding="utf-8")
        path = Path(folder, "stories.yaml")
        path.write_text(json.dumps(TASK), encoding="utf-8")  # JSON is YAML
        yield path


def ask(model: Any, task: Path) -> dict[str, Any]:
    """What lm-eval finds with a model, and the time of that."""
    import lm_eval.evaluator

    with quiet():
        loaded = load_tasks([Wanted(str(task), 0)], 1234)
        processor, wall = time.process_time(), time.perf_counter()
        found = lm_eval.evaluator.evaluate(lm=model, task_dict=loaded, bootstrap_iters=0)
        spent = {"processor_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    rows = found["samples"]["stories"]
    answers = [score for row in rows for ((score, _),) in row["resps"]]
    return spent | {"acc": found["results"]["stories"]["acc,none"], "answers": answers}


def our_answers(directory: Path, task: Path) -> Iterator[dict[str, Any]]:
    """Our samples, one each time."""
    with elm_mlx.load(directory) as lm:
        while True:
            examinee = Examinee(lm, Remembered(None, {}))
            yield ask(examinee, task) | {"positions": examinee.scorer.positions}


def their_answers(directory: Path, task: Path) -> Iterator[dict[str, Any]]:
    """mlx-lm's samples, one each time."""
    from mlx_lm.evaluate import MLXLM

    logging.disable(logging.WARNING)
    model = MLXLM(str(directory), use_chat_template=False)
    while True:
        yield ask(model, task)


SIDES = {"ours": our_answers, "theirs": their_answers}


def answer(side: str, directory: Path, task: Path) -> None:
    """Prints a sample of one side for each line of standard input."""
    samples = SIDES[side](directory, task)
    for _ in sys.stdin:
        print(json.dumps(next(samples)), flush=True)


def measure(directory: Path, task: Path, rounds: int) -> list[dict[str, dict[str, Any]]]:
    """The samples of both, a pair a round; the first round warms up and is left out."""
    samples = []
    with ExitStack() as stack:
        sides = {side: stack.enter_context(started(side, directory, task)) for side in SIDES}
        for _ in range(rounds + 1):
            samples.append({side: sample_of(process) for side, process in sides.items()})
    return samples[1:]


@contextmanager
def started(side: str, directory: Path, task: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that answers for one side, until its standard input ends."""
    command = [sys.executable, __file__, "--side", side, "--model", str(directory), "--task", str(task)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def sample_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Asks a process for one sample."""
    assert process.stdin
    assert process.stdout
    print(file=process.stdin, flush=True)
    return dict(json.loads(process.stdout.readline()))


def rows_alone(directory: Path, count: int) -> int:
    """The positions of all texts where each is read by itself."""
    with elm_mlx.load(directory) as lm:
        pairs = [(row["context"], " " + end) for row in questions(count) for end in row["endings"]]
        return sum(len(text_ending(lm.tokenizer, *pair).ids) - 1 for pair in pairs)


def main() -> None:
    """Measures in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a directory; default: the demo in float32")
    parser.add_argument("--random", choices=[*SHAPES], help="or a shape with random weights, in float32")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for all samples")
    parser.add_argument("--side", choices=[*SIDES], help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        answer(asked.side, asked.model, asked.task)
        return
    with opened(asked.random, asked.model) as directory, task_file(asked.questions) as task:
        alone = rows_alone(directory, asked.questions)
        samples = measure(directory, task, asked.rounds)
    for figure in ("processor_s", "wall_s"):
        ratios = [one["theirs"][figure] / one["ours"][figure] for one in samples]
        print(f"{figure:<12} theirs / ours {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    last = samples[-1]
    positions = last["ours"]["positions"]
    print(f"positions    {positions:,} of {alone:,} row by row: {alone / positions:.2f} times fewer")
    farthest = max(abs(a - b) for a, b in zip(last["ours"]["answers"], last["theirs"]["answers"], strict=True))
    print(f"accuracies   ours {last['ours']['acc']:.3f}, theirs {last['theirs']['acc']:.3f}; "
          f"log-probabilities differ by {farthest:.2g} at most")  # fmt: skip
    if asked.json:
        for one in samples:
            for side in one.values():
                side.pop("answers")
        facts = {name: value.name if isinstance(value, Path) else value for name, value in vars(asked).items()}
        done = {"schema": SCHEMA, "asked": facts, "versions": versions(), "row_by_row": alone, "farthest": farthest,
                "samples": samples}  # fmt: skip
        asked.json.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
