"""Whether the server answers: judged by what computes, since a server whose engine hangs still takes requests."""

from __future__ import annotations

import time
from typing import Any

from elm_mlx import __version__
from elm_mlx.server.book import Book
from elm_mlx.server.shelf import Shelf

STUCK_S = 60.0  # without a step, a chunk of a prompt or the end of a job, while there is work
LOADING_S = 300.0  # for a model that is being loaded, which is one job


def health(shelf: Shelf) -> tuple[int, dict[str, Any]]:
    """A status of HTTP and what to tell: 200 where the engine makes progress or has nothing to do, else 503 with a
    reason. The device is asked nothing, so this answers where it hangs."""
    reason = why_ill(shelf)
    loading = any(book.loading for book in shelf.books.values())
    told = {"status": "unhealthy" if reason else "loading" if loading else "ok", "version": __version__}
    if reason:
        told["reason"] = reason
    return 503 if reason else 200, told | {"models": [state_of(book) for book in shelf.books.values()]}


def state_of(book: Book) -> dict[str, Any]:
    """A model, and whether it is loaded."""
    told: dict[str, Any] = {"name": book.name, "state": "loaded" if book.lm else "loading" if book.loading else "idle"}
    if book.progress:
        told["loaded_bytes"], told["total_bytes"] = book.progress
    return told


def why_ill(shelf: Shelf) -> str | None:
    """Why the server does not answer, or None where it does."""
    from elm_mlx.device.thread import running  # here, so that the server starts before anything computes

    for book in shelf.books.values():
        if book.lm and (stopped := book.lm.activity.stopped):
            return f"{book.name} answers no more: {stopped}"
    thread = running()
    patience = LOADING_S if any(book.loading for book in shelf.books.values()) else STUCK_S
    if thread and thread.is_busy and (silent := time.perf_counter() - thread.last_progress) > patience:
        return f"The engine has made no progress for {silent:.0f} seconds."
    return None
