"""A conversation that keeps its own state: turns, figures of what was read again, and a transcript in a file.

python examples/session.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import elm_mlx


def main() -> None:
    with elm_mlx.load() as lm:  # the demo, which only tells stories
        lm.use_chat_template("zephyr")
        session = lm.session("Tell a story of a fox and a bear.", temperature=0.8, seed=1)
        session.prewarm()
        for asked in ("How does it begin?", "What does the bear do?", "How does it end?"):
            print("You:", asked)
            for piece in session.stream(asked, max_tokens=24):
                print(piece.text, end="", flush=True)
            print()
        done = session.respond("Once more?", max_tokens=8)
        print("Read again:", done.stats.prompt_tokens - done.stats.cached_tokens, "of", done.stats.prompt_tokens)
        with tempfile.TemporaryDirectory() as folder:
            session.save(Path(folder) / "talk.json")
            again = lm.session(transcript=Path(folder) / "talk.json")
        print("Messages:", len(again.transcript))


if __name__ == "__main__":
    main()
