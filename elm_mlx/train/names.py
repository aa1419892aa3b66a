"""The names that a training's options take, without MLX, as the command line's help reads them."""

from __future__ import annotations

LORA, DORA, FULL = KINDS = "lora", "dora", "full"
CONSTANT, LINEAR, COSINE = SCHEDULES = "constant", "linear", "cosine"
TOKENS, DPO = LOSSES = "tokens", "dpo"
RANK, SCALE, BETA = 8, 20.0, 0.1  # where nothing else is asked for
