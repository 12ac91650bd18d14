"""The first and last thing a request meets: its id, its log line, its figures, its last resort."""

import logging
import re
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bursar.core import api_keys, logs, metrics
from bursar.core.limits import new_request_id
from bursar.core.problems import Internal, answer

log = logging.getLogger("bursar.request")

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
CAMEL_NAME = re.compile(rb"(?<![^&])[a-z]+(?:[A-Z][a-z0-9]+)+(?=[=&]|$)")  # perPage, not PayerID
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}
NOT_KEPT = (b"cache-control", b"no-store")
KEPT_IF_UNCHANGED = (b"cache-control", b"private, no-cache")  # for what has an ETag to ask with
RAW_HEADERS = [(k.lower().encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]


class Edge:
    """ASGI middleware, outermost: nothing that happens inside leaves without passing it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = canonical(scope)
        visit = Visit(scope, send)
        try:
            await self.app(scope, receive, visit.send)
        except Exception:
            log.exception("defect", extra={"fields": {"request_id": visit.request_id}})
            await visit.give_up(receive)
        finally:
            visit.report()


def canonical(scope: Scope) -> Scope:
    """/api/x means the newest version, /api/v1/x; pageSize in a query means page_size.

    HEAD is a GET whose body the server leaves out: it looks at its own scope, we go on with a copy.
    """
    scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
    path: str = scope["path"]
    if path.startswith("/api/") and not path.startswith("/api/v1/"):
        scope["path"] = "/api/v1" + path[4:]
    query: bytes = scope["query_string"]
    if query and CAMEL_NAME.search(query):
        scope["query_string"] = CAMEL_NAME.sub(snake, query)
    return scope


def snake(name: re.Match[bytes]) -> bytes:
    return re.sub(rb"[A-Z]", lambda letter: b"_" + letter[0].lower(), name[0])


class Visit:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.started = perf_counter()
        self.status = 0
        self.request_id = sent_id(scope) or new_request_id()
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self.headers(message.get("headers", []))
        await self._send(message)

    def headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in given}
        own = [pair for pair in RAW_HEADERS if pair[0] not in names]
        if b"cache-control" not in names:
            own.append(KEPT_IF_UNCHANGED if b"etag" in names else NOT_KEPT)
        return [*given, *own, (b"x-request-id", self.request_id.encode())]

    async def give_up(self, receive: Receive) -> None:
        """A defect: say so if nothing has been said yet, else let the connection break."""
        if self.status:
            raise ConnectionAbortedError("the answer broke off half-way")
        error = Internal(f"Something broke on our side. Tell us the request id {self.request_id}.")
        await answer(error, self.request_id)(self.scope, receive, self.send)

    def report(self) -> None:
        seconds = perf_counter() - self.started
        route = route_of(self.scope)
        method = self.scope["method"]
        metrics.count(method, route, self.status, seconds)
        if log.isEnabledFor(logging.INFO):
            logs.answered(log, self.line(method, seconds))

    def line(self, method: str, seconds: float) -> dict[str, Any]:
        actor = self.scope["state"].get("actor")
        return {
            "request_id": self.request_id,
            "method": method,
            "path": api_keys.masked(self.scope["path"]),
            "status": self.status,
            "ms": round(seconds * 1000, 2),
            "actor": actor.name if actor else None,
            "client": (self.scope.get("client") or ("",))[0],
        }


def sent_id(scope: Scope) -> str | None:
    """The id that the caller brought, if it is fit for a log and holds no key."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            sent: str = value.decode()
            return None if api_keys.is_in(sent) else sent
    return None


def route_of(scope: Scope) -> str:
    """The route's own text, never the path: figures must not grow with what callers type."""
    short: str | None = scope["state"].get("route")
    return short or scope["app"].state.route_paths.get(id(scope.get("route")), "unmatched")
