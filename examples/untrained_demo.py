"""Makes the built-in demo: a small OpenELM with seeded random weights, through the project's own converter.

    python examples/untrained_demo.py          (needs the `test` extra, for sentencepiece)

Its text is noise. It is there so that `elm-mlx generate` exercises every part on a machine without a network.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import sentencepiece

from elm_mlx.config import OpenELMConfig
from elm_mlx.convert import convert

PACKAGE = Path(__file__).parents[1] / "elm_mlx" / "demo"
TEXT = """Once upon a time there was a little fox who lived at the edge of a quiet wood. Every morning she ran
down to the river and asked the old heron what he had seen in the night. "Stars," said the heron, "and one boat
with a lantern in it." The fox wanted to know where the boat was going, so she followed the water past the mill,
past the bridge and the market town, until the river grew wide and slow. There the boat lay under a willow, and in
it slept a girl with a basket of pears. When she woke they shared the pears and told each other all they knew."""
CONFIG = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "activation_fn_name": "swish",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ffn_dim_divisor": 16,
    "ffn_multipliers": [0.5, 4.0],
    "ffn_with_glu": True,
    "head_dim": 16,
    "max_context_length": 2048,
    "model_dim": 64,
    "normalization_layer_name": "rms_norm",
    "normalize_qk_projections": True,
    "num_gqa_groups": 2,
    "num_transformer_layers": 4,
    "qkv_multipliers": [0.5, 1.0],
    "rope_freq_constant": 10000,
    "share_input_output_layers": True,
    "vocab_size": 512,
}


def train_tokenizer(path: Path) -> None:
    """A SentencePiece BPE of 512 entries with byte fallback, cut like Llama 2's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=CONFIG["vocab_size"],
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def write_weights(path: Path) -> None:
    """Random weights of OpenELM's shapes; RandomState's stream never changes, so neither do these."""
    random = np.random.RandomState(0)
    shapes = OpenELMConfig.from_dict(CONFIG).weight_shapes()
    weights = {n: random.standard_normal(s) * (s[-1] ** -0.5 if len(s) == 2 else 0.1) for n, s in shapes.items()}
    weights["transformer.token_embeddings.weight"][:259] *= 0.05  # specials and bytes: noise made of words reads better
    arrays = {name: mx.array((w + (w.ndim == 1)).astype(np.float32)) for name, w in weights.items()}
    mx.save_safetensors(str(path), arrays)


def main() -> None:
    """Writes the demo into the package."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "source", Path(folder) / "demo"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        train_tokenizer(source / "tokenizer.model")
        write_weights(source / "model.safetensors")
        convert(source, output, bits=8)
        for file in output.iterdir():
            (PACKAGE / file.name).write_bytes(file.read_bytes())


if __name__ == "__main__":
    main()
