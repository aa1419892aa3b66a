"""What the person sees, with Tk: it knows no model. Every control calls one of the functions that it was given."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from tkinter import ttk

CALM = {"bg": "#fbfaf7", "fg": "#23211e", "relief": "flat", "highlightthickness": 0, "wrap": "word",
        "font": ("TkDefaultFont", 11)}  # fmt: skip


@dataclass(frozen=True)
class Actions:
    """What happens when the person asks, stops, asks anew, begins anew or closes the window."""

    send: Callable[[str], None]
    stop: Callable[[], None]
    regenerate: Callable[[], None]
    begin_anew: Callable[[], None]
    close: Callable[[], None]


class Window:
    """The conversation above, what is written below, and a line with figures."""

    def __init__(self, root: tk.Tk, actions: Actions) -> None:
        self._root, self._actions = root, actions
        root.title("elm-mlx")
        root.minsize(480, 360)
        root.protocol("WM_DELETE_WINDOW", actions.close)
        if (style := ttk.Style(root)).theme_use() == "default":  # X11's; macOS has a look of its own
            style.theme_use("clam")
        self.state = ttk.Label(root, text="Loading ...", padding=(12, 8))
        self.state.bind("<Configure>", lambda event: self.state.configure(wraplength=event.width - 24))
        self.progress = ttk.Progressbar(root, maximum=1.0)
        self.entry = ttk.Entry(root, font=("TkDefaultFont", 11))
        self.figures = ttk.Label(root, padding=(12, 4), foreground="#6b665e")
        self.state.pack(fill="x")
        self.progress.pack(fill="x", padx=12)
        self.figures.pack(side="bottom", fill="x")
        self._make_buttons().pack(side="bottom", fill="x", padx=12)
        self.entry.pack(side="bottom", fill="x", padx=12, pady=8)
        self.talk = self._make_talk()
        root.bind("<Return>", lambda _: self.send.invoke())
        root.bind("<Escape>", lambda _: self.stop.invoke())
        self.allow()

    def _make_talk(self) -> tk.Text:
        """The conversation: shown, not edited."""
        talk = tk.Text(self._root, padx=12, pady=10, spacing3=4, state="disabled", width=72, height=20, **CALM)
        bar = ttk.Scrollbar(self._root, command=talk.yview)
        talk.configure(yscrollcommand=bar.set)
        bar.pack(side="right", fill="y")
        talk.pack(fill="both", expand=True)
        talk.tag_configure("you", foreground="#1f5f8b", font=("TkDefaultFont", 11, "bold"), spacing1=8)
        talk.tag_configure("note", foreground="#8a5a00")
        return talk

    def _make_buttons(self) -> ttk.Frame:
        row = ttk.Frame(self._root)
        self.send = ttk.Button(row, text="Send", command=self._send)
        self.stop = ttk.Button(row, text="Stop", command=self._actions.stop)
        self.regenerate = ttk.Button(row, text="Regenerate", command=self._actions.regenerate)
        self.anew = ttk.Button(row, text="New chat", command=self._actions.begin_anew)
        for button in (self.send, self.stop, self.regenerate, self.anew):
            button.pack(side="left", padx=(0, 6))
        return row

    def _send(self) -> None:
        if text := self.entry.get().strip():
            self.entry.delete(0, "end")
            self._actions.send(text)

    def allow(self, send: bool = False, stop: bool = False, regenerate: bool = False) -> None:
        """Says which controls have a meaning now."""
        for button, is_on in ((self.send, send), (self.stop, stop), (self.regenerate, regenerate), (self.anew, send)):
            button.state(["!disabled" if is_on else "disabled"])

    def show_loading(self, done: int, total: int) -> None:
        self.state.configure(text=f"Loading: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
        self.progress.configure(value=done / max(1, total))

    def show_state(self, sentence: str) -> None:
        """Says what there is instead of a model that is loaded."""
        self.state.configure(text=sentence)
        self.progress.pack_forget()
        self.entry.focus_set()

    def add_question(self, text: str) -> None:
        """Shows a question, and notes where its answer begins."""
        self.add(f"{text}\n", "you")
        self.talk.mark_set("answer", "end - 1 char")
        self.talk.mark_gravity("answer", "left")

    def clear(self, start: str = "1.0") -> None:
        """Takes away what is shown from a place on: "answer" is the last one."""
        self.talk.configure(state="normal")
        self.talk.delete(start, "end - 1 char")
        self.talk.configure(state="disabled")

    def add(self, text: str, *tags: str) -> None:
        """Writes at the end; the view follows where it was at the end before."""
        follows = self.talk.yview()[1] >= 0.999
        self.talk.configure(state="normal")
        self.talk.insert("end - 1 char", text, tags)
        self.talk.configure(state="disabled")
        if follows:
            self.talk.see("end")
