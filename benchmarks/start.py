"""How long a person waits: wall time from the start of a process to the first byte of its output, medians of 11.

    python benchmarks/start.py [--json FILE]

Measured are `--help`, the demo's first token, and the first token of a tiny model in the hub's cache whose tokenizer is
of Llama 3's size: 128,256 entries and 280,147 merges, written with blanks as repositories have it. The tiny model is
measured as another program left it in the cache, and again once `elm-mlx pull` has kept it. The parts that no program
could leave out (Python, MLX, parsing that tokenizer) are timed alone, as the floor. mlx-lm's first tokens of both
models are measured through its Python API, without torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from elm_mlx.demo import demo_directory
from elm_mlx.files import write_whole

RUNS = 11
VOCAB, BYTES, MERGES = 128_000, 256, 280_147  # Llama 3's
NAME, COMMIT = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
LAYERS, WIDTH, HEADS, HEAD_DIM = 2, 64, 4, 16
ELM = [sys.executable, "-m", "elm_mlx"]
FLOOR = """
import sys
import mlx.core as mx, tokenizers
tokenizers.Tokenizer.from_buffer(open(sys.argv[1], "rb").read())
mx.eval(mx.zeros(1))
print("done")
"""
PEER = """
import sys
sys.modules["torch"] = None
from mlx_lm import load, stream_generate
for piece in stream_generate(*load(sys.argv[1]), "Once upon a time", max_tokens=8):
    print(piece.token, flush=True)
"""


def words(rng: random.Random) -> tuple[dict[str, int], list[str]]:
    """A byte-level vocabulary and merges of Llama 3's size, made by joining known pieces at random."""
    visible = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    pieces = [*visible, *(chr(256 + n) for n in range(BYTES - len(visible)))]
    ids, merges = {piece: i for i, piece in enumerate(pieces)}, {}
    while len(ids) < VOCAB:
        left, right = (pieces[int(rng.random() ** 20 * len(pieces))] for _ in range(2))
        if len(left + right) <= 12 and left + right not in ids:
            ids[left + right] = len(pieces)
            pieces.append(left + right)
            merges[f"{left} {right}"] = None
    splits = (f"{word[:cut]} {word[cut:]}" for word in pieces for cut in range(1, len(word))
              if word[:cut] in ids and word[cut:] in ids)  # fmt: skip
    merges |= dict.fromkeys(splits)
    return ids, list(merges)[:MERGES]


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json as Llama 3's repositories have it."""
    ids, merges = words(random.Random(0))
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{n}|>" for n in range(254))]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": VOCAB + n, "content": name, "special": True} | flags for n, name in enumerate(names)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": True}
    return {"version": "1.0", "added_tokens": added, "pre_tokenizer": level, "decoder": level, "model": model}


def weights() -> dict[str, mx.array]:
    """The random weights of a tiny Llama, by name."""
    rng, E, D = np.random.default_rng(0), WIDTH, HEADS * HEAD_DIM

    def rows(*shape: int) -> mx.array:
        return mx.array(rng.normal(0, 0.02, shape).astype(np.float32)).astype(mx.bfloat16)

    tensors = {"model.embed_tokens.weight": rows(VOCAB + 256, E), "model.norm.weight": rows(E)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        tensors |= {f"{at}.self_attn.{x}_proj.weight": rows(D, E) for x in "qkvo"}
        tensors |= {f"{at}.mlp.{x}_proj.weight": rows(E, E) for x in ("gate", "up", "down")}
        tensors |= {f"{at}.{x}_layernorm.weight": rows(E) for x in ("input", "post_attention")}
    return tensors


def publish(cache: Path) -> Path:
    """Writes the tiny model as the hub's cache holds a repository, and returns the folder of its snapshot."""
    folder = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "head_dim": HEAD_DIM, "intermediate_size": WIDTH, "vocab_size": VOCAB + 256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": True,
        "bos_token_id": VOCAB, "eos_token_id": VOCAB + 1,
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (snapshot / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=2, ensure_ascii=False), encoding="utf-8")
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": True}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    mx.save_safetensors(str(snapshot / "model.safetensors"), weights(), {"format": "mlx"})
    return snapshot


def first_byte(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to the first byte of its output."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        came = os.read(process.stdout.fileno(), 1)
        spent = time.perf_counter() - begun
        process.stdout.read()
    if not came or process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return spent


def measure(folder: Path) -> dict[str, list[float]]:
    """Seconds of every run, by case. The cases take turns, so that a busy moment of the machine slows them all."""
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    fresh, kept = (environment | {"ELM_MLX_CACHE": str(folder / name)} for name in ("fresh", "kept"))
    snapshot = publish(folder / "hf" / "hub")
    by_path = [*ELM, "generate", "--model", str(snapshot), "--prompt", "Once upon a time", "--max-tokens", "8"]
    by_name = [*ELM, "generate", "--model", NAME, "--prompt", "Once upon a time", "--max-tokens", "8"]
    compact = subprocess.run([*ELM, "pull", NAME], env=kept, check=True, capture_output=True, text=True).stdout.strip()
    floor, peer = [sys.executable, "-c", FLOOR], [sys.executable, "-c", PEER]
    cases = {
        "--help": ([*ELM, "--help"], fresh),
        "demo, first token": ([*ELM, "generate", "--max-tokens", "8"], fresh),
        "demo, first token of mlx-lm": ([*peer, str(demo_directory())], fresh),
        "128,256 entries, as published, first token": (by_path, fresh),
        "128,256 entries, as published, first token of mlx-lm": ([*peer, str(snapshot)], fresh),
        "128,256 entries, kept by pull, first token": (by_name, kept),
        "floor: Python, MLX and that tokenizer as published": ([*floor, f"{snapshot}/tokenizer.json"], fresh),
        "floor: Python, MLX and that tokenizer as kept": ([*floor, f"{compact}/tokenizer.json"], kept),
    }  # fmt: skip
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(RUNS + 1):
        for name, (command, surroundings) in cases.items():
            spent = first_byte(command, surroundings)
            if turn:  # the first turn only warms the disk's cache
                samples[name].append(spent)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="Write every sample here.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder))
    for name, seconds in samples.items():
        print(f"{statistics.median(seconds):.3f} s  {name}")
    if options.json:
        write_whole(options.json, json.dumps({"unit": "s", "samples": samples}, indent=1) + "\n")


if __name__ == "__main__":
    main()
