"""The server as one ASGI app: the table of its routes, behind the gate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asgi import App, Receive, Scope, Send, refuse
from elm_mlx.server.gate import Gate
from elm_mlx.server.intake import Intake
from elm_mlx.server.routes import Handler, rows
from elm_mlx.server.settings import Settings
from elm_mlx.server.trace import Trace

if TYPE_CHECKING:
    from elm_mlx.server.house import House

PREFIX = "/v1"  # the routes that begin so are there without it, too
NOWHERE = "There is no {} here. The APIs are below /v1, such as /v1/chat/completions; /v1/models lists the models."
NOT_SO = "{} does not take {}; it takes {}."


def pages() -> tuple[list[Any], Iterable[str]]:
    """The routes of the page, and their paths, which need no key."""
    from elm_mlx.server.page.routes import PATHS, page_routes

    return list(page_routes()), PATHS.values()


def make_app(settings: Settings, house: House) -> App:
    """Makes the server's app. `house` has what the routes share."""
    intake = Intake(settings.limits)
    routes, public = pages()
    for method, path, handler in rows():
        routes += [route(method, one, handler, house, intake) for one in with_and_without_prefix(path)]
    return Trace(Gate(Table(routes), settings, frozenset(public)))


def with_and_without_prefix(path: str) -> list[str]:
    """The paths at which a route is found."""
    return [path, path.removeprefix(PREFIX)] if path.startswith(f"{PREFIX}/") else [path]


def route(method: str, path: str, handler: Handler, house: House, intake: Intake) -> Any:
    """A route of Starlette whose handler gets the body within bounds, if the method has one."""
    from starlette.requests import Request
    from starlette.routing import Route

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await handler(Request(scope, receive, send), house)
        await answer(scope, receive, send)

    app = intake.around(serve) if method == "POST" else serve
    return Route(path, endpoint=Endpoint(app), methods=[method])


class Endpoint:
    """An ASGI app as Starlette takes one for an endpoint: it asks functions for a response, and calls objects."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class Table:
    """An ASGI app that finds the route of a request. Unknown paths get a 404 and other methods a 405, as errors of an
    API: Starlette's own router tells them as plain text."""

    def __init__(self, routes: list[Any]) -> None:
        self._routes = routes
        self._at: dict[str, list[Any]] = {}  # the routes at a path that has no part to be read
        for one in routes:
            self._at.setdefault(one.path, []).append(one)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.routing import Match

        methods: set[str] = set()
        for route in self._at.get(scope["path"], self._routes):
            match, child = route.matches(scope)
            if match == Match.FULL:
                scope.update(child)
                await route.handle(scope, receive, send)
                return
            if match == Match.PARTIAL:
                methods |= route.methods
        await refuse(scope, send, not_so(scope, methods) if methods else nowhere(scope))


def nowhere(scope: Scope) -> Refusal:
    """The refusal of a path that is no route."""
    return Refusal(404, NOWHERE.format(repr(scope["path"][:100])), "not_found_error", "not_found")


def not_so(scope: Scope, methods: set[str]) -> Refusal:
    """The refusal of a method that a path does not have."""
    allowed = ", ".join(sorted(methods))
    message = NOT_SO.format(scope["path"][:100], scope["method"][:20], allowed)
    return Refusal(405, message, code="method_not_allowed", headers={"allow": allowed})
