"""Time and memory of a conversion. Memory is counted in anonymous bytes: those that no file backs.

    python benchmarks/convert_memory.py [--json FILE]                       Llama-3-8B's shape, bfloat16, to 4-bit
    python benchmarks/convert_memory.py --compare [--pairs 3] [--json FILE] OpenELM-1.1B's, float32, against mlx-lm

The first checkpoint has 16 GB and is sparse, so it takes no disk and a little of the page cache; the second repeats one
block of noise. Each sample is a process of its own, one after another; the benchmark reads the process's RssAnon from
/proc every few milliseconds, so it needs Linux. The peak is counted over what Python itself has before it imports
anything. In mlx-lm's process an import of torch fails, as where torch is not installed, and transformers does without.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
OPENELM_1B: dict[str, Any] = {
    "model_type": "openelm", "vocab_size": 32000, "model_dim": 2048, "head_dim": 64, "num_transformer_layers": 28,
    "num_gqa_groups": 4, "qkv_multipliers": [0.5, 1.0], "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": 256,
    "normalize_qk_projections": True, "share_input_output_layers": True, "max_context_length": 2048,
    "torch_dtype": "float32",
}  # fmt: skip
BLOCK = 2**24  # random numbers in the block of noise
SHARD_BYTES = 5 * 10**9

OURS = "from elm_mlx.convert import convert; convert(sys.argv[1], sys.argv[2], bits=4, dtype='bfloat16')"
THEIRS = (
    "sys.modules['torch'] = None; from mlx_lm import convert;"
    "convert(sys.argv[1], sys.argv[2], quantize=True, q_bits=4, q_group_size=64, dtype='bfloat16')"
)
PROGRAMS = {"elm-mlx": OURS, "mlx-lm": THEIRS}


def make(folder: Path, raw: dict[str, Any], kind: str) -> int:
    """Writes a checkpoint of a config.json's shape, in files of up to SHARD_BYTES, as float32 noise (`kind` F32) or as
    files with holes in place of the weights (BF16). Returns the bytes of its largest tensor in float32."""
    from elm_mlx.config import config_from_dict
    from elm_mlx.demo import demo_directory

    config, size = config_from_dict(raw), {"F32": 4, "BF16": 2}[kind]
    files: list[dict[str, int]] = [{}]
    header: list[dict[str, Any]] = [{}]
    for name, shape in config.weight_shapes().items():
        nbytes = prod(shape) * size
        if sum(files[-1].values()) + nbytes > SHARD_BYTES:
            files.append({})
            header.append({})
        begin = sum(files[-1].values())
        files[-1][name] = nbytes
        header[-1][name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + nbytes]}
    names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for name, tensors, described in zip(names, files, header, strict=True):
        write_file(folder / name, json.dumps(described).encode(), sum(tensors.values()), noisy=kind == "F32")
    places = {name: file for file, tensors in zip(names, files, strict=True) for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"torch_dtype": raw["torch_dtype"]}), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_directory() / name, folder / name)
    return max(4 * prod(shape) for shape in config.weight_shapes().values())


def write_file(path: Path, header: bytes, nbytes: int, noisy: bool) -> None:
    """Writes a safetensors file with `nbytes` of weights: a repeated block of noise, or a hole, which takes no disk."""
    import numpy as np

    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        block = (np.random.default_rng(0).standard_normal(BLOCK, np.float32) * 0.02).tobytes() if noisy else b""
        for begin in range(0, nbytes if noisy else 0, len(block) or 1):
            file.write(block[: nbytes - begin])
        file.truncate(8 + len(header) + nbytes)


def anonymous(process: int | str = "self") -> int:
    """Bytes of a process's memory that no file backs (RssAnon of /proc); 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def bare() -> int:
    """Anonymous bytes of a Python process that has imported nothing: every peak is counted from there."""
    script = "print(open('/proc/self/status').read().split('RssAnon:')[1].split()[0])"
    return int(subprocess.check_output([sys.executable, "-c", script])) * 1024


def sample(program: str, source: Path, output: Path) -> dict[str, float]:
    """Converts once, in a process of its own: seconds from its start to its end, its peak, and the bytes it wrote."""
    shutil.rmtree(output, ignore_errors=True)
    begun, peak = time.perf_counter(), 0
    command = [sys.executable, "-c", f"import sys; {PROGRAMS[program]}", str(source), str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.004)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{program} failed: {' '.join(command)}")
    return {"seconds": seconds, "peak_bytes": peak - bare(), "output_bytes": size(output)}


def size(folder: Path) -> int:
    """Bytes of the safetensors files in a directory."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def alone(folder: Path) -> dict[str, Any]:
    """Converts the large model with elm-mlx: its peak, and the bound that the peak must keep, which is twice the
    largest tensor in float32 and 200 MB."""
    largest = make(folder / "source", LLAMA_8B, "BF16")
    figures = sample("elm-mlx", folder / "source", folder / "output")
    bound = 2 * largest + 200 * 10**6
    return {"source_bytes": size(folder / "source"), "bound_bytes": bound, "sample": figures}


def compared(folder: Path, pairs: int) -> dict[str, Any]:
    """Converts the small model with both programs, in interleaved pairs. Ratios are elm-mlx's figure over mlx-lm's:
    below 1, elm-mlx needs less."""
    largest = make(folder / "source", OPENELM_1B, "F32")
    sample("elm-mlx", folder / "source", folder / "output")  # brings the source into the page cache
    samples = [{name: sample(name, folder / "source", folder / "output") for name in PROGRAMS} for _ in range(pairs)]
    ratios = {
        figure: [pair["elm-mlx"][figure] / pair["mlx-lm"][figure] for pair in samples]
        for figure in ("seconds", "peak_bytes")
    }
    medians = {figure: statistics.median(values) for figure, values in ratios.items()}
    return {
        "source_bytes": size(folder / "source"),
        "bound_bytes": 2 * largest + 200 * 10**6,
        "median_ratio": medians,
        "ratios": ratios,
        "samples": samples,
    }


def main() -> None:
    """Parses, measures, prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import mlx.core as mx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        figures = compared(folder, options.pairs) if options.compare else alone(folder)
    machine = {"system": f"{platform.system()} {platform.machine()}", "mlx": mx.__version__,
               "device": str(mx.default_device())}  # fmt: skip
    text = json.dumps({"machine": machine} | figures, indent=1)
    print(text)
    if options.json:
        from elm_mlx.files import write_whole  # here, as this process measures what others import

        write_whole(options.json, text + "\n")


if __name__ == "__main__":
    main()
