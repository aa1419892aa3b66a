"""Makes the built-in demo and its draft from nothing; README.md describes the result.

    pip install -e '.[cpu,demo-training]'
    python examples/demo_model/make.py [--tokens N] [--work DIR]

A run that was stopped continues where it was when it is started again. The results are in demo/ and draft/ beside this
file (the float checkpoints), in the package (their 8-bit conversions) and in README.md (the figures and samples).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import ship
import stories
from corpus import Corpus, tokenize
from curve import plot, read_curve
from recipe import CURVE_STORIES, HERE, MODELS, OPTIONS, PASSES, STORIES, TEACHERS, TOKENIZER_STORIES, WORK
from tokenizer import load_tokenizer, train_tokenizer
from train import Options, Teacher, load, save, train


def make_corpus(work: Path) -> Corpus:
    """The stories for training, followed by the curve's held-out ones. Writes the corpus and its tokenizer to `work` if
    they are not there."""
    path = work / "corpus.npz"
    if not path.exists():
        train_tokenizer(stories.training(TOKENIZER_STORIES), MODELS["demo"], work)
        texts = [*stories.training(STORIES), *stories.held_out(CURVE_STORIES)]
        tokenize(texts, load_tokenizer(work)).save(path)
    return Corpus.load(path)


def make_checkpoint(name: str, corpus: Corpus, tokens: int, work: Path) -> None:
    """Trains a model on each of `tokens` as often as the recipe says, and writes it as a Hugging Face checkpoint in a
    folder beside this file."""
    teacher = Teacher(load(HERE / TEACHERS[name])) if name in TEACHERS else None
    model = train(MODELS[name], corpus, Options(tokens=PASSES[name] * tokens, **OPTIONS), work / name, teacher)
    save(model, MODELS[name], HERE / name)
    for file in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(work / file, HERE / name / file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the built-in demo and its draft from nothing.")
    parser.add_argument("--tokens", type=int, default=0, help="for a trial; default: those of all stories")
    parser.add_argument("--work", type=Path, default=WORK, help="where unfinished things lie")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    corpus = make_corpus(arguments.work)
    tokens = arguments.tokens or len(corpus.ids) - len(corpus)
    for name in MODELS:
        make_checkpoint(name, corpus, tokens, arguments.work)
    plot({name: read_curve(arguments.work / name) for name in MODELS}, HERE / "curve.svg")
    ship.write_package()
    # In another process, which can still choose its BLAS: here MLX is imported already.
    subprocess.run([sys.executable, HERE / "evaluate.py", "--work", arguments.work], check=True)


if __name__ == "__main__":
    main()
