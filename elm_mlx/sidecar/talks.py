"""The sessions of a sidecar: conversations that outlive their model's stay in memory, with tools that the client
runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from elm_mlx.errors import ConcurrentRequests, NotFound, QueueFull
from elm_mlx.sidecar.client import Asked
from elm_mlx.sidecar.models import Held

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel, Session, SessionStream, Tool

MOST_SESSIONS = 256


@dataclass(eq=False)
class Talk:
    """A session by its `id`, with the model `held` and how it was opened. `asked` is the request that it answers."""

    id: str
    held: Held
    tools: list[Tool]
    opening: Mapping[str, Any]
    asked: Asked | None = None
    session: Session | None = None
    lm: LanguageModel | None = None  # that of the session

    def open(self, lm: LanguageModel, instructions: str | None = None, transcript: Any = None) -> Session:
        """The session with a model that is in memory; opened anew, with all that was said, where the model has left
        memory since. Raises as `LanguageModel.session`."""
        if self.session is None or self.lm is not lm:
            said = self.session.transcript if self.session else transcript
            tools = [self._with_client(tool) for tool in self.tools]
            self.session, self.lm = lm.session(instructions, tools=tools, transcript=said, **self.opening), lm
        return self.session

    def _with_client(self, tool: Tool) -> Tool:
        """A tool that the client runs: it is sent the call as a request, and answers with the result."""

        async def run(**arguments: Any) -> Any:
            assert self.asked
            return await self.asked.ask("tool/call", {"session": self.id, "name": tool.name, "arguments": arguments})

        return replace(tool, function=run)

    @asynccontextmanager
    async def turn(self, lm: LanguageModel, asked: Asked, **ask: Any) -> AsyncIterator[SessionStream]:
        """Begins a turn for a request and gives its stream; ends the turn with the block. Raises ConcurrentRequests,
        and as `Session.stream`."""
        if self.asked:
            raise ConcurrentRequests("This session is answering, and a session answers one request at a time.",
                                     "Wait for its answer, or begin another session.")  # fmt: skip
        self.asked = asked
        try:
            session = self.open(lm)
            with await asyncio.to_thread(session.astream, **ask) as stream:
                yield stream
        finally:
            self.asked = None


@dataclass
class Talks:
    """All sessions by their ids."""

    _all: dict[str, Talk] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def new_id(self) -> str:
        """An id for one session more. Raises QueueFull where there are as many sessions as are held."""
        if len(self._all) >= MOST_SESSIONS:
            raise QueueFull(f"{MOST_SESSIONS} sessions are open, as many as are held.", "Close some by session/close.")
        return f"session-{next(self._numbers)}"

    def add(self, talk: Talk) -> None:
        """Holds a session that is open."""
        self._all[talk.id] = talk

    def find(self, id: str) -> Talk:
        """The session with this id. Raises NotFound."""
        if talk := self._all.get(id):
            return talk
        raise NotFound(f"There is no session {id!r:.80}. Begin one by session/new.")

    def close(self, talk: Talk) -> None:
        """Ends a session; a request that it answers is cancelled."""
        self._all.pop(talk.id, None)
        if talk.asked:
            talk.asked.cancel()

    def of(self, held: Held) -> list[Talk]:
        """The sessions with a model."""
        return [talk for talk in self._all.values() if talk.held is held]
