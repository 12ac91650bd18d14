"""The short way to a route that was measured to be hot: one match, its guard, its function.

A hot route is declared like any other and stands in the documents like any other. Only its calls go
past FastAPI's machinery, which costs more than the work (bench/read.py). What it may ask for is
little: the request, its Actor by a guard, path parameters, and a POST the model of its body.

    @router.get("/settings/{key}", response_model=SettingOut)
    @hot
    async def read_setting(request: Request, actor: Annotated[Actor, READ], key: str) -> Response:

A hot POST keeps its Idempotency-Key itself (`@own_key`): nothing here would.
"""

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar, cast, get_args, get_type_hints
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.params import Depends
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from bursar.core import etag
from bursar.core.errors import InvalidInput
from bursar.core.problems import answer, of_body, recognise
from bursar.core.wire import Batch, exact_json

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])
Guard = Callable[[Request], Awaitable[Any]]
PARSERS: dict[Any, Callable[[str], Any]] = {str: str, UUID: UUID}


def hot(endpoint: Endpoint) -> Endpoint:
    """Marks a route's function as one to be called the short way."""
    endpoint.hot = True  # type: ignore[attr-defined]
    return endpoint


@dataclass(frozen=True, slots=True)
class ShortRoute:
    """All that a call needs, worked out once when the application is built."""

    path: str
    endpoint: Callable[..., Awaitable[Response]]
    guard: Guard
    actor_name: str
    parsers: tuple[tuple[str, Callable[[str], Any]], ...]
    body: tuple[str, type[BaseModel]] | None = None

    async def __call__(self, request: Request, values: tuple[str, ...]) -> Response:
        arguments = {self.actor_name: await self.guard(request)}
        for (name, parse), value in zip(self.parsers, values, strict=True):
            try:
                arguments[name] = parse(value)
            except ValueError:
                raise InvalidInput.at(f"path {name}", f"This is no {parse.__name__}.") from None
        if self.body:
            name, model = self.body
            arguments[name] = await read(request, model)
        return await self.endpoint(request=request, **arguments)


IS_JSON = re.compile(rb"application/(json|[^;\s]+\+json)\s*(;|$)", re.IGNORECASE)


async def read(request: Request, model: type[BaseModel]) -> BaseModel:
    """The body in its model, or all that is wrong with it, as FastAPI would say it."""
    raw = request._body = await whole_body(request)  # noqa: SLF001 - as request.body() keeps it
    said = next((value for name, value in request.scope["headers"] if name == b"content-type"), b"")
    value: Any = raw
    if raw and IS_JSON.match(said):
        value = exact_json(raw, by_item=issubclass(model, Batch))
    if issubclass(model, Batch):
        value = model.framed(value, request.scope["headers"])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise of_body(error) from None


async def whole_body(request: Request) -> bytes:
    """Most come in one piece: Starlette's way around a stream takes longer than the rest of it."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    pieces = [message.get("body", b"")]
    while message.get("more_body", False):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class ShortWays:
    """The hot routes of an application by method, in one regular expression each."""

    def __init__(self) -> None:
        self.batch_paths: dict[str, int] = {}
        """Of bodies with many items, and how many these may be. Who may not ask is refused before
        such a body is read."""
        self._routes: dict[str, list[ShortRoute | None]] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}

    def collect(self, app: FastAPI) -> None:
        """In the order of declaration, as FastAPI matches; None is an ordinary route in between."""
        self._routes.clear()
        self._patterns.clear()
        contexts = [c for c in iter_route_contexts(app.routes) if c.methods]
        hot_paths = [c.path_format for c in contexts if is_hot(c)]
        shapes: dict[str, list[str]] = {}
        for context in contexts:
            if not any(overlap(context.path_format, path) for path in hot_paths):
                continue
            route = short_route(context) if is_hot(context) else None
            for method in context.methods or ():
                self._routes.setdefault(method, []).append(route)
                shapes.setdefault(method, []).append(
                    shape(context.path_format or "", "([^/]+)" if route else "[^/]+")
                )
        routes = [route for found in self._routes.values() for route in found if route]
        bodies = {route.path: route.body[1] for route in routes if route.body}
        batches = {path: body for path, body in bodies.items() if issubclass(body, Batch)}
        self.batch_paths.update((path, body.most_items) for path, body in batches.items())
        for method, parts in shapes.items():
            self._patterns[method] = re.compile("|".join(f"({part})" for part in parts))

    def match(self, method: str, path: str) -> tuple[ShortRoute, tuple[str, ...]] | None:
        pattern = self._patterns.get(method)
        found = pattern.fullmatch(path) if pattern else None
        if found is None:
            return None
        groups, start = found.groups(), 0
        for route in self._routes[method]:
            if groups[start] is not None:
                return (
                    (route, groups[start + 1 : start + 1 + len(route.parsers)]) if route else None
                )
            start += 1 + (len(route.parsers) if route else 0)
        return None


def is_hot(context: Any) -> bool:
    return getattr(context.endpoint, "hot", False)


def overlap(one: str | None, other: str | None) -> bool:
    """Whether some path is for both: as many segments, and none of them differ for certain."""
    pairs = list(zip_longest((one or "").split("/"), (other or "").split("/")))
    return all(a is not None and b is not None and (a == b or "{" in a + b) for a, b in pairs)


def short_route(context: Any) -> ShortRoute:
    """Works out a call, or refuses the route when the application is built."""
    path = context.path_format
    keeps_key = context.methods == {"POST"} and getattr(context.endpoint, "own_key", False)
    if context.methods != {"GET"} and not keeps_key:
        raise TypeError(f"the hot route {path} must be a GET, or a POST that keeps its own key")
    hints = get_type_hints(context.endpoint, include_extras=True)
    guards = {
        name: cast("Guard", marker.dependency)
        for name, hint in hints.items()
        for marker in get_args(hint)
        if isinstance(marker, Depends)
    }
    calls = {inner.call for inner in context.dependant.dependencies}
    if len(guards) != 1 or calls != set(guards.values()) or not is_guard(*calls):
        raise TypeError(f"the hot route {path} needs one guard among its arguments, nothing else")
    [(actor_name, guard)] = guards.items()
    names = re.findall(r"{(\w+)}", path)
    expected = set(inspect.signature(context.endpoint).parameters) - {"request", actor_name}
    body = next(((name, hints[name]) for name in expected if is_model(hints[name])), None)
    expected -= {body[0]} if body and keeps_key else set()
    if expected != set(names) or re.search(r"{\w+:", context.path):
        raise TypeError(f"the hot route {path} may only take plain path parameters")
    parsers = tuple((name, PARSERS[hints[name]]) for name in names)
    return ShortRoute(path, context.endpoint, guard, actor_name, parsers, body)


def is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def is_guard(*calls: Any) -> bool:
    return all(getattr(call, "is_guard", False) for call in calls)


def shape(path: str, part: str) -> str:
    return re.sub(r"\\{\w+\\}", part, re.escape(path))


class TakeShortWays:
    """ASGI middleware, innermost: what is not hot goes on to FastAPI."""

    def __init__(self, app: ASGIApp, ways: ShortWays) -> None:
        self.app, self.ways = app, ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.ways.match(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        route, values = found
        scope["state"]["route"] = route.path
        request = Request(scope, receive, send)
        response = await respond(request, route, values)
        await response(scope, receive, send)


async def respond(request: Request, route: ShortRoute, values: tuple[str, ...]) -> Response:
    try:
        response = await route(request, values)
        return etag.unless_known(request, response) if request.method == "GET" else response
    except Exception as error:
        known = recognise(error)
        if known is None:
            raise
        return answer(known, request.state.request_id)
