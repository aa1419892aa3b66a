"""Trains an OpenELM of the 270M shape on the demo's stories for some minutes, to measure on.

    python benchmarks/train_openelm.py DIR [--minutes N]

Writes a Hugging Face directory with the demo's tokenizer, every ten minutes and at the end; a run that is stopped
leaves what it wrote last. The shapes of all layers are those of OpenELM-270M. Only the vocabulary is smaller: the
demo's 2,048 tokens, as the stories have no more, which leaves 233 million parameters. Needs the extra demo-training.

An hour on two cores is far too little for such a model. What it learns is enough to see how layers of this width lose.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DEMO_MODEL = Path(__file__).parents[1] / "examples/demo_model"
sys.path.insert(0, str(DEMO_MODEL))
import stories  # noqa: E402
from corpus import batches, tokenize  # noqa: E402
from openelm import OpenELM  # noqa: E402
from recipe import FAMILY  # noqa: E402
from tokenizer import load_tokenizer  # noqa: E402
from train import Options, Run  # noqa: E402

from elm_mlx.files import write_json  # noqa: E402

CONFIG: dict[str, Any] = FAMILY | {
    "model_dim": 1280, "num_transformer_layers": 16, "head_dim": 64, "num_gqa_groups": 4, "ffn_dim_divisor": 256,
    "max_context_length": 2048, "torch_dtype": "bfloat16",
}  # fmt: skip
STORIES, HELD_OUT = 4_000, 8
OPTIONS = Options(tokens=1, batch_tokens=512, warmup=0.04, decay=0.6, held_out=HELD_OUT)
RATE = 1e-3
SAVE_SECONDS = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    corpus = tokenize(stories.training(STORIES), load_tokenizer(DEMO_MODEL / "demo"))
    run = Run(CONFIG, corpus, OPTIONS, options.directory)
    run.optimizers = make_optimizers(run.model)
    train(run, 60 * options.minutes)


def make_optimizers(model: OpenELM) -> list[torch.optim.Optimizer]:
    """AdamW for all. Muon learns more by a step, but takes three times as long for matrices of this width and batches
    as small as these."""
    return [torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def train(run: Run, seconds: float) -> None:
    """Trains for this long. The rates follow the time: how many tokens it suffices for is known only at the end."""
    began = saved = time.monotonic()
    for batch in batches(run.training, OPTIONS.batch_tokens, OPTIONS.seed):
        share = (time.monotonic() - began) / seconds
        run.options = replace(OPTIONS, tokens=max(1, round(run.state.tokens / max(share, 1e-3))))
        bits = run.step(batch)
        if run.state.step % 5 == 1:
            print(
                f"{share:.1%}: step {run.state.step}, {run.state.tokens:,} tokens, {bits:.3f} bits a token", flush=True
            )
        done = time.monotonic() - began >= seconds
        if done or time.monotonic() - saved > SAVE_SECONDS:
            run.measure()
            report(f"held out: {run.state.curve[-1]['held_out']:.3f} bits a token")
            write(run.model, run.work)
            saved = time.monotonic()
        if done:
            return


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(model: OpenELM, folder: Path) -> None:
    """Writes the directory; the weights under another name first, so that they are never half written."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.bfloat16().contiguous() for name, weight in model.state_dict().items()}
    unfinished = folder / "model.safetensors.part"
    save_file(weights, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / "model.safetensors")
    write_json(folder / "config.json", CONFIG)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO_MODEL / "demo" / name, folder / name)


if __name__ == "__main__":
    main()
