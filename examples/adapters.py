"""Trains a tiny adapter, and asks the model with it and without it in one batch.

python examples/adapters.py

What is learned here is one sentence, in seconds; tune_demo/ learns a whole kind of text.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import elm_mlx
from elm_mlx.train import train

PROMPT, LEARNED = "Dear Ida,", "Dear Ida, thank you for the warm coat. Your friend, Lena."


def make_adapter(folder: Path) -> Path:
    """Trains on one sentence, until the model knows it by heart."""
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text(json.dumps({"text": LEARNED}) + "\n", encoding="utf-8")
    train(folder / "data", folder / "adapter", steps=40, learning_rate=1e-3, rank=4, batch_size=1)
    return folder / "adapter"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, elm_mlx.load() as lm:
        lm.load_adapter("letters", make_adapter(Path(folder)))
        adapters = (None, "letters", None, "letters")
        streams = [lm.submit(PROMPT, max_tokens=24, adapter=adapter) for adapter in adapters]
        for adapter, stream in zip(adapters, streams, strict=True):  # they are answered together
            print(f"{adapter or 'without'}: {stream.result().text}")
        print("Loaded:", ", ".join(lm.adapters))
        lm.unload_adapter("letters")


if __name__ == "__main__":
    main()
