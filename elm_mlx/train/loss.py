"""What training makes small: the cross-entropy of the tokens that count.

Shapes: B rows, L positions, E model dim, V vocabulary.
"""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.models.model import Model


def token_losses(model: Model, ids: mx.array) -> mx.array:
    """-log p of each id after the ones before it: ids [B, L] -> [B, L - 1] float32."""
    logits = model(ids[:, :-1]).astype(mx.float32)  # [B, L-1, V]
    chosen = mx.take_along_axis(logits, ids[:, 1:, None], axis=-1).squeeze(-1)
    return mx.logsumexp(logits, axis=-1) - chosen


def summed_loss(model: Model, ids: mx.array, counts: mx.array) -> mx.array:
    """The sum of -log p over the targets that count: ids [B, L], counts [B, L - 1] of 0 and 1 -> a number in float32.
    Padding counts 0, so nothing is ever learned of it."""
    return (token_losses(model, ids) * counts).sum()
