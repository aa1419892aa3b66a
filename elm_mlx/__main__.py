"""Runs the command line for `python -m elm_mlx`."""

from elm_mlx.cli import main

if __name__ == "__main__":
    main()
