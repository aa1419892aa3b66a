"""A server with the page and an API whose answers are written here, so that a test knows every piece and its time."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn import Config, Server

from elm_mlx.server.page.routes import page_routes

MODELS = [
    {
        "id": "chatty",
        "object": "model",
        "created": 0,
        "owned_by": "us",
        "context_length": 4096,
        "has_chat_template": True,
    },
    {
        "id": "base",
        "object": "model",
        "created": 0,
        "owned_by": "us",
        "context_length": 512,
        "has_chat_template": False,
    },
]


@dataclass
class Script:
    """How the server answers. `replies` has for a question the pieces of its answer: texts, or whole deltas, or a
    refusal as {"error": ...}; "wait" stands for waiting until `go_on` is set. `key` is asked for where it is set.
    `models` are those of the list."""

    replies: dict[str, list[Any]] = field(default_factory=dict)
    key: str | None = None
    models: list[dict[str, Any]] = field(default_factory=lambda: [dict(model) for model in MODELS])
    pause_s: float = 0.001  # after every piece
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # questions whose client went away before the end
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def clear(self) -> None:
        """Begins anew, at the same address."""
        vars(self).update(vars(Script(url=self.url)))

    def pieces(self, body: dict[str, Any]) -> list[Any]:
        """The pieces for a request: those of its last message or its prompt, or else its words, one by one."""
        question = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return self.replies.get(question) or [f"{word} " for word in f"You said: {question}".split(" ")]


def refusal(status: int, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status)


def event(value: Any) -> str:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def chunk(body: dict[str, Any], piece: Any, finish: str | None = None) -> dict[str, Any]:
    """A chunk as OpenAI's API has it, for either kind of request."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if "messages" in body:
        choice["delta"] = piece if isinstance(piece, dict) else {"content": piece}
    else:
        choice["text"] = piece
    return {"id": "x-1", "object": "chunk", "created": 1, "model": body["model"], "choices": [choice], "usage": None}


async def stream(script: Script, body: dict[str, Any], pieces: list[Any]) -> AsyncIterator[str]:
    """The events of an answer; notes where its reader left."""
    is_over, count = False, 0
    try:
        yield ": keep-alive\n\n"
        yield event(chunk(body, {"role": "assistant", "content": ""} if "messages" in body else ""))
        for piece in pieces:
            if isinstance(piece, dict) and "error" in piece:
                is_over = True
                yield event(piece)
                return
            while piece == "wait" and not script.go_on.is_set():
                yield ": keep-alive\n\n"
                await asyncio.sleep(0.01)
            if piece != "wait":
                count += 1
                yield event(chunk(body, piece))
                await asyncio.sleep(script.pause_s)
        is_over = True
        yield event(chunk(body, {} if "messages" in body else "", "length" if count == 1 else "stop"))
        usage = {"prompt_tokens": 100, "completion_tokens": count, "total_tokens": 100 + count}
        yield event(chunk(body, "") | {"choices": [], "usage": usage})
        yield event("[DONE]")
    finally:
        if not is_over:
            script.left.append(json.dumps(body))


def make_app(script: Script) -> Starlette:
    def refused(request: Request) -> Response | None:
        if script.key and request.headers.get("authorization") != f"Bearer {script.key}":
            return refusal(401, "This server needs an API key.")
        if request.headers.get("origin") not in (None, script.url):
            return refusal(403, "This origin may not ask.")
        return None

    async def models(request: Request) -> Response:
        return refused(request) or JSONResponse({"object": "list", "data": script.models})

    async def answer(request: Request) -> Response:
        if refusal_ := refused(request):
            return refusal_
        body = await request.json()
        script.bodies.append(body)
        pieces = script.pieces(body)
        if isinstance(pieces[0], Response):
            return pieces[0]
        return StreamingResponse(stream(script, body, pieces), media_type="text/event-stream")

    paths = ("/v1/chat/completions", "/v1/completions")
    posts = [Route(path, answer, methods=["POST"]) for path in paths]
    return Starlette(routes=[*page_routes(), Route("/v1/models", models), *posts])


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serves on a free port of the loopback, and gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = Server(Config(make_app(script), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield script.url
        finally:
            script.go_on.set()
            server.should_exit = True
            thread.join(20)
