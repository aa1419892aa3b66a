"""Takes the picture of the chat window that is shown in the documents, with the whole demo.

DISPLAY=:N python tests/helpers/desktop_picture.py FILE
"""

from __future__ import annotations

import os
import sys
import tkinter
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples" / "desktop")]

import chat_model  # noqa: E402
import main  # noqa: E402
from helpers.screen import Screen, until  # noqa: E402

QUESTIONS = ("Tell me a story of a fox.", "And one of a bear?")


def is_told(app: main.App) -> bool:
    """Whether an answer is long enough for a picture, or has ended before."""
    return len(app.window.talk.get("answer", "end")) > 220 or not app.model.is_answering


def take(path: Path) -> None:
    app = main.App(tkinter.Tk(), chat_model.ChatModel())
    app.root.geometry("640x440+0+0")
    until(lambda: app.is_usable, "the model is loaded", app.root.update)
    for question in QUESTIONS:
        app.send(question)
        until(partial(is_told, app), "an answer", app.root.update)
        if question != QUESTIONS[-1]:
            app.model.stop()
            until(lambda: not app.model.is_answering, "it has stopped", app.root.update)
    app.root.update()
    Screen(os.environ["DISPLAY"]).save(path, "elm-mlx")
    app.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
