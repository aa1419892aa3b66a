"""Measures the demo and its draft: bits per token, how often the draft would be right, samples read by the grammar,
overlap with the training text.

    python examples/demo_model/evaluate.py [--work DIR]

Needs what make.py left in DIR, by default work/. Writes figures.json and the marked parts of README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import stories
from corpus import Corpus, tokenize
from grammar import NotAStory
from ngram import KneserNey, bits_per_token
from numpy.typing import NDArray
from overlap import longest_shared_run, repeated_sentences, sentences, shared_ngrams
from recipe import CURVE_STORIES, HERE, PROMPT, STORIES, WORK
from report import rewrite
from rich.console import Console
from rich.progress import track
from tokenizer import load_tokenizer

import elm_mlx
from elm_mlx.errors import NotFound

MEASURED = slice(1000, 1200)  # held-out stories; the curve has the first ones, the package ships the first 64
SAMPLES, FEWER, MAX_TOKENS = 100, 50, 500
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    **{f"{bits}-bit": {"bits": bits} for bits in (8, 6, 4, 3, 2)},
}
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {  # (options, stories); README.md shows stories of the first one
    "sampled, temperature 0.5, top-p 0.9": ({"temperature": 0.5, "top_p": 0.9}, SAMPLES),
    "sampled, temperature 0.6, top-p 0.9": ({"temperature": 0.6, "top_p": 0.9}, SAMPLES),
    "sampled, temperature 0.8, top-p 0.95": ({"temperature": 0.8, "top_p": 0.95}, FEWER),
    "sampled, temperature 1": ({"temperature": 1.0}, FEWER),
}


def main() -> None:
    """Computes and writes all figures, in the order of the report."""
    parser = argparse.ArgumentParser(description="Measures the demo and its draft.")
    parser.add_argument("--work", type=Path, default=WORK, help="where make.py left the corpus and its tokenizer")
    work = parser.parse_args().work
    with suppress(NotFound):  # some machines have no fast BLAS, which only saves time
        elm_mlx.use_fast_blas()
    held_out = list(islice(stories.held_out(MEASURED.stop), MEASURED.start, None))
    training = list(stories.training(STORIES))
    figures: dict[str, Any] = {"text": text_figures(held_out, training)}
    figures["bits per token"] = precisions(held_out) | baselines(held_out, work)
    told = {name: samples(options, count) for name, (options, count) in SETTINGS.items()}
    told["greedy, from held-out first sentences"] = greedy(held_out)
    figures["samples"] = {name: judged(of, training) for name, of in told.items()}
    figures["held-out text, for comparison"] = judged([(story, True) for story in held_out], training)
    (HERE / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    rewrite(HERE / "README.md", figures, [text for text, _ in told[next(iter(SETTINGS))][:20]])


def text_figures(held_out: list[str], training: list[str]) -> dict[str, float]:
    """How much text there is, and how many stories there could be."""
    written = {word.strip(".,!?\"'").removesuffix("'s") for text in training for word in text.split()}
    invented = written & set(stories.invented_names())
    bits = [stories.story(seed).bits for seed in range(2000)]
    return {
        "stories": len(training),
        "distinct": len(set(training)),
        "held out and in training": len(set(training) & set(held_out)),
        "words": len({word.lower() for word in written - invented}),
        "invented names": len(invented),
        "words a story": float(np.mean([len(text.split()) for text in training])),
        "bits a story": float(np.mean(bits)),
        "fewest bits a story": float(np.min(bits)),
    }


def precisions(held_out: list[str]) -> dict[str, dict[str, float]]:
    """In every precision, each converted for it: bits per token of the demo, the share of ids after which the draft
    finds the same one likeliest as the demo does in float32, and the bytes of both."""
    from elm_mlx.convert import convert  # here, as it imports MLX

    found: dict[str, dict[str, float]] = {}
    exact: NDArray[np.int64] | None = None  # what the demo finds likeliest in float32, which is the first precision
    with tempfile.TemporaryDirectory() as folder:
        for precision, options in PRECISIONS.items():
            found[precision], models = {}, {}
            for name in ("demo", "draft"):
                place = Path(folder) / f"{name}-{precision}"
                found[precision][f"{name} bytes"] = convert(HERE / name, place, **options).bytes
                models[name] = elm_mlx.load(place)
            exact = likeliest(models["demo"], held_out, "demo") if exact is None else exact
            found[precision]["demo"] = bits(models["demo"], held_out, f"demo, {precision}")
            same = likeliest(models["draft"], held_out, f"draft, {precision}") == exact
            found[precision]["draft"] = float(same.mean())
    return found


def likeliest(lm: elm_mlx.LanguageModel, texts: Sequence[str], title: str) -> NDArray[np.int64]:
    """The id that a model finds likeliest after each id of the texts."""
    read = (np.array(lm.logits(lm.tokenizer.encode(text))).argmax(-1) for text in progress(texts, title))
    return np.concatenate([*read])


def bits(lm: elm_mlx.LanguageModel, texts: Sequence[str], title: str) -> float:
    """Mean bits per token that a model gives the texts with their ends, its own rounding included."""
    lost, count = 0.0, 0
    for text in progress(texts, title):
        ids = [*lm.tokenizer.encode(text), *lm.stop_ids]
        logits = np.array(lm.logits(ids[:-1]), np.float64)  # (L, V)
        shifted = logits - logits.max(-1, keepdims=True)
        chosen = shifted[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(shifted).sum(-1))
        lost, count = lost - chosen.sum() / math.log(2), count + len(chosen)
    return float(lost / count)


def baselines(held_out: list[str], work: Path) -> dict[str, dict[str, float]]:
    """Bits per token of the held-out stories for n-gram models of the training text, which make.py left in `work`, and
    for the generator itself."""
    training, _ = Corpus.load(work / "corpus.npz").split(CURVE_STORIES)
    measured = tokenize(held_out, load_tokenizer(work))
    model = KneserNey(training.ids, training.offsets)
    chosen = sum(stories.story(stories.HELD_OUT_FROM + i).bits for i in range(MEASURED.start, MEASURED.stop))
    grams = {f"{n}-gram": {"n-gram": bits_per_token(model, measured.ids, measured.offsets, n)} for n in range(1, 7)}
    return grams | {"the generator's choices": {"generator": chosen / (len(measured.ids) - len(held_out))}}


def samples(options: dict[str, Any], count: int) -> list[tuple[str, bool]]:
    """`count` stories of the demo from PROMPT, one for each seed: (text, whether it ended)."""
    lm = elm_mlx.load()
    return [told(lm, PROMPT, seed=seed, **options) for seed in progress(range(count), "Samples")]


def greedy(held_out: list[str]) -> list[tuple[str, bool]]:
    """Greedy stories of the demo from the first sentences of held-out ones: (text, whether it ended)."""
    lm = elm_mlx.load()
    return [told(lm, sentences(text)[0], temperature=0) for text in progress(held_out[:FEWER], "Greedy")]


def told(lm: elm_mlx.LanguageModel, prompt: str, **options: Any) -> tuple[str, bool]:
    """(the prompt and what the model adds to it, whether the story ended)."""
    done = lm.generate(prompt, MAX_TOKENS, **options)
    ids = [*lm.tokenizer.encode(prompt), *done.tokens]  # decoded together, which keeps the blank between the two
    return lm.tokenizer.decode(ids), done.finish_reason == "stop"


def judged(told: list[tuple[str, bool]], training: list[str]) -> dict[str, Any]:
    """How many stories the grammar reads whole, how many ended, and how much of them stands in the training text."""
    texts = [text for text, _ in told]
    words = [text.split() for text in texts]
    known = {sentence for text in training for sentence in sentences(text)}
    median, longest = longest_shared_run(words, (text.split() for text in training))
    return {
        "stories": len(told),
        "read by the grammar": sum(map(reads, texts)),
        "ended": sum(ended for _, ended in told),
        "distinct": len(set(texts)),
        "in training whole": len(set(texts) & set(training)),
        "8-grams in training": shared_ngrams(words, (text.split() for text in training), 8),
        "sentences in training": repeated_sentences(texts, known),
        "longest run in training, median words": median,
        "longest run in training, words": longest,
        "first failures": [why(text) for text in texts if not reads(text)][:10],
    }


def reads(text: str) -> bool:
    return not why(text)


def why(text: str) -> str:
    """Where the grammar stops reading; empty for a story that it reads whole."""
    try:
        stories.grammar().read(text)
    except NotAStory as stopped:
        return str(stopped)
    return ""


def progress(items: Sequence[Any], title: str) -> Any:
    return track(items, title, console=Console(stderr=True), transient=True)


if __name__ == "__main__":
    main()
