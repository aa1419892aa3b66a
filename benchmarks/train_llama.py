"""Trains a small Llama on the demo's stories, to measure on: 3.5 million parameters, tied as Llama 3.2 is.

    python benchmarks/train_llama.py DIR [--untied] [--tokens N]

Writes a Hugging Face directory with the demo's tokenizer. Needs the extras demo-training and mlx-lm (for transformers);
it took 17 minutes on two busy x86-64 cores. The model is trained briefly, and loses more to quantization than a better
model would: what matters is which parts lose.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

DEMO_MODEL = Path(__file__).parents[1] / "examples/demo_model"
sys.path.insert(0, str(DEMO_MODEL))
import stories  # noqa: E402
from corpus import IGNORED, Corpus, batches, tokenize  # noqa: E402
from tokenizer import load_tokenizer  # noqa: E402
from train import Options, mixed_precision, scale_rates, schedule  # noqa: E402

STORIES, TOKENS, BATCH_TOKENS = 15_000, 2_600_000, 4096
CONFIG = {
    "vocab_size": 2048, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8, "head_dim": 32,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--untied", action="store_true", help="With a head of its own, as Llama 3 8B has it.")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, tie_word_embeddings=not options.untied))
    train(model, tokenize(stories.training(STORIES), load_tokenizer(DEMO_MODEL / "demo")), options.tokens)
    model.to(torch.bfloat16).save_pretrained(options.directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO_MODEL / "demo" / name, options.directory / name)


def train(model: LlamaForCausalLM, corpus: Corpus, tokens: int) -> None:
    """The demo's recipe: Muon for the layers' matrices, AdamW for the rest, rates that fall to zero."""
    plan, optimizers, done = Options(tokens), make_optimizers(model), 0
    for step, (ids, targets) in enumerate(batches(corpus, BATCH_TOKENS, seed=0)):
        scale_rates(optimizers, schedule(done / tokens, plan))
        with mixed_precision(torch.device("cpu")):
            logits = model(ids).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        done += int((targets != IGNORED).sum())
        if step % 50 == 0 or done >= tokens:
            print(f"{done:,} tokens, {loss.item():.3f} nats a token", file=sys.stderr)
        if done >= tokens:
            return


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, which Llama's names show, and AdamW for the rest, as the demo's recipe has it."""
    matrices = [weight for name, weight in model.named_parameters() if "_proj" in name]
    others = [weight for name, weight in model.named_parameters() if "_proj" not in name]
    return [
        torch.optim.Muon(matrices, lr=0.008, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0.0),
    ]


if __name__ == "__main__":
    main()
