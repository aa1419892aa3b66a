"""The log of a server on stderr: a line a request, as text or as JSON, without what was asked or answered."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger("elm_mlx.server")
MOST_PATH = 200  # characters of a path in the log
LEFT = 499  # in the log alone: the client went away before its response was whole


@dataclass(frozen=True)
class Line:
    """A request as the log tells it: no query, body or key, as they may hold what is private."""

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def __str__(self) -> str:
        """The line as text."""
        words = [self.method, self.path, str(self.status), f"{self.seconds:.3f} s"]
        if self.completion_tokens is not None:
            words.append(f"{self.prompt_tokens or 0} + {self.completion_tokens} tokens")
        return " ".join([*words, self.request_id])


def log_request(line: Line) -> None:
    """Writes the line of one request."""
    log.info("%s", line, extra={"request": line})


def log_unforeseen(what: str, error: BaseException) -> None:
    """Writes that an error came up that nobody foresaw: its class, and where it came from. Its own words are left out,
    as they may quote a prompt."""
    places = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s\n%s%s", what, places, type(error).__name__)


def clean(path: str) -> str:
    """A path without characters that could forge a line or move a cursor, and not endless."""
    return "".join(c if c.isprintable() else "\ufffd" for c in path[:MOST_PATH])


class JsonLines(logging.Formatter):
    """Log records as JSON, an object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        told: dict[str, Any] = {"time": stamp(record.created), "level": record.levelname.lower()}
        line = getattr(record, "request", None)
        told |= asdict(line) if line else {"message": super().format(record)}
        return json.dumps({key: value for key, value in told.items() if value is not None})


class TextLines(logging.Formatter):
    """Log records as lines for people: the time, and what is not usual with its level."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{stamp(record.created)} {level}{super().format(record)}"


def stamp(seconds: float) -> str:
    """A time in seconds since 1970 as UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def set_up_log(log_format: str, *, is_quiet: bool = False) -> None:
    """Writes the server's log to stderr from now on, as "text" or as "json"; with `is_quiet` its warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    for name, level in (("elm_mlx.server", logging.INFO), ("uvicorn.error", logging.ERROR), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if is_quiet and level == logging.INFO else level)
