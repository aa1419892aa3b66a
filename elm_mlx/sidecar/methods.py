"""The methods of the protocol, by their names. docs/sidecar.md says what each takes and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from elm_mlx import __version__
from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest
from elm_mlx.sidecar import memory
from elm_mlx.sidecar.asking import ASKED_FOR, Deltas, answer, length_in, options_in
from elm_mlx.sidecar.client import MOST_REQUESTS, Asked, Handler
from elm_mlx.sidecar.ending import Ending
from elm_mlx.sidecar.message import MAX_LINE
from elm_mlx.sidecar.models import DEMO, MOST_MODELS, Models, Tell, Wish, names_here
from elm_mlx.sidecar.parameters import Parameters
from elm_mlx.sidecar.talks import MOST_SESSIONS, Talk, Talks

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel

PROTOCOL = 1
SIZES = ("draft", "cpu_policy", "rows", "queue", "cache_bytes", "context", "force")  # arguments of elm_mlx.load


@dataclass
class Methods:
    """What answers requests: the models and sessions of one client. `ending` ends the process."""

    models: Models
    ending: Ending
    talks: Talks = field(default_factory=Talks)
    is_ready: bool = False  # once the client has said which protocol it speaks

    def handler_of(self, method: str) -> Handler | None:
        """What answers a method; None where there is no such method."""
        found = HANDLERS.get(method)
        return partial(found, self) if found else None

    def check_ready(self) -> None:
        """Raises InvalidRequest before the client has introduced itself."""
        if not self.is_ready:
            raise InvalidRequest("The first request must be initialize, with a protocolVersion.")

    async def initialize(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Agrees on a version of the protocol, and says what there is."""
        params = Parameters(given, ("protocolVersion", "clientInfo", "processId"))
        if params.number("protocolVersion") is None:
            raise InvalidRequest(f"protocolVersion is missing; this is version {PROTOCOL}.")
        params.get("clientInfo", dict)
        if (parent := params.number("processId")) is not None:
            self.ending.end_with(parent)
        self.is_ready = True
        return {"protocolVersion": PROTOCOL, "serverInfo": {"name": "elm-mlx", "version": __version__},
                "capabilities": capabilities()}  # fmt: skip

    async def load(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Loads a model."""
        params = self._read(given, ("model", "name", "bits", "pull", "chat_template", *SIZES))
        model = params.get("model", str)
        wish = Wish(None if model == DEMO else model, params.number("bits"), params.flag("pull"),
                    params.get("chat_template", str), params.subset(SIZES), params.get("name", str))  # fmt: skip
        held = self.models.want(wish)
        async with self.models.use(held, progress_to(asked)) as lm:
            return {"model": held.name, **figures(lm)}

    async def unload(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Gives a model back, and closes its sessions."""
        held = self.models.find(self._read(given, ("model",)).get("model", str))
        talks = self.talks.of(held)
        for talk in talks:
            self.talks.close(talk)
        await self.models.drop(held)
        return {"model": held.name, "closed_sessions": [talk.id for talk in talks]}

    async def list_models(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """The models that are loaded, and the names of those that could be."""
        self._read(given, ())
        return {"loaded": [memory.model_object(held) for held in self.models],
                "here": await asyncio.to_thread(names_here)}  # fmt: skip

    async def new_session(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Begins a session."""
        known = ("model", "instructions", "tools", "transcript", "options", "tool_rounds", "tool_seconds", "prewarm")
        params = self._read(given, known)
        from elm_mlx.api.tools import tools_of  # here, as MLX takes its time

        tools = list(tools_of(params.get("tools", list)))
        opening = {**options_in(params), **params.subset(("tool_rounds", "tool_seconds"))}
        said = params.get("instructions", str), params.get("transcript", list)
        held = self.models.find(params.get("model", str))
        talk = Talk(self.talks.new_id(), held, tools, opening)
        async with self.models.use(held, progress_to(asked)) as lm:
            session = await asyncio.to_thread(talk.open, lm, *said)
            if params.flag("prewarm"):
                session.prewarm()
        self.talks.add(talk)
        return {"session": talk.id, "model": held.name}

    async def respond(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Answers in a session."""
        params = self._read(given, ("session", "prompt", "tool_choice", *ASKED_FOR))
        talk = self.talks.find(params.need("session", str))
        ask = {"prompt": params.get("prompt", str), **params.subset(("tool_choice",)), **length_in(params)}
        ask |= options_in(params)
        async with (
            self.models.use(talk.held, progress_to(asked)) as lm,
            talk.turn(lm, asked, **ask) as stream,
        ):
            return await answer(stream, Deltas(asked, "session/delta", params, {"session": talk.id}))

    async def generate(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Completes a prompt, a text or ids, with no chat template."""
        params = self._read(given, ("model", "prompt", *ASKED_FOR))
        prompt = params.raw("prompt")
        if not isinstance(prompt, str | list):
            raise InvalidRequest(f"prompt is {shown(prompt)}; it must be a text, or a list of token ids.")
        held = self.models.find(params.get("model", str))
        ask = {**length_in(params), **options_in(params)}
        async with self.models.use(held, progress_to(asked)) as lm:
            with await asyncio.to_thread(partial(lm.submit, prompt, **ask)) as stream:
                return await answer(stream, Deltas(asked, "generate/delta", params))

    async def transcript(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """All that was said in a session."""
        talk = self.talks.find(self._read(given, ("session",)).need("session", str))
        assert talk.session
        return {"messages": talk.session.transcript}

    async def close_session(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Ends a session."""
        self.talks.close(self.talks.find(self._read(given, ("session",)).need("session", str)))
        return {}

    async def pressure(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Gives memory back that can be done without."""
        level = self._read(given, ("level",)).get("level", str)
        if level not in memory.LEVELS:
            raise InvalidRequest(f"level is {shown(level)}; it must be one of {', '.join(memory.LEVELS)}.")
        return await memory.relieve(self.models, level)

    async def status(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """What memory is held."""
        self._read(given, ())
        return await memory.status(self.models)

    async def shutdown(self, given: Mapping[str, Any], asked: Asked) -> Any:
        """Ends the process, after this is answered."""
        Parameters(given, ())
        self.ending.end(0)
        return {}

    def _read(self, given: Mapping[str, Any], known: Collection[str]) -> Parameters:
        """The parameters of a request after the first one. Raises InvalidRequest."""
        self.check_ready()
        return Parameters(given, known)


HANDLERS: dict[str, Callable[[Methods, Mapping[str, Any], Asked], Awaitable[Any]]] = {
    "initialize": Methods.initialize,
    "model/load": Methods.load,
    "model/unload": Methods.unload,
    "model/list": Methods.list_models,
    "session/new": Methods.new_session,
    "session/respond": Methods.respond,
    "session/transcript": Methods.transcript,
    "session/close": Methods.close_session,
    "generate": Methods.generate,
    "memory/pressure": Methods.pressure,
    "memory/status": Methods.status,
    "shutdown": Methods.shutdown,
}


def capabilities() -> dict[str, Any]:
    """What this process can do, and its bounds."""
    limits = {"line_bytes": MAX_LINE, "requests": MOST_REQUESTS, "sessions": MOST_SESSIONS, "models": MOST_MODELS}
    return {"methods": list(HANDLERS), "structure": find_spec("llguidance") is not None, "limits": limits}


def progress_to(asked: Asked) -> Tell:
    """What tells the client how far the loading is that its request waits for."""
    return lambda stage, done, total: asked.mention("model/progress", {"stage": stage, "done": done, "total": total})


def figures(lm: LanguageModel) -> dict[str, Any]:
    """What a client may want to know of a model."""
    return {
        "context_length": lm.config.context_length,
        "family": lm.config.label,
        "parameters": lm.config.parameter_count,
        "has_chat_template": lm.has_chat_template,
        "notices": list(lm.notices),
    }
