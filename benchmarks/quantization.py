"""What each way to quantize costs: its size, and what it loses from the unquantized model in float32.

    python benchmarks/quantization.py [--source DIR [--text FILE]] [--sensitivity] [--json FILE]

Without a source: the demo on stories held out from its training, and a Llama of random weights on the same ids. FILE
has a text a line. KL is the mean over tokens of KL(float32 || stored) in nats; perplexity is that of the text; top-1 is
how often both hold the same token for the likeliest. Every model goes through the converter, and is measured as it is
loaded, which on the CPU backend computes in float32.

With --sensitivity one kind of matrices at a time, and one layer at a time, is rounded to 2, 3 and 4 bits in groups of
64, and all others stay as they are. The mixed recipes were chosen by that, on other stories than the tables have.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import elm_mlx
from elm_mlx.errors import NotFound
from elm_mlx.files import write_whole

if TYPE_CHECKING:
    import mlx.core as mx

ROOT = Path(__file__).parents[1]
DEMO, STORIES = ROOT / "examples/demo_model/demo", ROOT / "elm_mlx/demo/held_out.txt"
TEXTS, CHOSEN_BY = slice(24, 64), slice(0, 24)  # the tables' stories, and those by which the recipes were chosen
SETTINGS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "8-bit": {"bits": 8},
    "mxfp8": {"mode": "mxfp8"},
    "6-bit": {"bits": 6},
    "5-bit, groups of 32": {"bits": 5, "group_size": 32},
    "5-bit": {"bits": 5},
    "mixed-4-6": {"recipe": "mixed-4-6"},
    "5 bits mixed": {"target_bits": 5.0},
    "4-bit, groups of 32": {"bits": 4, "group_size": 32},
    "4-bit": {"bits": 4},
    "nvfp4": {"mode": "nvfp4"},
    "mixed-3-5": {"recipe": "mixed-3-5"},
    "mxfp4": {"mode": "mxfp4"},
    "4 bits mixed": {"target_bits": 4.0},
    "3-bit, groups of 32": {"bits": 3, "group_size": 32},
    "3-bit": {"bits": 3},
    "mixed-2-4": {"recipe": "mixed-2-4"},
    "2-bit, groups of 32": {"bits": 2, "group_size": 32},
    "2-bit": {"bits": 2},
}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way to store a model, and what is lost by it; `bytes` are those of the weights."""

    setting: str
    bits_per_weight: float
    bytes: int
    kl: float
    perplexity: float
    top1: float


@dataclass(frozen=True)
class Part:
    """Some matrices of a model: their share of its weights, and the KL of rounding them alone to 2, 3 and 4 bits."""

    part: str
    share: float
    kl: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="An unquantized checkpoint with its tokenizer.")
    parser.add_argument("--text", type=Path, default=STORIES, help="What it is measured on, a text a line.")
    parser.add_argument("--sensitivity", action="store_true", help="Round one part at a time.")
    parser.add_argument("--json", type=Path, help="Write every row here.")
    options = parser.parse_args()
    with suppress(NotFound):  # some machines have no fast BLAS, which only saves time
        elm_mlx.use_fast_blas()
    texts = options.text.read_text(encoding="utf-8").splitlines()
    if options.text == STORIES:
        texts = texts[CHOSEN_BY if options.sensitivity else TEXTS]
    tables: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        named = {options.source.name: options.source} if options.source else {"demo": DEMO}
        if not options.source and not options.sensitivity:
            named["llama-random"] = random_llama(Path(folder, "random"))
        for name, source in named.items():
            exact = Exact(source, texts, Path(folder, name))
            tables[name] = sensitivity(exact) if options.sensitivity else measure(exact)
            print(f"\n{name}\n\n{(parts_table if options.sensitivity else rows_table)(tables[name])}")
    if options.json:
        document = {"machine": machine()} | {name: [asdict(row) for row in rows] for name, rows in tables.items()}
        write_whole(options.json, json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, str]:
    """The machine that the figures were measured on."""
    import mlx.core as mx  # here, as the fast BLAS must be loaded before

    device = str(mx.default_device())
    return {"system": f"{platform.system()} {platform.machine()}", "mlx": version("mlx"), "device": device}


def random_llama(folder: Path) -> Path:
    """Writes a Llama 3 checkpoint of seeded random weights, with the demo's tokenizer, and returns its folder."""
    import mlx.core as mx

    from elm_mlx.config import config_from_dict

    rng = np.random.default_rng(0)
    shapes = config_from_dict(LLAMA).weight_shapes()
    arrays = {name: mx.array(rng.normal(len(shape) == 1, shape[-1] ** -0.5, shape)) for name, shape in shapes.items()}
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), {k: v.astype(mx.bfloat16) for k, v in arrays.items()})
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DEMO / name).read_bytes())
    return folder


class Exact:
    """A checkpoint, the ids of the texts, and the log probabilities that the checkpoint gives them in float32."""

    def __init__(self, source: Path, texts: list[str], folder: Path) -> None:
        from elm_mlx.convert import convert  # here, as it imports MLX

        self.source, self.folder = source, folder
        lm = elm_mlx.load(convert(source, folder / "float32", dtype="float32").output)
        self.ids = [[*lm.tokenizer.encode(text), min(lm.stop_ids)] for text in texts]
        self.truth = self.log_probabilities(lm)

    def log_probabilities(self, lm: elm_mlx.LanguageModel) -> np.ndarray:
        """log p of every token after every prefix, text after text: float64 [tokens, V]."""
        logits = np.concatenate([np.array(lm.logits(ids[:-1])) for ids in self.ids]).astype(np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    def lost(self, directory: Path) -> tuple[float, float, float]:
        """What a directory lost from the checkpoint: (mean KL in nats a token, perplexity of the texts, share of tokens
        for which both hold one token for the likeliest)."""
        p, q = self.truth, self.log_probabilities(elm_mlx.load(directory))
        targets = np.concatenate([ids[1:] for ids in self.ids])
        kl = (np.exp(p) * (p - q)).sum(-1).mean()
        nats = -q[np.arange(len(targets)), targets].mean()
        return float(kl), float(np.exp(nats)), float((p.argmax(-1) == q.argmax(-1)).mean())


def measure(exact: Exact) -> list[Row]:
    """Converts the checkpoint with every setting: a row for each, the largest first."""
    from elm_mlx.convert import convert

    rows = []
    for setting, how in SETTINGS.items():
        print(f"{exact.source.name}: {setting}", file=sys.stderr)
        done = convert(exact.source, exact.folder / setting, **how)
        rows.append(Row(setting, done.bits_per_weight, done.bytes, *exact.lost(done.output)))
    return sorted(rows, key=lambda row: -row.bits_per_weight)


def sensitivity(exact: Exact) -> list[Part]:
    """Rounds one part of the checkpoint at a time: a row for every kind of matrix, and for every layer."""
    import mlx.core as mx

    weights: dict[str, mx.array] = mx.load(str(exact.folder / "float32/model.safetensors"))  # type: ignore[assignment]
    count = sum(weight.size for weight in weights.values())
    parts: dict[str, list[str]] = {}
    for name in (name for name, weight in weights.items() if weight.ndim == 2):
        layer = re.search(r"layers\.\d+", name)
        parts.setdefault(name.split(".")[-2], []).append(name)
        if layer:
            parts.setdefault(layer[0], []).append(name)
    return [Part(part, sum(weights[name].size for name in names) / count,
                 [exact.lost(write_rounded(exact, weights, names, bits))[0] for bits in (2, 3, 4)])
            for part, names in sorted(parts.items())]  # fmt: skip


def write_rounded(exact: Exact, weights: dict[str, mx.array], names: list[str], bits: int) -> Path:
    """Writes the checkpoint in float32 with the named matrices rounded as quantization rounds them; its directory."""
    import mlx.core as mx

    directory = shutil.copytree(exact.folder / "float32", exact.folder / "rounded", dirs_exist_ok=True)
    changed = {}
    for name in names:
        words, *floats = mx.quantize(weights[name].astype(mx.bfloat16), group_size=64, bits=bits)
        changed[name] = mx.dequantize(words, *(each.astype(mx.float32) for each in floats), group_size=64, bits=bits)
    mx.save_safetensors(str(directory / "model.safetensors"), weights | changed)
    return directory


def rows_table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| stored as | bits per weight | MB | KL, nats a token | perplexity | same top token |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in rows:
        lines.append(f"| {row.setting} | {row.bits_per_weight:.2f} | {row.bytes / 1e6:.2f} | {row.kl:.5f} | "
                     f"{row.perplexity:.3f} | {row.top1:.1%} |")  # fmt: skip
    return "\n".join(lines)


def parts_table(parts: list[Part]) -> str:
    """The parts as a Markdown table."""
    lines = ["| rounded alone | share of weights | KL at 2 bits | 3 bits | 4 bits |", "|---|---:|---:|---:|---:|"]
    for part in parts:
        lines.append(f"| {part.part} | {part.share:.1%} | {' | '.join(f'{kl:.5f}' for kl in part.kl)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
