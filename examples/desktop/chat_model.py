"""The model's side of a chat window: it knows no window, and nothing in it waits.

A thread of its own loads the model; what is asked then runs in the library's one thread that computes. The window asks
`poll` now and then, which returns at once with what is new.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import elm_mlx

PATIENCE_S = 10  # for the thread that loads, when the window is closed meanwhile


class Loading(NamedTuple):
    """So many bytes of the weights are read, of so many in all."""

    done: int
    total: int


class Ready(NamedTuple):
    """The model may be asked; a sentence about it."""

    sentence: str


class Text(NamedTuple):
    """A piece of the answer."""

    text: str


class Figures(NamedTuple):
    """How fast the answer comes, as far as it is known, and the bytes that MLX holds."""

    tokens: int
    tokens_per_s: float | None
    memory_bytes: int


class Ended(NamedTuple):
    """The answer is over: "stop", "length" or "cancelled"."""

    reason: str


class Failed(NamedTuple):
    """A sentence about what went wrong; `for_good` where there is no model to ask now."""

    sentence: str
    for_good: bool = False


News = Loading | Ready | Text | Figures | Ended | Failed


class Closing(Exception):
    """The window was closed while the model was loaded."""


class ChatModel:
    """A model with one conversation. All methods are for the window's thread, and none of them waits but `close`."""

    def __init__(self, model: str | None = None, template: str | None = None) -> None:
        """Begins to load a model (None: the demo), which is asked with a chat template of its own or with this one."""
        self._wanted, self._template = model, template or (None if model else "zephyr")  # the demo has none
        self._news: SimpleQueue[News] = SimpleQueue()
        self._is_closing = threading.Event()
        self._lm: elm_mlx.LanguageModel | None = None
        self._stream: elm_mlx.Stream | None = None
        self._messages: list[dict[str, Any]] = []
        self._seed = 0
        self._loader = threading.Thread(target=self._load, name="loads the model", daemon=True)
        self._loader.start()

    @property
    def is_answering(self) -> bool:
        return self._stream is not None

    @property
    def can_regenerate(self) -> bool:
        return not self.is_answering and any(message["role"] == "user" for message in self._messages)

    def ask(self, text: str) -> None:
        """Asks, instead of what was not answered; the answer comes by `poll`."""
        if self._messages and self._messages[-1]["role"] == "user":
            self._messages.pop()
        self._messages.append({"role": "user", "content": text})
        self._begin()

    def regenerate(self) -> None:
        """Asks once more for the last answer, which is taken back."""
        if self._messages[-1]["role"] == "assistant":
            self._messages.pop()
        self._begin()

    def stop(self) -> None:
        """Ends the answer; what came stays."""
        if self._stream:
            self._stream.cancel()

    def begin_anew(self) -> None:
        """Forgets the conversation."""
        self.stop()
        self._stream = None
        self._messages.clear()

    def poll(self) -> Iterator[News]:
        """What is new since the last look."""
        while True:
            try:
                yield self._news.get_nowait()
            except Empty:
                break
        if self._stream:
            yield from self._look(self._stream)

    def close(self) -> None:
        """Ends what is loaded or answered, and gives the memory back. Waits for the step that is being computed."""
        self._is_closing.set()
        self.stop()
        self._stream = None
        self._loader.join(PATIENCE_S)
        if self._lm:
            self._lm.close()

    def _begin(self) -> None:
        """Submits the conversation. What is refused comes by `poll`."""
        assert self._lm
        self._seed += 1
        try:
            self._stream = self._lm.chat_stream(self._messages, None, temperature=0.7, seed=self._seed)
        except elm_mlx.ElmError as error:
            self._fail(error)

    def _look(self, stream: elm_mlx.Stream) -> Iterator[News]:
        """What has come of an answer; where it is over, it becomes a message."""
        try:
            text = "".join(piece.text for piece in stream.ready() if piece.kind == "text")
        except elm_mlx.ElmError as error:
            self._fail(error)
            return
        if text:
            yield Text(text)
        import mlx.core as mx  # here, as nobody needs it before a model is loaded

        done = stream.completion
        yield Figures(len(done.tokens), done.stats.decode_tokens_per_s, mx.get_active_memory())
        if stream.is_over:
            self._stream = None
            self._messages.append({"role": "assistant", "content": done.text})
            yield Ended(done.finish_reason)

    def _fail(self, error: elm_mlx.ElmError) -> None:
        self._stream = None
        self._news.put(Failed(str(error), for_good=isinstance(error, elm_mlx.errors.EngineStopped)))

    # In the thread that loads

    def _load(self) -> None:
        try:
            lm = elm_mlx.load(self._wanted, progress=self._tell)
            self._lm = lm
            if self._template:
                lm.use_chat_template(self._template)
            if not lm.has_chat_template:
                raise elm_mlx.errors.NotFound(f"{self._wanted} has no chat template, so it cannot chat. Take an "
                                              "-instruct model, or give --chat-template.")  # fmt: skip
            self._news.put(Ready(" ".join((f"Chat with {self._wanted or 'the built-in demo'}.", *lm.notices))))
        except elm_mlx.ElmError as error:
            self._news.put(Failed(str(error), for_good=True))
        except Closing:
            pass

    def _tell(self, done: int, total: int) -> None:
        """Notes how far the loading is, which ends here where the window was closed."""
        if self._is_closing.is_set():
            raise Closing
        self._news.put(Loading(done, total))
