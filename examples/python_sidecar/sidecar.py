"""A client of `elm-mlx serve --stdio` in plain Python: it starts the process, and asks it from any thread.

The protocol, JSON-RPC 2.0 with a message a line, is described in docs/sidecar.md.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

COMMAND = ("elm-mlx", "serve", "--stdio")


class SidecarError(Exception):
    """The sidecar refused a request: `code` is JSON-RPC's, `data` has kind, exit_code and advice."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code, self.data = error["code"], error.get("data", {})


class Asked:
    """A request under way: iterate over its notifications as they come, then take the result."""

    def __init__(self, sidecar: Sidecar, id: int) -> None:
        self._sidecar, self.id = sidecar, id
        self._news: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._answer: dict[str, Any] | None = None
        self._is_over = threading.Event()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The notifications of this request: {"method": ..., "params": {...}}."""
        while (news := self._news.get()) is not None:
            yield news

    def texts(self) -> Iterator[str]:
        """The texts of an answer, as they come."""
        return (one["params"]["text"] for one in self if one["params"].get("kind") == "text")

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the result. Raises SidecarError, TimeoutError."""
        if not self._is_over.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} seconds")
        assert self._answer
        if "error" in self._answer:
            raise SidecarError(self._answer["error"])
        return self._answer["result"]

    def cancel(self) -> None:
        """Asks the sidecar to end this request: its result is then an error of kind Cancelled."""
        self._sidecar.notify("$/cancel", id=self.id)

    def _tell(self, news: dict[str, Any]) -> None:
        self._news.put(news)

    def _settle(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self._is_over.set()
        self._news.put(None)


class Sidecar:
    """The process, from a `with` block's begin to its end. `tools` are the functions that a model may call, by name."""

    def __init__(self, command: Sequence[str] = COMMAND, tools: dict[str, Callable[..., Any]] | None = None) -> None:
        self._tools = tools or {}
        self._asked: dict[int, Asked] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # of what is written, and of the requests under way
        self._is_gone = False
        # Standard error stays the caller's own: a pipe that nobody reads would fill up.
        self.process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.about = self.call("initialize", protocolVersion=1, processId=os.getpid())

    def __enter__(self) -> Sidecar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, method: str, **params: Any) -> Asked:
        """Sends a request and returns at once."""
        asked = Asked(self, next(self._numbers))
        with self._lock:
            if self._is_gone:
                asked._settle(LEFT)
                return asked
            self._asked[asked.id] = asked
        self._send({"id": asked.id, "method": method, "params": params})
        return asked

    def call(self, method: str, timeout: float | None = None, **params: Any) -> Any:
        """Sends a request and waits for its result. Raises SidecarError, TimeoutError."""
        return self.begin(method, **params).result(timeout)

    def notify(self, method: str, **params: Any) -> None:
        """Sends what wants no answer."""
        self._send({"method": method, "params": params})

    def close(self) -> None:
        """Ends the process: closing its standard input is enough."""
        with self._lock:
            assert self.process.stdin
            with contextlib.suppress(OSError):  # it was gone
                self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()  # what it left in the pipe is read

    def _send(self, fields: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **fields}).encode() + b"\n"
        with self._lock:
            assert self.process.stdin
            with contextlib.suppress(OSError, ValueError):  # the reader tells all who wait
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def _read(self) -> None:
        """Takes what the sidecar writes, until it ends."""
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self._take(json.loads(line))
        with self._lock:
            self._is_gone = True
        for asked in list(self._asked.values()):
            asked._settle(LEFT)

    def _take(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            if asked := self._asked.pop(message["id"], None):
                asked._settle(message)
        elif message["method"] == "tool/call":
            threading.Thread(target=self._run_tool, args=(message,), daemon=True).start()
        elif asked := self._asked.get(message["params"].get("request")):
            asked._tell(message)

    def _run_tool(self, message: dict[str, Any]) -> None:
        """Runs the function of a tool, and answers with its result or its error."""
        params = message["params"]
        try:
            answer: dict[str, Any] = {"result": self._tools[params["name"]](**params["arguments"])}
            json.dumps(answer)
        except Exception as error:  # the model is told of it
            answer = {"error": {"code": -32000, "message": f"{type(error).__name__}: {error}"}}
        self._send({"id": message["id"], **answer})


LEFT = {"error": {"code": -32000, "message": "The sidecar has ended.", "data": {"kind": "Gone"}}}
