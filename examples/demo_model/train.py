"""Trains an OpenELM on a corpus: Muon for the matrices, AdamW for the rest, and checkpoints to continue from.

A model with a teacher learns what that one finds likely after each id, and above all what it finds likeliest: a draft's
proposals are right where they are what the other model would have said.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from corpus import IGNORED, Batch, Corpus, batch, batches, epoch_groups
from openelm import OpenELM
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from elm_mlx.files import write_json

CHECKPOINT_SECONDS = 180.0
CLIPPED_NORM = 1.0

Point = dict[str, float]  # step, tokens, and bits per token: training (the mean since the last point), held_out


@dataclass(frozen=True)
class Options:
    """The settings of a run, which decide its result together with the config, the corpus and a teacher."""

    tokens: int
    batch_tokens: int = 4096
    matrix_rate: float = 0.01
    other_rate: float = 0.01
    matrix_decay: float = 0.1
    warmup: float = 0.02  # the first share of the tokens, over which the rates rise
    decay: float = 0.7  # the last share of the tokens, over which the rates fall to zero
    held_out: int = 256  # stories, the corpus's last
    measure_every: int = 100  # steps
    seed: int = 0


@dataclass(frozen=True)
class Teacher:
    """A model that another one learns from. Its logits are multiplied by `sharpness`, so that what it finds likeliest
    counts most."""

    model: OpenELM
    sharpness: float = 4.0

    def likely(self, ids: torch.Tensor) -> torch.Tensor:
        """What comes after each id, and how likely: [B, L] -> [B, L, V]."""
        with torch.no_grad():
            return (self.sharpness * logits_of(self.model, ids)).softmax(-1)

    def fingerprint(self) -> str:
        """A hash of the weights and the sharpness."""
        parts = (weight.cpu().numpy().tobytes() for weight in self.model.state_dict().values())
        return hashlib.sha256(b"".join([*parts, str(self.sharpness).encode()])).hexdigest()


@dataclass
class State:
    """How far a run has come; with the model and the optimizers it decides every later step."""

    step: int = 0
    tokens: int = 0
    bits: float = 0.0  # that the tokens since the curve's last point cost
    curve: list[Point] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """The tokens since the curve's last point."""
        return self.tokens - int(self.curve[-1]["tokens"] if self.curve else 0)


class Run:
    """A model in training, with the checkpoint from which a stopped run continues."""

    def __init__(
        self, config: dict[str, Any], corpus: Corpus, options: Options, work: Path, teacher: Teacher | None = None
    ) -> None:
        torch.manual_seed(options.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.options, self.state = OpenELM(config).to(self.device), options, State()
        self.teacher = teacher
        self.optimizers = make_optimizers(self.model, options)
        self.training, held_out = corpus.split(options.held_out)
        self.held_out = [batch(held_out, group) for group in epoch_groups(held_out, options.batch_tokens, 0, 0)]
        self.work = work
        self.made_with = {"config": config, "options": asdict(options), "corpus": corpus.fingerprint()}
        if teacher:
            teacher.model.to(self.device)
            self.made_with["teacher"] = teacher.fingerprint()

    def save(self) -> None:
        """Writes the checkpoint, under another name first so that it is never half written, and the curve."""
        unfinished = self.work / "checkpoint.part"
        parts = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save({"made_with": self.made_with, "state": asdict(self.state)} | parts, unfinished)
        unfinished.replace(self.work / "checkpoint.pt")
        write_json(self.work / "curve.json", self.state.curve)

    def load(self) -> None:
        """Loads the checkpoint if there is one made with the same config, options, corpus and teacher."""
        path = self.work / "checkpoint.pt"
        saved = torch.load(path, map_location=self.device, weights_only=True) if path.exists() else {}
        if saved.get("made_with") != self.made_with:
            return
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = State(**saved["state"])

    def step(self, batch: Batch) -> float:
        """Updates the weights once, and returns the bits per token that the batch cost before the update."""
        ids, targets = (part.to(self.device) for part in batch)
        count = int((targets != IGNORED).sum())
        scale_rates(self.optimizers, schedule(self.state.tokens / self.options.tokens, self.options))
        logits = logits_of(self.model, ids)
        bits = text_bits(logits, targets)
        loss = self.taught_bits(logits, ids, targets) if self.teacher else bits
        self.model.zero_grad()
        (loss * (math.log(2) / count)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPED_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step, self.state.tokens = self.state.step + 1, self.state.tokens + count
        self.state.bits += bits.item()
        return bits.item() / count

    def taught_bits(self, logits: torch.Tensor, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The bits that all targets cost together where each is what the teacher finds likely, and not the text's."""
        assert self.teacher
        likely = self.teacher.likely(ids).flatten(0, 1)
        costs = F.cross_entropy(logits.flatten(0, 1), likely, reduction="none")
        return costs[targets.flatten() != IGNORED].sum() / math.log(2)

    @torch.no_grad()
    def measure(self) -> None:
        """Adds a point to the curve: training since the last point, and the held-out stories now."""
        parts = [[part.to(self.device) for part in each] for each in self.held_out]
        bits = sum(text_bits(logits_of(self.model, ids), targets).item() for ids, targets in parts)
        count = sum(int((targets != IGNORED).sum()) for _, targets in self.held_out)
        state = self.state
        training = state.bits / state.pending
        state.curve.append({"step": state.step, "tokens": state.tokens, "training": training, "held_out": bits / count})
        state.bits = 0.0


def logits_of(model: OpenELM, ids: torch.Tensor) -> torch.Tensor:
    """What a model finds after each id: [B, L] -> [B, L, V] in float32."""
    with mixed_precision(ids.device):
        logits: torch.Tensor = model(ids)
    return logits.float()


def text_bits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The bits that all targets [B, L] cost together by their logits [B, L, V]."""
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss / math.log(2)


def train(
    config: dict[str, Any], corpus: Corpus, options: Options, work: Path, teacher: Teacher | None = None
) -> OpenELM:
    """Trains a model on `options.tokens` tokens. `work` gets curve.json, and checkpoint.pt, from which a later call
    continues."""
    work.mkdir(parents=True, exist_ok=True)
    run = Run(config, corpus, options, work, teacher)
    run.load()
    if run.state.tokens < options.tokens:
        with progress_bar(run.state, options.tokens) as advance:
            go_on(run, advance)
    return run.model


def go_on(run: Run, advance: Callable[[float], None]) -> None:
    """Runs all steps that are left, with a checkpoint every few minutes and one at the end."""
    saved = time.monotonic()
    for each in batches(run.training, run.options.batch_tokens, run.options.seed, run.state.step):
        advance(run.step(each))
        done = run.state.tokens >= run.options.tokens
        if done or run.state.step % run.options.measure_every == 0:
            run.measure()
        if done or time.monotonic() - saved > CHECKPOINT_SECONDS:
            run.save()
            saved = time.monotonic()
        if done:
            return


def make_optimizers(model: OpenELM, options: Options) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = [weight for name, weight in model.named_parameters() if is_matrix(name, weight)]
    others = [weight for name, weight in model.named_parameters() if not is_matrix(name, weight)]
    rate, decay = options.matrix_rate, options.matrix_decay
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether the parameter maps vectors to vectors; an embedding is a table of them."""
    return weight.ndim == 2 and "embedding" not in name


def schedule(done: float, options: Options) -> float:
    """The factor of the learning rates after the share `done` of the tokens: it rises, stays, and falls to zero, each
    in a straight line."""
    return min(1.0, (done + 1e-3) / options.warmup, (1.0 - done) / options.decay)


def scale_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Sets each learning rate to `factor` of the one that its optimizer was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * factor


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context with bfloat16 products where the hardware has them: elsewhere they are slower than float32's."""
    able = torch.cpu.get_capabilities()
    native = device.type == "cuda" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


@contextmanager
def progress_bar(state: State, total: int) -> Iterator[Callable[[float], None]]:
    """Shows a bar on stderr, and yields a function to call after each step with the step's bits per token."""
    text = TextColumn("{task.percentage:.1f}% step {task.fields[step]}, {task.fields[bits]:.3f} bits per token, "
                      "{task.fields[rate]:.0f} tokens/s,")  # fmt: skip
    began, first = time.monotonic(), state.tokens
    with Progress(BarColumn(), text, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=first, step=state.step, bits=math.nan, rate=0.0)

        def advance(bits: float) -> None:
            rate = (state.tokens - first) / (time.monotonic() - began)
            bar.update(task, completed=state.tokens, step=state.step, bits=bits, rate=rate)

        yield advance


def save(model: OpenELM, config: dict[str, Any], folder: Path) -> None:
    """Writes config.json and the weights in bfloat16, both as safetensors and as PyTorch's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.bfloat16().cpu().contiguous() for name, weight in model.state_dict().items()}
    write_json(folder / "config.json", config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save(weights, folder / "pytorch_model.bin")


def load(folder: Path) -> OpenELM:
    """Reads the model that `save` wrote, to be a teacher."""
    model = OpenELM(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict({name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()})
    return model.eval()
