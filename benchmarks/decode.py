"""Decode and time to first token against mlx-lm: the same directory and ids, a process a sample, in turn.

    python benchmarks/decode.py [--shape openelm-20x64] [--prompt 16] [--tokens 200] [--pairs 5] [--json FILE]

The shapes are narrow, so that what is measured is the work per token that is not arithmetic. The children greedily
decode twice and report the second time. Ratios are mlx-lm's time over ours in the same pair: above 1 we are ahead.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "openelm-20x64": {
        "model_type": "openelm", "vocab_size": 2048, "model_dim": 64, "head_dim": 16, "num_transformer_layers": 20,
        "num_gqa_groups": 4, "qkv_multipliers": [0.5, 1.0], "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": 16,
        "normalize_qk_projections": True, "share_input_output_layers": True, "max_context_length": 16384,
    },
    "llama-16x64": {
        "model_type": "llama", "vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 16,
        "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "max_position_embeddings": 16384,
    },
}  # fmt: skip


def make(folder: Path, shape: str) -> None:
    """A float32 directory of that shape with random weights, spelled so that both programs read it."""
    import mlx.core as mx

    from elm_mlx.api import demo_directory
    from elm_mlx.config import config_from_dict

    config = config_from_dict(SHAPES[shape])
    mx.random.seed(0)
    arrays = {name: mx.random.normal(s) * 0.1 + (len(s) == 1) for name, s in config.weight_shapes().items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"eos_token_id": []}), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((demo_directory() / name).read_bytes())


def ours(folder: Path, ids: list[int], tokens: int) -> tuple[float, float]:
    """(seconds to the first token, seconds a token after it) through the public API."""
    import elm_mlx

    lm = elm_mlx.load(folder, cpu_policy="plain")
    lm.generate(ids, tokens)
    stats = lm.generate(ids, tokens).stats
    assert stats.decode_tokens_per_s
    return stats.time_to_first_token_s, 1 / stats.decode_tokens_per_s


def theirs(folder: Path, ids: list[int], tokens: int) -> tuple[float, float]:
    """The same through mlx-lm's generate_step."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    for _ in generate_step(mx.array(ids), model, max_tokens=tokens):
        pass
    begun = time.perf_counter()
    steps = generate_step(mx.array(ids), model, max_tokens=tokens)
    next(steps)
    first = time.perf_counter()
    count = sum(1 for _ in steps)
    return first - begun, (time.perf_counter() - first) / count


def sample(program: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """One process of one program."""
    command = [sys.executable, __file__, "--child", program, "--folder", str(folder)]
    command += ["--prompt", str(options.prompt), "--tokens", str(options.tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    first, each = json.loads(done.stdout.splitlines()[-1])
    return {"first_token_s": first, "token_s": each}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved pairs, every sample kept."""
    import mlx.core as mx

    make(folder, options.shape)
    pairs = [{name: sample(name, folder, options) for name in ("mlx-lm", "elm-mlx")} for _ in range(options.pairs)]
    ratios = {
        figure: [pair["mlx-lm"][figure] / pair["elm-mlx"][figure] for pair in pairs]
        for figure in ("first_token_s", "token_s")
    }
    return {
        "shape": options.shape,
        "prompt": options.prompt,
        "tokens": options.tokens,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "mlx": mx.__version__,
            "device": str(mx.default_device()),
        },
        "median_ratio": {figure: statistics.median(values) for figure, values in ratios.items()},
        "ratios": ratios,
        "samples": pairs,
    }


def main() -> None:
    """Parses, measures, prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="openelm-20x64")
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=["elm-mlx", "mlx-lm"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        ids = [1, *(3 + 7 * i % 500 for i in range(options.prompt - 1))]
        print(json.dumps({"elm-mlx": ours, "mlx-lm": theirs}[options.child](options.folder, ids, options.tokens)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(measure(Path(folder), options), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
