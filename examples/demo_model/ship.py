"""Puts the trained models into the package: 8-bit conversions of the checkpoints beside this file.

    python examples/demo_model/ship.py

Equal checkpoints give equal bytes: a test converts them again and compares the package.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import stories

from elm_mlx.convert import convert

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "elm_mlx" / "demo"
PLACES = {"demo": PACKAGE, "draft": PACKAGE / "draft"}
BITS = 8
LEFT_OUT = ("README.md", "conversion.json")  # the package has its own card
HELD_OUT_STORIES = 64


def convert_to_ship(name: str, folder: Path) -> dict[str, bytes]:
    """Converts a checkpoint in `folder`, and returns the files that the package holds of it."""
    output = convert(HERE / name, folder / name, bits=BITS).output
    return {file.name: file.read_bytes() for file in sorted(output.iterdir()) if file.name not in LEFT_OUT}


def write_package() -> None:
    """Writes both models and the held-out text, a story a line."""
    with tempfile.TemporaryDirectory() as folder:
        for name, place in PLACES.items():
            place.mkdir(exist_ok=True)
            for file, data in convert_to_ship(name, Path(folder)).items():
                (place / file).write_bytes(data)
    held_out = "".join(f"{story}\n" for story in stories.held_out(HELD_OUT_STORIES))
    (PACKAGE / "held_out.txt").write_text(held_out, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Puts the trained models into the package.").parse_args()
    write_package()
