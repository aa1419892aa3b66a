"""A chat in a window, with a model on this machine.

    python examples/desktop/main.py [MODEL] [--chat-template FILE]

Without a model it is the built-in demo, which only tells stories. The window is never blocked: the model computes in a
thread of the library's, and the window looks 25 times a second for what is new.
"""

from __future__ import annotations

import argparse
import signal
import tkinter as tk

from chat_model import ChatModel, Ended, Failed, Figures, Loading, News, Ready, Text
from window import Actions, Window

EVERY_MS = 40
NOTES = {"stop": "", "length": " (the context is full: begin a new chat)", "cancelled": " (stopped)"}


class App:
    """Tells the model what the person does, and the window what the model says."""

    def __init__(self, root: tk.Tk, model: ChatModel) -> None:
        self.root, self.model, self.is_usable = root, model, False
        self.window = Window(root, Actions(self.send, model.stop, self.regenerate, self.begin_anew, self.close))
        self._next = root.after(EVERY_MS, self.look)

    def look(self) -> None:
        """Shows what is new, and comes back soon."""
        for news in self.model.poll():
            self.show(news)
        self._next = self.root.after(EVERY_MS, self.look)

    def show(self, news: News) -> None:
        match news:
            case Loading(done, total):
                self.window.show_loading(done, total)
            case Ready(sentence):
                self.is_usable = True
                self.window.show_state(sentence)
            case Text(text):
                self.window.add(text)
            case Figures(tokens, rate, memory):
                speed = f"{rate:,.0f} tokens/s, " if rate else ""
                self.window.figures["text"] = f"{tokens} tokens, {speed}{memory / 1e6:,.0f} MB in use"
            case Ended(reason):
                self.window.add(f"{NOTES[reason]}\n", "note")
            case Failed(sentence, for_good):
                self.is_usable = self.is_usable and not for_good
                self.window.show_state(sentence)
                self.window.add("\n")
        self.allow()

    def allow(self) -> None:
        """Lets the person do what has a meaning now."""
        is_free = self.is_usable and not self.model.is_answering
        self.window.allow(is_free, self.model.is_answering, is_free and self.model.can_regenerate)

    def send(self, text: str) -> None:
        self.window.add_question(text)
        self.model.ask(text)
        self.allow()

    def regenerate(self) -> None:
        self.window.clear("answer")
        self.model.regenerate()
        self.allow()

    def begin_anew(self) -> None:
        self.model.begin_anew()
        self.window.clear()
        self.allow()

    def close(self) -> None:
        """Closes the window at once, and then the model."""
        self.root.after_cancel(self._next)
        self.root.destroy()
        self.model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat in a window, with a model on this machine.")
    parser.add_argument("model", nargs="?", help="a name that `elm-mlx list` shows, or a directory (the demo)")
    parser.add_argument("--chat-template", metavar="FILE", help="a chat template to use instead of the model's own")
    asked = parser.parse_args()
    app = App(tk.Tk(), ChatModel(asked.model, asked.chat_template))
    signal.signal(signal.SIGINT, lambda *_: app.root.after_idle(app.close))  # Ctrl-C in the terminal
    app.root.mainloop()


if __name__ == "__main__":
    main()
