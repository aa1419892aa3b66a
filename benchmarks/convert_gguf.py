"""Time and memory of converting a Q4_K_M file of OpenELM-270M's shape, beside the same shape from safetensors.

    python benchmarks/convert_gguf.py [--pairs 3] [--json FILE]

The file has drawn bits: most matrices in Q4_K, the embedding and half of the layers' last matrices in Q6_K, as
llama.cpp's Q4_K_M has them. It is converted as it is, its bits kept; the safetensors, in bfloat16, to 4 bits in groups
of 32. Each sample is a process of its own, one after another, in turn; the ratios are of medians. Memory is counted in
anonymous bytes (RssAnon of /proc, every few milliseconds, so it needs Linux), over what Python itself has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import convert_memory
import numpy as np

OPENELM_270M: dict[str, Any] = {
    "model_type": "openelm", "vocab_size": 32000, "model_dim": 1280, "head_dim": 64, "num_transformer_layers": 16,
    "num_gqa_groups": 4, "qkv_multipliers": [0.5, 1.0], "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": 256,
    "normalize_qk_projections": True, "share_input_output_layers": True, "max_context_length": 2048,
    "torch_dtype": "bfloat16",
}  # fmt: skip
FLOAT32, Q4_K, Q6_K = 0, 12, 14
BLOCKS = {Q4_K: (144, (0, 2)), Q6_K: (210, (208,))}  # bytes, and where their float16 scales lie; 256 elements each
MOST_SECONDS, MOST_BYTES = 2.0, 500_000_000  # by issue 20: times the safetensors, and in all
PROGRAMS = {
    "gguf": "from elm_mlx.convert import convert; convert(sys.argv[1], sys.argv[2])",
    "safetensors, 4-bit": "from elm_mlx.convert import convert; convert(sys.argv[1], sys.argv[2], bits=4, "
    "group_size=32)",
    "safetensors, bfloat16": "from elm_mlx.convert import convert; convert(sys.argv[1], sys.argv[2])",
}


def tensors_of(raw: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(name, shape, type) of each tensor of a Q4_K_M file of an OpenELM."""
    from elm_mlx.config import config_from_dict

    config = config_from_dict(raw)
    yield "token_embd.weight", (config.vocab_size, config.model_dim), Q6_K
    for i, (heads, kv_heads, width) in enumerate(
        zip(config.num_heads, config.num_kv_heads, config.ffn_dims, strict=True)
    ):
        rows, model = (heads + 2 * kv_heads) * config.head_dim, config.model_dim
        for name, shape, kind in (
            ("attn_qkv", (rows, model), Q4_K), ("attn_output", (model, heads * config.head_dim), Q4_K),
            ("ffn_gate", (width, model), Q4_K), ("ffn_up", (width, model), Q4_K),
            ("ffn_down", (model, width), Q6_K if i % 2 else Q4_K),
            ("attn_q_norm", (config.head_dim,), FLOAT32), ("attn_k_norm", (config.head_dim,), FLOAT32),
            ("attn_norm", (model,), FLOAT32), ("ffn_norm", (model,), FLOAT32),
        ):  # fmt: skip
            yield f"blk.{i}.{name}.weight", shape, kind
    yield "output_norm.weight", (config.model_dim,), FLOAT32


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(value: Any) -> bytes:
    """A value as GGUF has it, its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    first = value[0]
    kind = 8 if isinstance(first, str) else 6 if isinstance(first, float) else 5
    items = b"".join(map(text, value)) if kind == 8 else np.array(value, "<f4" if kind == 6 else "<i4").tobytes()
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def metadata(raw: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an OpenELM as llama.cpp's converter writes it, with the demo's tokenizer."""
    from elm_mlx.config import config_from_dict
    from elm_mlx.demo import demo_directory

    config = config_from_dict(raw)
    vocab = json.loads((demo_directory() / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [2, 3, 3] + [6 if token.startswith("<0x") else 1 for token in tokens[3:]]
    own = {
        "block_count": config.num_layers, "context_length": config.context_length, "embedding_length": config.model_dim,
        "feed_forward_length": list(config.ffn_dims), "attention.head_count": list(config.num_heads),
        "attention.head_count_kv": list(config.num_kv_heads), "rope.freq_base": config.rope.theta,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": config.head_dim,
        "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
    }  # fmt: skip
    return {"general.architecture": "openelm"} | {f"openelm.{key}": value for key, value in own.items()} | {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(id) for id in range(len(tokens))], "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip


def drawn(shape: tuple[int, ...], kind: int, draw: np.random.Generator) -> bytes:
    """The bytes of a tensor: ones for norms, else blocks of drawn bits."""
    if kind == FLOAT32:
        return np.ones(shape, "<f4").tobytes()
    nbytes, scales = BLOCKS[kind]
    blocks = draw.integers(0, 256, (prod(shape) // 256, nbytes), dtype=np.uint8)
    for place in scales:
        scale = draw.uniform(0.3, 1, len(blocks)) * 1e-5
        blocks[:, place : place + 2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


def make_gguf(path: Path, raw: dict[str, Any]) -> int:
    """Writes the file; returns its bytes."""
    listed, pairs, draw = list(tensors_of(raw)), metadata(raw), np.random.default_rng(0)
    table, at = b"", 0
    for name, shape, kind in listed:
        table += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, at)
        at += -(-(prod(shape) * 4 if kind == FLOAT32 else prod(shape) // 256 * BLOCKS[kind][0]) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs))
    head += b"".join(text(key) + value_of(value) for key, value in pairs.items()) + table
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for _, shape, kind in listed:
            data = drawn(shape, kind, draw)
            file.write(data + bytes(-len(data) % 32))
    return path.stat().st_size


def make_safetensors(folder: Path, raw: dict[str, Any]) -> None:
    """Writes a checkpoint of the shape in bfloat16: noise."""
    import mlx.core as mx

    from elm_mlx.config import config_from_dict
    from elm_mlx.demo import demo_directory

    folder.mkdir()
    config = config_from_dict(raw)
    arrays = {
        name: (mx.random.normal(shape) * 0.02).astype(mx.bfloat16) for name, shape in config.weight_shapes().items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_directory() / name, folder / name)


def measure(pairs: int) -> dict[str, Any]:
    """Medians of seconds and largest peaks of all programs, `pairs` rounds of them."""
    convert_memory.PROGRAMS |= PROGRAMS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        nbytes = make_gguf(folder / "model.gguf", OPENELM_270M)
        make_safetensors(folder / "original", OPENELM_270M)
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        for _ in range(pairs):
            for name, taken in samples.items():
                source = folder / ("model.gguf" if name == "gguf" else "original")
                before = os.times()
                found = convert_memory.sample(name, source, folder / "out")
                after = os.times()
                busy = after.children_user + after.children_system - before.children_user - before.children_system
                taken.append(found | {"processor_seconds": busy})
    return {"gguf_bytes": nbytes} | {
        name: {
            "seconds": statistics.median(one["seconds"] for one in taken),
            "processor_seconds": statistics.median(one["processor_seconds"] for one in taken),
            "peak_bytes": max(one["peak_bytes"] for one in taken),
            "output_bytes": taken[-1]["output_bytes"],
        }
        for name, taken in samples.items()
    }


def main() -> None:
    """Measures, prints a table, and says whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="rounds; default: 3")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    found = measure(options.pairs)
    ours = found["gguf"]
    for name in PROGRAMS:
        one = found[name]
        print(f"{name:<24} {one['seconds']:6.2f} s  {one['processor_seconds']:6.2f} s of processors  peak "
              f"{one['peak_bytes'] / 1e6:6.0f} MB  output {one['output_bytes'] / 1e6:6.0f} MB")  # fmt: skip
    for name in list(PROGRAMS)[1:]:
        ratio, busy = (ours[key] / found[name][key] for key in ("seconds", "processor_seconds"))
        print(f"gguf / {name}: {ratio:.2f} (at most {MOST_SECONDS:g}), of processors {busy:.2f}")
    print(f"peak {ours['peak_bytes'] / 1e6:.0f} MB (at most {MOST_BYTES / 1e6:.0f})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
