"""The gate before all routes: who may ask. It knows the request's headers alone.

A page of another site can send requests to a server on its reader's machine. Under a name of its own that leads to this
machine (DNS rebinding) it could even read the answers, so the Host of a request must be a name that is known; and its
Origin, which a browser tells, must be this server's own or be allowed.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Collection, Iterable
from ipaddress import ip_address

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asgi import App, Header, Message, Receive, Scope, Send, header, refuse, respond
from elm_mlx.server.settings import Settings, is_loopback

HEALTH = "/health"
ANY = "*"
METHODS = b"GET, HEAD, POST"
# What a page may send. The clients of OpenAI and Anthropic for browsers add more headers than their APIs need.
ALLOWED_HEADERS = frozenset((
    *("authorization", "x-api-key", "content-type", "accept", "openai-beta", "openai-organization", "openai-project"),
    *("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access", "x-request-id"),
    *("idempotency-key", "user-agent", "traceparent", "cache-control", "x-requested-with"),
))  # fmt: skip
CLIENT_HEADERS = "x-stainless-"  # how a client of either begins the names of headers about itself
EXPOSED = b"x-request-id, x-ignored-fields, retry-after, x-should-retry"
MAX_AGE_S = b"600"
WRONG_HOST = "This server does not answer under the name {!r}. Its owner can allow it with --allowed-host."
WRONG_ORIGIN = "Pages of {!r} may not use this server. Its owner can allow them with --allow-origin."
NO_KEY = "This server needs a key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`."
WRONG_KEY = "This is not the key of this server."
MANY_HEADERS = Refusal(431, "The request has too many headers.", code="headers_too_large")


class Gate:
    """An ASGI app around another one, which it lets be asked by those who may. `public` are paths that need no key."""

    def __init__(self, app: App, settings: Settings, public: Collection[str] = ()) -> None:
        self._app, self._settings = app, settings
        self._hosts = known_hosts(settings)
        self._is_open = settings.uds is None and settings.host is not None and not is_loopback(settings.host)
        self._origins = frozenset(one.rstrip("/").lower() for one in settings.allowed_origins)
        self._key = settings.api_key.encode() if settings.api_key else None
        self._public = frozenset((HEALTH, *public))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin")
        if len(scope["headers"]) > self._settings.limits.headers:
            await refuse(scope, send, MANY_HEADERS)
        elif refusal := self._refuse_host(scope) or self._refuse_origin(scope, origin):
            await refuse(scope, send, refusal)
        elif origin is not None and is_preflight(scope):
            await respond(send, 204, b"", preflight_headers(scope, origin))
        else:
            sender = send if origin is None else with_headers(send, cross_origin_headers(origin))
            if refusal := self._refuse_key(scope):
                await refuse(scope, sender, refusal)
            else:
                await self._app(scope, receive, sender)

    def _refuse_host(self, scope: Scope) -> Refusal | None:
        """The refusal of a request that calls this machine by a name that is not its own."""
        told = (header(scope, b"host") or b"").decode("latin-1")
        name = host_name(told)
        if name in self._hosts or is_loopback(name) or (self._is_open and is_address(name)):
            return None
        return Refusal(403, WRONG_HOST.format(told[:100]), "permission_error", "host_not_allowed")

    def _refuse_origin(self, scope: Scope, origin: bytes | None) -> Refusal | None:
        """The refusal of a request that a page of another site sends."""
        if origin is None:
            return None
        told, host = origin.decode("latin-1").lower(), (header(scope, b"host") or b"").decode("latin-1").lower()
        if told in self._origins or ANY in self._origins or told in (f"http://{host}", f"https://{host}"):
            return None
        return Refusal(403, WRONG_ORIGIN.format(told[:100]), "permission_error", "origin_not_allowed",
                       headers={"vary": "Origin"})  # fmt: skip

    def _refuse_key(self, scope: Scope) -> Refusal | None:
        """The refusal of a request without the server's key, where it has one."""
        if self._key is None or scope["path"] in self._public:
            return None
        given = keys_of(scope)
        if any(hmac.compare_digest(one, self._key) for one in given):
            return None
        return Refusal(401, WRONG_KEY if given else NO_KEY, "authentication_error", "invalid_api_key",
                       headers={"www-authenticate": "Bearer"})  # fmt: skip


def known_hosts(settings: Settings) -> frozenset[str]:
    """The names by which clients may call this machine, beside the addresses of the machine itself."""
    own = socket.gethostname().lower().rstrip(".")
    names = {"localhost", "127.0.0.1", "::1", own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    asked = {host_name(one) for one in (*settings.allowed_hosts, settings.host or "localhost")}
    return frozenset((names | asked) - {""})


def host_name(told: str) -> str:
    """The name in a Host header, without its port, in small letters; nothing for what is no Host header."""
    if told.startswith("["):
        name, closed, port = told[1:].partition("]")
        port = port.removeprefix(":")
        return name.lower() if closed and is_port(port) else ""
    name, _, port = told.partition(":")
    return name.lower().rstrip(".") if is_port(port) else told.lower() if is_address(told) else ""


def is_port(text: str) -> bool:
    """Whether a text can stand after the colon of a host; it may be empty."""
    return text == "" or (text.isascii() and text.isdigit())


def is_address(name: str) -> bool:
    """Whether a name is an address in numbers, which no other site can make its own."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def keys_of(scope: Scope) -> list[bytes]:
    """The keys that a request has: OpenAI's clients send a Bearer token, Anthropic's an x-api-key."""
    scheme, _, token = (header(scope, b"authorization") or b"").partition(b" ")
    found = [token.strip()] if scheme.lower() == b"bearer" else []
    return [one for one in (*found, header(scope, b"x-api-key")) if one]


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if it may ask."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None


def preflight_headers(scope: Scope, origin: bytes) -> Iterable[Header]:
    """What a browser may send from an allowed origin."""
    asked = (header(scope, b"access-control-request-headers") or b"").decode("latin-1").lower()
    names = [name.strip() for name in asked.split(",")]
    allowed = [name for name in names if name in ALLOWED_HEADERS or name.startswith(CLIENT_HEADERS)]
    return [
        *cross_origin_headers(origin),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", ", ".join(allowed or ["authorization", "content-type"]).encode("latin-1")),
        (b"access-control-max-age", MAX_AGE_S),
    ]


def cross_origin_headers(origin: bytes) -> list[Header]:
    """The headers by which a browser hands a response to a page of an allowed origin."""
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin"), (b"access-control-expose-headers", EXPOSED)]


def with_headers(send: Send, headers: Iterable[Header]) -> Send:
    """A `send` that adds headers to the response."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_more
