"""One turn of a session: the question, rounds of calls that the session runs, and the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from elm_mlx.api.completion import Completion
from elm_mlx.api.session_prompts import Prompts
from elm_mlx.api.signatures import as_hinted
from elm_mlx.api.stream import Stream
from elm_mlx.api.tool_running import WAS_CANCELLED, Call
from elm_mlx.api.tools import Tool
from elm_mlx.api.transcript import Message, pending_calls, result_message
from elm_mlx.engine.sequence import CANCELLED
from elm_mlx.errors import Cancelled, ExceededContextWindow, PromptTooLong, TimedOut, ToolCallError
from elm_mlx.text.tools import ToolCall

AUTO = "auto"  # the tool_choice that leaves it to the model


@dataclass(frozen=True)
class Asked:
    """What a turn asks, in every round: how long an answer may be, and how it is drawn. `choice` is the tool_choice of
    the first round; the rounds after it are free to answer. All of it has to be over `timeout` seconds after it
    `began`, a time of `time.monotonic`."""

    max_tokens: int | None
    options: Mapping[str, Any]
    choice: str = AUTO
    timeout: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float | None:
        """Seconds that are left; None where there is no end."""
        return None if self.timeout is None else max(0.0, self.began + self.timeout - time.monotonic())


@dataclass(frozen=True)
class Toolbox:
    """The tools of a session by name; of a turn's calls it runs at most `rounds` rounds, each call for at most
    `seconds`."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    rounds: int = 8
    seconds: float = 60.0

    def can_run(self, call: ToolCall) -> bool:
        """Whether the session answers a call by itself: by its function, or since there is no such tool."""
        tool = self.tools.get(call.name)
        return tool is None or tool.function is not None

    def prepare(self, call: ToolCall) -> Call | str:
        """What runs a call; or a text for the model where the call is wrong."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"Error: there is no tool {call.name}; there are {', '.join(self.tools) or 'none'}."
        if wrong := tool.check(call.arguments):
            return f"Error: {wrong}"
        assert tool.function
        arguments = as_hinted(tool.function, deepcopy(call.arguments))  # a copy, as a function may change them
        return Call(tool.name, tool.function, arguments)


class Turn:
    """A turn under way. `messages` are those of the session, and what this turn adds to them: the session takes them
    over from a turn that `is_over` and `is_whole`, as one is that was not cancelled. Once it is over they stay as they
    are. Call `begin` first."""

    def __init__(self, prompts: Prompts, toolbox: Toolbox, messages: list[Message], asked: Asked) -> None:
        self.messages, self.is_over, self.is_whole = list(messages), False, False
        self._prompts, self._toolbox, self._asked = prompts, toolbox, asked
        self._rounds = 0
        self._ending = threading.RLock()  # a signal's handler may cancel while its thread ends the turn
        self._calls: list[ToolCall] = []  # that the session runs before the next round
        self._running: Call | None = None
        self._stream: Stream | None = None
        self._length = 0  # of the messages that the stream answers

    def begin(self) -> None:
        """Asks for the first round. Raises as `Session.respond`."""
        with self.guard():
            self._ask(self._asked.choice)

    @property
    def stream(self) -> Stream:
        """The answer of this round."""
        assert self._stream
        return self._stream

    @property
    def has_calls(self) -> bool:
        """Whether the session has to run calls before the next round."""
        return bool(self._calls)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Ends the turn where what is done in it raises, Ctrl-C included."""
        try:
            yield
        except BaseException:
            self.cancel()
            raise

    def answer(self) -> Completion:
        """Waits for the end of the turn, and returns its last answer. Raises as `Session.respond`."""
        with self.guard():
            while True:
                done = self._result()
                if self.read(done):
                    return self._whole(done)
                self.run_calls()

    def _result(self) -> Completion:
        """Waits for the end of a round. Raises TimedOut where the turn takes too long."""
        try:
            return self.stream.result(self._asked.left)
        except TimedOut as error:
            raise self._late() from error

    def _late(self) -> TimedOut:
        """Makes the error for a turn that takes too long."""
        return TimedOut(f"The session has not answered after {self._asked.timeout:g} seconds.", "Give a longer "
                        "{timeout}, or fewer {max_tokens}.", completion=self.stream.completion)  # fmt: skip

    async def aanswer(self) -> Completion:
        """Waits as `answer` does, without blocking the event loop."""
        with self.guard():
            while True:
                done = await self.stream.aresult()
                if self.read(done):
                    return self._whole(done)
                await self.arun_calls()

    def read(self, done: Completion) -> bool:
        """Takes what a round has said, and returns whether the turn is over with it. Raises ToolCallError."""
        if self.is_over or done.finish_reason == CANCELLED:
            self.cancel()
            return True
        self._add(self._prompts.message(self.stream, done))
        self._calls = [call for call in done.tool_calls if self._toolbox.can_run(call)]
        if self._calls and self._rounds == self._toolbox.rounds:
            raise ToolCallError(
                f"The model called tools in {self._rounds + 1} rounds and has not answered.",
                "Give more {tool_rounds}, or tools that say when they have nothing to add.",
            )
        if not self._calls:
            self._complete()
        return self.is_over

    def run_calls(self) -> None:
        """Runs the calls of a round, one after the other, and asks for the next round, unless some calls are left to
        the caller."""
        for call in self._calls:
            work = self._prepare(call)
            if self.is_over:  # it was cancelled
                return
            self._note(call, work.run(self._seconds) if isinstance(work, Call) else work)
        self._go_on()

    async def arun_calls(self) -> None:
        """Runs the calls as `run_calls` does, without blocking the event loop."""
        for call in self._calls:
            work = self._prepare(call)
            if self.is_over:
                return
            self._note(call, await work.arun(self._seconds) if isinstance(work, Call) else work)
        self._go_on()

    def cancel(self) -> None:
        """Ends the turn, from any thread: the session stays as it was before. A turn that is over stays as it is."""
        with self._ending:
            if self.is_over:
                return
            self.is_over = True
        if self._stream:
            self._stream.cancel()
        if running := self._running:
            running.cancel()

    def kept(self) -> list[Message]:
        """The messages of a turn that was cancelled, with what came of the answer; a call that was not run to its end
        has a result that says so."""
        if calls := pending_calls(self.messages):
            return [*self.messages, *(result_message(call, WAS_CANCELLED) for call in calls)]
        if not self._stream or len(self.messages) > self._length:  # it was cancelled between two rounds
            return self.messages
        said = self._prompts.message(self._stream, self._stream.completion)
        said.pop("tool_calls", None)
        return [*self.messages, said]

    def _whole(self, done: Completion) -> Completion:
        """The last answer of the turn. Raises Cancelled where the turn was cancelled."""
        if not self.is_whole:
            raise Cancelled("The turn was cancelled before its end.", completion=done)
        return done

    @property
    def _seconds(self) -> float:
        left = self._asked.left
        return self._toolbox.seconds if left is None else min(left, self._toolbox.seconds)

    def _prepare(self, call: ToolCall) -> Call | str:
        """What runs a call, or its result. Raises TimedOut where the turn has no time left."""
        if self._asked.left == 0:
            raise self._late()
        work = self._toolbox.prepare(call)
        self._running = work if isinstance(work, Call) else None
        return work

    def _note(self, call: ToolCall, text: str) -> None:
        """Adds the result of a call to the messages."""
        self._running = None
        self._add(result_message(call, text))

    def _add(self, message: Message) -> None:
        """Adds a message, unless the turn was cancelled."""
        with self._ending:
            if not self.is_over:
                self.messages.append(message)

    def _complete(self) -> None:
        """Ends the turn as a whole one, unless it was cancelled."""
        with self._ending:
            if not self.is_over:
                self.is_whole = self.is_over = True  # in this order: who sees the second sees the first

    def _go_on(self) -> None:
        """Asks for the next round, unless the turn was cancelled meanwhile or some calls are left to the caller."""
        self._calls = []
        if self.is_over:
            return
        if pending_calls(self.messages):
            self._complete()
            return
        self._rounds += 1
        self._ask(AUTO)

    def _ask(self, choice: str) -> None:
        """Asks for what follows the messages. Raises ExceededContextWindow, with the numbers, where they are too
        long."""
        chosen = {"tool_choice": choice} if choice != AUTO else {}
        try:
            stream = self._prompts.ask(self.messages, self._asked.max_tokens, {**self._asked.options, **chosen})
        except PromptTooLong as error:
            raise exceeded(error) from error
        self._stream, self._length = stream, len(self.messages)
        if self.is_over:  # it was cancelled meanwhile
            stream.cancel()


def exceeded(error: PromptTooLong) -> ExceededContextWindow:
    """Makes the error for a transcript that is too long as a prompt."""
    return ExceededContextWindow(
        f"The session's transcript has {error.tokens} tokens with this turn, and the model's context {error.context}.",
        "Shorten the transcript, begin a new session, or give a {window}: then all but the last tokens are forgotten.",
        error.tokens,
        error.context,
    )
