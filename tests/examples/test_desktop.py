"""The chat window: its model's side without a window, and the whole on a virtual screen, used with mouse and keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.screen import Screen, until, virtual_screen
from helpers.small_demo import small_demo, small_demo_folder

__all__ = ["small_demo", "small_demo_folder"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "desktop"
PICTURE = ROOT / "docs" / "images" / "desktop.png"
sys.path.append(str(FOLDER))
import chat_model  # noqa: E402

WINDOWS: list[Any] = []  # kept to the end: Tk aborts the process where another thread collects what one leaves


@pytest.fixture
def model() -> Iterator[chat_model.ChatModel]:
    """A model's side, with the small demo."""
    made = chat_model.ChatModel()
    yield made
    made.close()


def hear(model: chat_model.ChatModel, kind: type) -> list[Any]:
    """What the model tells up to the first news of a kind."""
    heard: list[Any] = []
    until(lambda: any(isinstance(one, kind) for one in heard), kind.__name__, lambda: heard.extend(model.poll()))
    return heard


def begin_and_stop(model: chat_model.ChatModel) -> None:
    """Waits for the beginning of an answer, and stops it."""
    hear(model, chat_model.Text)
    model.stop()
    assert hear(model, chat_model.Ended)[-1] == chat_model.Ended("cancelled")


def test_the_model_loads_answers_stops_and_answers_again(model: chat_model.ChatModel) -> None:
    loading = [one for one in hear(model, chat_model.Ready) if isinstance(one, chat_model.Loading)]
    assert loading[-1].done == loading[-1].total
    model.ask("Tell of a fox.")
    assert model.is_answering
    begin_and_stop(model)
    assert model.can_regenerate
    model.regenerate()
    assert [message["role"] for message in model._messages] == ["user"]
    begin_and_stop(model)
    assert [message["role"] for message in model._messages] == ["user", "assistant"]
    model.begin_anew()
    assert not model.can_regenerate


def test_what_is_refused_is_a_sentence_and_the_model_goes_on(model: chat_model.ChatModel) -> None:
    hear(model, chat_model.Ready)
    model.ask("the cat " * 400)
    (failed,) = hear(model, chat_model.Failed)
    assert "512" in failed.sentence
    assert not failed.for_good
    model.ask("Tell of a fox.")
    begin_and_stop(model)


def test_a_model_without_a_chat_template_says_what_to_do(small_demo_folder: Path) -> None:
    model = chat_model.ChatModel(str(small_demo_folder))
    assert "give --chat-template" in hear(model, chat_model.Failed)[-1].sentence
    model.close()


def test_closing_while_it_loads_or_answers_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    for wait_for in (None, chat_model.Loading, chat_model.Ready):
        model = chat_model.ChatModel()
        if wait_for:
            hear(model, wait_for)
        if wait_for is chat_model.Ready:
            model.ask("Tell of a fox.")
            hear(model, chat_model.Text)
        model.close()
        assert set(threading.enumerate()) == before


# On a screen


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    with virtual_screen() as made:
        yield made


class Person:
    """Uses the window in this process by the mouse and the keys of the screen."""

    def __init__(self, screen: Screen, app: Any) -> None:
        self.screen, self.app, self.window = screen, app, app.window

    def click(self, widget: Any) -> None:
        self.app.root.update()
        self.screen.click(
            widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2
        )

    def sees(self, condition: Any, what: str) -> Any:
        return until(condition, what, self.app.root.update)

    @property
    def talk(self) -> str:
        return str(self.window.talk.get("1.0", "end - 1 char"))


@pytest.fixture
def person(screen: Screen) -> Iterator[Person]:
    """Somebody before the window, whose model is loaded."""
    import tkinter

    import main

    app = main.App(tkinter.Tk(), chat_model.ChatModel())
    WINDOWS.append(app)
    app.root.geometry("640x440+0+0")
    one = Person(screen, app)
    one.sees(lambda: app.is_usable, "the model is loaded")
    yield one
    app.close()


@pytest.mark.slow
def test_a_person_asks_stops_and_asks_again(person: Person) -> None:
    window = person.window
    assert window.stop.instate(["disabled"])
    person.click(window.entry)
    person.screen.type("Tell me of a fox!")
    person.sees(lambda: window.entry.get() == "Tell me of a fox!", "what was typed")
    person.click(window.send)
    person.sees(lambda: person.talk.startswith("Tell me of a fox!\n") and len(person.talk) > 40, "an answer begins")
    person.click(window.stop)
    person.sees(lambda: person.talk.endswith("(stopped)\n"), "the answer is stopped")
    assert "tokens" in window.figures["text"]
    assert "MB in use" in window.figures["text"]
    stopped = person.talk
    person.click(window.regenerate)
    person.sees(lambda: "(stopped)" not in person.talk and len(person.talk) > 40, "another answer")
    person.screen.press("Escape")
    person.sees(lambda: person.talk.endswith("(stopped)\n"), "it is stopped by the key")
    assert person.talk != stopped
    person.click(window.anew)
    person.sees(lambda: person.talk == "", "a new chat")


@pytest.mark.slow
def test_the_window_is_never_blocked_while_an_answer_comes(person: Person) -> None:
    """Its own clock goes on: between two of its looks there is never as much time as an answer takes."""
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1
        person.app.root.after(5, count)

    person.click(person.window.entry)
    person.screen.type("Tell me a story.\n")
    person.sees(lambda: person.app.model.is_answering, "it answers")
    count()
    person.sees(lambda: not person.app.model.is_answering, "the answer has ended")
    assert looks > 10


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the window", "Ctrl-C"])
def test_closing_amid_an_answer_ends_the_program_cleanly(screen: Screen, tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", FOLDER / "main.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        until(lambda: screen.window("elm-mlx"), "the window")
        left, top, width, height = screen.place("elm-mlx")
        below_the_question = (left, top + 110, width - 40, height // 3)  # empty until an answer has several lines
        seen = {screen.pixels(*below_the_question)}

        def ask() -> None:
            """Until the model is loaded, nothing happens."""
            screen.click(left + width // 2, top + height - 84)
            screen.type("a\n")
            seen.add(screen.pixels(*below_the_question))

        until(lambda: len(seen) > 4, "an answer that grows", ask)
        if way == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            screen.close_window("elm-mlx")
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_picture_in_the_documents_is_of_this_window(screen: Screen, tmp_path: Path) -> None:
    """Made anew with ELM_MLX_WRITE_SCREENSHOTS=1; otherwise into a folder of the test's own."""
    path = PICTURE if os.environ.get("ELM_MLX_WRITE_SCREENSHOTS") else tmp_path / "desktop.png"
    done = subprocess.run([sys.executable, ROOT / "tests" / "helpers" / "desktop_picture.py", path],
                          capture_output=True, text=True, check=False, timeout=120)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 100_000
    assert PICTURE.exists()
