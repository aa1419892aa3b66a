"""What each way of storing weights, and keys and values, costs a model in quality: by the commands of elm-mlx alone.

    python benchmarks/quality.py [--source DIR] [--text FILE] [--texts 40]
                                 [--task YAML | --questions N] [--only NAME ...] [--json FILE]

Each way of storing weights is `elm-mlx convert`, and is measured by `elm-mlx perplexity --kl-against SOURCE`: bits per
byte, the mean KL(source || stored) in nats a token, and how often both find the same token the likeliest. Each way of
holding keys and values is the same command with --kv-bits or --cache-window on the source itself. With `--task` the
questions of a task are asked too, by `elm-mlx eval`, and each way is compared with the source by `eval --compare`;
`--questions` asks so many of those of evaluation.py, which end of a story comes next. The
seed is 0, and every command stands in the result. FILE has a text a line, each read by itself. Without a source it is
the demo in bfloat16, and without a FILE its held-out stories, those by which the recipes were not chosen. A figure of
quality is no time, so a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA, SEED = "elm-mlx quality 1", 0
ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo_model" / "demo"
STORIES, CHOSEN_BY = ROOT / "elm_mlx" / "demo" / "held_out.txt", 24  # recipes were chosen by the first ones
WEIGHTS: dict[str, list[str]] = {
    "bfloat16": ["--dtype", "bfloat16"],
    "8 bits": ["--bits", "8"],
    "mxfp8": ["--mode", "mxfp8"],
    "6 bits": ["--bits", "6"],
    "mixed-4-6": ["--recipe", "mixed-4-6"],
    "4 bits": ["--bits", "4"],
    "4 bits, calibrated": ["--bits", "4", "--calibrate"],
    "nvfp4": ["--mode", "nvfp4"],
    "mxfp4": ["--mode", "mxfp4"],
    "mixed-3-5": ["--recipe", "mixed-3-5"],
    "3 bits": ["--bits", "3"],
    "3 bits, calibrated": ["--bits", "3", "--calibrate"],
    "mixed-2-4": ["--recipe", "mixed-2-4"],
    "2 bits": ["--bits", "2"],
    "2 bits, calibrated": ["--bits", "2", "--calibrate"],
}
CACHES: dict[str, list[str]] = {
    "caches in floats": [],
    "--kv-bits 8": ["--kv-bits", "8"],
    "--kv-bits k8v4": ["--kv-bits", "k8v4"],
    "--kv-bits 4": ["--kv-bits", "4"],
    "a window of 128": ["WINDOW", "128"],
    "a window of 64": ["WINDOW", "64"],
}
RESULTS = ("source.json", "stored.json")
FLAGS = {"WINDOW": {"perplexity": "--cache-window", "eval": "--window"}}  # the two commands call it differently


class Commands:
    """The commands of elm-mlx, each in a process of its own, and a note of all that were given; `places` are shown by
    name alone."""

    def __init__(self, places: dict[str, Path], kept: Path) -> None:
        self.given: list[str] = []
        self._names = {str(path): name for name, path in places.items()}
        path = [str(ROOT), os.environ.get("PYTHONPATH")]
        self._environment = os.environ | {"ELM_MLX_CACHE": str(kept), "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def run(self, name: str, *arguments: str) -> dict[str, Any]:
        """Gives one command and returns what it prints with --json. Ends the program where the command fails."""
        words = [FLAGS.get(word, {}).get(name, word) for word in arguments]
        self.given.append(" ".join(["elm-mlx", name, *(self._names.get(word, word) for word in words)]))
        command = [sys.executable, "-m", "elm_mlx", name, *words, "--quiet", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=self._environment, check=False, text=True)
        if done.returncode:
            raise SystemExit(f"{self.given[-1]} failed.")
        return dict(json.loads(done.stdout))


def measure(commands: Commands, asked: argparse.Namespace, model: Path, how: list[str]) -> dict[str, Any]:
    """A way's figures: from the text, and from the task where there is one."""
    named = ["--model", str(model), "--kl-against", str(asked.source), "--text", str(asked.folder), *how]
    found = commands.run("perplexity", *named)
    row = {name: value for name, value in found.items() if name not in ("model", "text")}
    if asked.task:
        task = ["--model", str(model), "--tasks", str(asked.task), "--seed", str(SEED), *how]
        row["task"] = commands.run("eval", *task)
    return row


def compared(commands: Commands, rows: dict[str, dict[str, Any]], folder: Path) -> None:
    """Puts the differences from the source into the rows that have answers to a task."""
    first = rows["caches in floats"].get("task")
    for row in rows.values() if first else ():
        task = row.pop("task")
        places = [folder / name for name in RESULTS]
        for place, result in zip(places, (first, task), strict=True):
            place.write_text(json.dumps(result), encoding="utf-8")
        row["task"] = commands.run("eval", "--compare", *map(str, places))["differences"]
        for place in places:
            place.unlink()


def converted(commands: Commands, source: Path, folder: Path, how: list[str]) -> tuple[Path, int]:
    """A model stored in one way, and the bytes of its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    commands.run("convert", str(source), "--output", str(folder), *how)
    return folder, sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@contextmanager
def stories(questions: int) -> Iterator[Path | None]:
    """The task of evaluation.py with so many questions; None for none."""
    if not questions:
        yield None
        return
    from evaluation import task_file  # here, as it brings MLX

    with task_file(questions) as path:
        yield path


def write_texts(asked: argparse.Namespace, folder: Path) -> Path:
    """A folder with a file for each text, which the command reads by itself."""
    folder.mkdir()
    lines = (asked.text or STORIES).read_text(encoding="utf-8").splitlines()
    chosen = lines[0 if asked.text else CHOSEN_BY :][: asked.texts]
    for number, text in enumerate(filter(None, chosen)):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    return folder


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| stored as | MB | bits per byte | KL, nats per token | same top token | task, less the source's |",
             "|---|--:|--:|--:|--:|---|"]  # fmt: skip
    for name, row in rows.items():
        size = f"{row['bytes_of_weights'] / 1e6:.1f}" if "bytes_of_weights" in row else ""
        told = "; ".join(
            f"{one['metric']} {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
            for one in row.get("task") or () if one["low"] is not None
        )  # fmt: skip
        lines.append(f"| {name} | {size} | {row['bits_per_byte']:.4f} | {row['kl_divergence']:.5f} | "
                     f"{row['same_top']:.2%} | {told} |")  # fmt: skip
    return "\n".join(lines)


def write(asked: argparse.Namespace, commands: Commands, rows: dict[str, dict[str, Any]]) -> None:
    """Writes what is known so far, where a file is named."""
    if asked.json:
        settings = {"source": asked.source.name, "text": (asked.text or STORIES).name, "texts": asked.texts,
                    "task": asked.task and asked.task.name, "seed": SEED}  # fmt: skip
        done = {"schema": SCHEMA, "settings": settings, "commands": commands.given, "rows": rows}
        asked.json.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures every way, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=DEMO, help="an unquantized checkpoint with its tokenizer")
    parser.add_argument("--text", type=Path, help="UTF-8, a text a line; default: the demo's held-out stories")
    parser.add_argument("--texts", type=int, default=40, help="read so many of them")
    parser.add_argument("--task", type=Path, help="a YAML file of a task; needs the extra eval")
    parser.add_argument("--questions", type=int, default=0, help="or ask so many questions about the demo's stories")
    parser.add_argument("--only", nargs="+", choices=[*WEIGHTS, *CACHES], help="measure these alone")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    asked = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as made, stories(asked.questions) as task:
        folder = Path(made)
        asked.task = task or asked.task
        asked.folder = write_texts(asked, folder / "texts")
        places = {asked.source.name: asked.source, "STORED": folder / "stored", "TEXTS": asked.folder}
        places |= {asked.task.name: asked.task} if asked.task else {}
        places |= {name: folder / name for name in RESULTS}
        commands = Commands(places, folder / "kept")
        for name, how in CACHES.items():
            if not asked.only or name in asked.only or (asked.task and name == "caches in floats"):
                rows[name] = measure(commands, asked, asked.source, how)
                write(asked, commands, rows)
        for name, how in WEIGHTS.items():
            if not asked.only or name in asked.only:
                stored, size = converted(commands, asked.source, folder / "stored", how)
                rows[name] = measure(commands, asked, stored, []) | {"bytes_of_weights": size}
            if name in rows:
                print(f"{name}: {rows[name]['kl_divergence']:.5f} nats a token", file=sys.stderr, flush=True)
                write(asked, commands, rows)
        if asked.task:
            compared(commands, rows, folder)
        write(asked, commands, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
