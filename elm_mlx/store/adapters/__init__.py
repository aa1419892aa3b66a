"""Adapters on the disk: directories in mlx-lm's layout and in PEFT's, read and written."""
