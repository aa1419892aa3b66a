"""Serves the page's files, with the headers that let it run its own scripts and nothing else."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any, NamedTuple

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SCRIPTS = "main answer chat completion conversations dom inline markdown server settings side theme"
FILES = ("index.html", "style.css", "icon.svg", *(f"{name}.js" for name in SCRIPTS.split()))
PATHS = {name: "/" if name == "index.html" else f"/page/{name}" for name in FILES}
"""Where each file is served. These paths hold no secret and need no key: the page asks for one itself."""

# Scripts and styles come from this origin alone, no text ever becomes markup (trusted types), nobody frames the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """A file of the page as it is sent."""

    body: bytes
    headers: dict[str, str]


def read_file(name: str) -> File:
    """Reads one of FILES from the package. Its ETag is a hash of its bytes."""
    body = (resources.files(__package__) / name).read_bytes()
    kind = TYPES[name[name.rindex(".") :]]
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return File(body, HEADERS | {"Content-Type": f"{kind}; charset=utf-8", "ETag": tag})


def answer(file: File, known: str | None) -> Any:
    """The response for a file: whole, or 304 if `known`, the request's If-None-Match, names its ETag."""
    from starlette.responses import Response

    if known and file.headers["ETag"] in known:
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)


def page_routes() -> list[Any]:
    """The routes of the page, for Starlette: GET and HEAD of every path in PATHS. The files are read once, here."""
    from starlette.routing import Route

    def route(name: str) -> Any:
        file = read_file(name)

        async def send(request: Any) -> Any:
            return answer(file, request.headers.get("if-none-match"))

        return Route(PATHS[name], send, methods=["GET"])

    return [route(name) for name in FILES]
