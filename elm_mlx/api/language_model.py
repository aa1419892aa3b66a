"""A model to call: all that may be asked of one, of which each base here is a part with a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from elm_mlx.api.adapters import TakesAdapters
from elm_mlx.api.chatting import Chats
from elm_mlx.api.keeping import KeepsPrompts
from elm_mlx.api.options import Options
from elm_mlx.api.predicting import Predicts

if TYPE_CHECKING:
    from elm_mlx.api.session import Session


class LanguageModel(KeepsPrompts, TakesAdapters, Predicts, Chats):
    """A model with its tokenizer, ready to complete. Make one with `load`; close it, or leave a `with` block, to give
    its memory back.

    Any number of threads and event loops may use it at once: what they ask for is answered together, by the one thread
    of the process that computes. A process that was forked cannot use it (Forked).
    """

    def session(
        self,
        instructions: str | None = None,
        *,
        tools: Iterable[Any] = (),
        transcript: str | Path | Sequence[Mapping[str, Any]] | None = None,
        tool_rounds: int = 8,
        tool_seconds: float = 60.0,
        **options: Unpack[Options],
    ) -> Session:
        """Begins a conversation that keeps its own state, told these `instructions`; or goes on after a `transcript`:
        messages, or a file that a session has saved. `options` are for all its turns, each of which may have others.

        `tools` are JSON schemas, or Python functions, sync or async, which the session runs: in at most `tool_rounds`
        rounds a turn, each call for at most `tool_seconds`. Raises InvalidRequest for what has no meaning, NotFound
        where the model has no chat template, EngineStopped after `close`.
        """
        from elm_mlx.api.session_opening import open_session, toolbox_of  # here, as most programs need none

        self._worker.check()
        toolbox = toolbox_of(tools, tool_rounds, tool_seconds)
        return open_session(self, instructions, transcript, toolbox, options)
