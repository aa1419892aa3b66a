"""Fine-tuning: from rows of text to an adapter, by MLX's own gradients and optimizers."""
