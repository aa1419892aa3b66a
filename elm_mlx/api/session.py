"""A conversation that keeps its own state: what was said, its tools, and keys and values for the next turn."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Unpack
from weakref import finalize, ref

from elm_mlx.api.completion import Completion
from elm_mlx.api.options import MAX_TOKENS, Options
from elm_mlx.api.session_prompts import Conversable, Prompts, TemplatePrompts, TextPrompts
from elm_mlx.api.session_stream import SessionStream
from elm_mlx.api.session_turn import Asked, Toolbox, Turn, exceeded
from elm_mlx.api.stream import Stream
from elm_mlx.api.tool_running import check_seconds, result_text
from elm_mlx.api.transcript import Message, check_transcript, pending_calls, result_message, save_transcript
from elm_mlx.arguments import is_unicode, shown
from elm_mlx.engine.prefixes import Prefixes
from elm_mlx.errors import ConcurrentRequests, InvalidRequest, PromptTooLong
from elm_mlx.text.tools import ToolCall

OWNERS = count(1)
HELD = "window", "kv_bits", "adapter"  # the options that keys and values depend on


class Session:
    """A conversation with a model, made by `LanguageModel.session`. It answers one request at a time; a model has any
    number of sessions, in any threads and event loops.

    A turn that fails, is cancelled or is late leaves the transcript as it was before the turn, and the session usable;
    what its tools have done meanwhile stays done. Keys and values of the transcript are kept for the next turn, as long
    as memory allows: then a turn reads only what is new. The answer does not depend on it.
    """

    def __init__(
        self,
        lm: Conversable,
        messages: Sequence[Message],
        toolbox: Toolbox,
        options: Mapping[str, Any],
        *,
        completes: bool = False,
    ) -> None:
        """Goes on after messages that were checked, with `options` in every turn. Where it `completes`, the model has
        no chat template and goes on with the text of all messages."""
        self._lm, self._messages, self._toolbox, self._options = lm, list(messages), toolbox, dict(options)
        self._owner = next(OWNERS)
        tools = list(toolbox.tools.values())
        self._prompts: Prompts = TextPrompts(lm, self._owner) if completes else TemplatePrompts(lm, tools, self._owner)
        self._lock = threading.RLock()  # a signal's handler may ask while its thread does
        self._turn: ref[Turn] | None = None  # nobody else keeps a turn that its reader has left
        self._warming: Stream | None = None
        finalize(self, lm._worker.disown, self._owner).atexit = False

    def respond(
        self,
        prompt: str | None,
        max_tokens: int | None = MAX_TOKENS,
        *,
        tool_choice: str = "auto",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Completion:
        """The model's answer to `prompt`, after rounds of calls that the session runs; it and the answer are added to
        the transcript. None asks for what follows the transcript as it is: after `add_results`, or where its last
        message is the user's.

        `max_tokens` is for each round. Where the answer calls tools that the session has no functions for, its
        `tool_calls` are the caller's to run: `pending_calls`, `add_results`.

        Raises ConcurrentRequests while the session answers, ExceededContextWindow where the transcript fills the
        context, TimedOut where the answer takes over `timeout` seconds, ToolCallError where the model calls tools in
        too many rounds, Cancelled, and as `LanguageModel.chat`.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        turn = self._new_turn(prompt, Asked(max_tokens, {**self._options, **options}, tool_choice, timeout))
        try:
            turn.begin()
            return turn.answer()
        finally:
            self._finish(turn)

    def stream(
        self,
        prompt: str | None,
        max_tokens: int | None = MAX_TOKENS,
        *,
        tool_choice: str = "auto",
        **options: Unpack[Options],
    ) -> SessionStream:
        """Asks as `respond` does and returns at once; the pieces come as the stream is iterated over. Raises as
        `respond`, here or while it is read."""
        turn = self._new_turn(prompt, Asked(max_tokens, {**self._options, **options}, tool_choice))
        try:
            turn.begin()
        except BaseException:
            self._finish(turn)
            raise
        return SessionStream(turn, self._finish, self._keep)

    async def arespond(
        self,
        prompt: str | None,
        max_tokens: int | None = MAX_TOKENS,
        *,
        tool_choice: str = "auto",
        **options: Unpack[Options],
    ) -> Completion:
        """Answers as `respond` does, without blocking the event loop; async functions of tools run in it. Cancelling
        the task cancels the turn; `asyncio.timeout` sets a time."""
        turn = self._new_turn(prompt, Asked(max_tokens, {**self._options, **options}, tool_choice))
        try:
            turn.begin()
            return await turn.aanswer()
        finally:
            self._finish(turn)

    def astream(
        self,
        prompt: str | None,
        max_tokens: int | None = MAX_TOKENS,
        *,
        tool_choice: str = "auto",
        **options: Unpack[Options],
    ) -> SessionStream:
        """Asks for `async for piece in session.astream(...)`. Leaving the loop cancels the turn. Raises as
        `respond`."""
        return self.stream(prompt, max_tokens, tool_choice=tool_choice, **options)

    @property
    def transcript(self) -> list[Message]:
        """What was said so far: a copy, as plain dicts in OpenAI's form, the instructions as a system message. Another
        transcript may be set: raises InvalidRequest for what is none, ConcurrentRequests while the session answers."""
        return deepcopy(self._messages)

    @transcript.setter
    def transcript(self, messages: Iterable[Mapping[str, Any]]) -> None:
        checked = check_transcript(messages)
        with self._lock:
            self._refuse_second()
            self._messages = checked

    @property
    def is_responding(self) -> bool:
        """Whether a turn is under way."""
        return self._current is not None

    @property
    def pending_calls(self) -> list[ToolCall]:
        """The calls of the last answer that the caller has to run, in their order."""
        return pending_calls(self._messages)

    def add_results(self, results: Sequence[object] | Mapping[str, object]) -> None:
        """Adds results to the transcript: those of all `pending_calls` in their order, or by ids. A text stays as it
        is, anything else becomes JSON, and a long one is cut. `respond(None)` then asks for what follows. Raises
        InvalidRequest for other numbers or ids, ConcurrentRequests while the session answers."""
        with self._lock:
            self._refuse_second()
            calls = self.pending_calls
            given = dict(results) if isinstance(results, Mapping) else named_results(calls, results)
            if strange := given.keys() - {call.id for call in calls}:
                raise InvalidRequest(f"No call with the id {shown(min(strange, key=str))} waits for a result; "
                                     "pending_calls has those that do.")  # fmt: skip
            answered = [(call, result_text(given[call.id])) for call in calls if call.id in given]
            self._messages = [*self._messages, *(result_message(call, text) for call, text in answered)]

    def cancel(self) -> None:
        """Cancels the turn under way, from any thread; without one it does nothing."""
        if turn := self._current:
            turn.cancel()

    def prewarm(self) -> None:
        """Begins to read what the next turn begins with (instructions, tools, the transcript), so that its first token
        comes sooner, and returns at once. A session that answers does that by itself. Raises as `respond` for a
        transcript that is too long."""
        if self.is_responding:
            return
        ids = self._prompts.beginning(self._messages)
        if len(ids) >= Prefixes.LEAST:
            held: Any = {name: self._options[name] for name in HELD if name in self._options}
            try:
                request = self._lm.request(ids, 1, **held)
            except PromptTooLong as error:
                raise exceeded(error) from error
            self._warming = self._lm._begin(replace(request, stop_ids=frozenset(), stopper=None, owner=self._owner))

    def save(self, path: str | Path) -> None:
        """Writes the transcript as a JSON file, for `lm.session(transcript=path)`. Raises InvalidRequest where another
        file has the name, NotFound without the file's directory, DiskFull."""
        save_transcript(path, self._messages)

    @property
    def _current(self) -> Turn | None:
        """The turn under way; one that was cancelled is none."""
        turn = self._turn() if self._turn else None
        return turn if turn and (not turn.is_over or turn.is_whole) else None

    def _refuse_second(self) -> None:
        if self.is_responding:
            raise ConcurrentRequests("This session is answering, and a session answers one request at a time.",
                                     "Wait for its answer, or begin another session.")  # fmt: skip

    def _new_turn(self, prompt: str | None, asked: Asked) -> Turn:
        """A turn that has not begun, as the only one of the session."""
        with self._lock:
            self._refuse_second()
            turn = Turn(self._prompts, self._toolbox, [*self._messages, *self._question(prompt)], asked)
            self._turn = ref(turn)
            return turn

    def _question(self, prompt: str | None) -> list[Message]:
        """The message that a prompt is. Raises InvalidRequest for one that cannot be asked here."""
        if pending := self.pending_calls:
            raise InvalidRequest(f"The call {pending[0].id} of the tool {pending[0].name} has no result yet. Give it "
                                 "by add_results.")  # fmt: skip
        if prompt is None:
            if not self._messages or self._messages[-1]["role"] not in ("user", "tool"):
                raise InvalidRequest("There is nothing to answer: the transcript does not end with a user's message or "
                                     "a tool's result. Give a prompt.")  # fmt: skip
            return []
        if not isinstance(prompt, str) or not is_unicode(prompt):
            raise InvalidRequest(f"The prompt is {shown(prompt)}; it must be a text in Unicode.")
        return [{"role": "user", "content": prompt}]

    def _finish(self, turn: Turn) -> None:
        """Ends a turn, and takes over what it has added where it is whole."""
        turn.cancel()
        with self._lock:
            if self._current is turn:
                self._turn = None
                if turn.is_whole:
                    self._messages = turn.messages

    def _keep(self, turn: Turn) -> None:
        """Takes over what a cancelled turn has added."""
        with self._lock:
            self._refuse_second()
            kept = turn.kept()
            if kept[: len(self._messages)] != self._messages:
                raise InvalidRequest("The transcript has changed since this answer began, so the answer cannot be "
                                     "kept. Ask again.")  # fmt: skip
            self._messages = kept


def named_results(calls: Sequence[ToolCall], results: Sequence[object]) -> dict[str, object]:
    """Results that are given in the order of their calls, by id. Raises InvalidRequest for another number."""
    if isinstance(results, str | bytes) or not isinstance(results, Sequence) or len(results) != len(calls):
        raise InvalidRequest(f"{len(calls)} calls wait for a result. Give a list of {len(calls)} results, or a dict of "
                             "results by the ids of their calls.")  # fmt: skip
    return {call.id: result for call, result in zip(calls, results, strict=True)}
