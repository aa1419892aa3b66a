"""One model on several machines, by MLX's distributed engine: a rank each, and all of them do what rank 0 decides."""
