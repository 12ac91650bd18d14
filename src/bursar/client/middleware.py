"""ASGI middleware: no call without a good key, each counted once, and its end told afterwards."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal
from uuid import uuid4

from bursar.client import refusals
from bursar.client.callers import Caller, Connection, address, plain_header, shown_key
from bursar.client.endpoints import endpoint_of
from bursar.client.line import Line, Unreachable
from bursar.client.refusals import Receive, Refused, Send
from bursar.client.reporting import Outcomes
from bursar.core.rates import rate_headers
from bursar.keys import secret

log = logging.getLogger("bursar.client")

Application = Callable[[Connection, Receive, Send], Awaitable[None]]
OfCall = Callable[[Connection], Any]

USER_AGENT_LENGTH, ERROR_LENGTH = 500, 1000
CLIENT_LEFT, BROKE, DENIED, SWITCHED = 499, 500, 403, 101
LONGEST_CALL_MS = 86_400_000


class BursarKeys:
    """Put around an application, or added to one of Starlette or FastAPI by add_middleware.

    `needs`: the scope that a key must have; or a function of the call that names it, or None.
    `endpoint`: what a call is counted as; by default its route. `units`: how much it counts.
    `exempt`: a path or paths that need no key, or a function of the call; a preflight of CORS
    never does.
    `when_unreachable`: without Bursar calls are refused with 503, or allowed and not counted.
    """

    def __init__(
        self,
        app: Application,
        *,
        url: str,
        service_key: str,
        needs: str | OfCall | None = None,
        endpoint: OfCall | None = None,
        units: int | OfCall = 1,
        exempt: str | Collection[str] | OfCall = (),
        when_unreachable: Literal["refuse", "allow"] = "refuse",
        timeout_seconds: float = 2.0,
        most_at_once: int = 64,
        most_waiting: int = 1000,
        most_unreported: int = 10_000,
        report_seconds: float = 1.0,
        closing_seconds: float = 5.0,
    ) -> None:
        if when_unreachable not in ("refuse", "allow"):
            raise ValueError('when_unreachable is "refuse" or "allow"')
        self.app = app
        self._needs, self._units = needs, units
        self._exempt = (exempt,) if isinstance(exempt, str) else exempt  # "/" is in "/health"
        self._endpoint: OfCall = endpoint or (lambda scope: endpoint_of(scope, app))
        self._allows_unchecked = when_unreachable == "allow"
        self._closing_seconds = closing_seconds
        self._line = Line(
            url,
            service_key,
            timeout_seconds=timeout_seconds,
            most_at_once=most_at_once,
            most_waiting=most_waiting,
        )
        self._types = f"{self._line.url}/docs/errors"
        self.outcomes = Outcomes(
            self._line, most_waiting=most_unreported, flush_seconds=report_seconds
        )

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] not in ("http", "websocket") or self._is_exempt(scope):
            scope["bursar"] = None
            await self.app(scope, receive, send)
        else:
            try:
                verdict = await self._admit(scope)
            except Refused as refused:
                await refusals.answer(refused, scope, receive, send, self._types)
                return
            scope["bursar"] = Caller.of(verdict) if verdict else None
            await Call(self.app, verdict, send, self.outcomes).run(scope, receive)

    def _is_exempt(self, scope: Connection) -> bool:
        if callable(self._exempt):
            return is_preflight(scope) or bool(self._exempt(scope))
        return is_preflight(scope) or scope["path"] in self._exempt

    async def _admit(self, scope: Connection) -> dict[str, Any] | None:
        """What Bursar says of the key; None where it cannot be asked and calls go on without."""
        key = shown_key(scope["headers"])
        if not key:
            raise refusals.no_key()
        if not secret.is_sound(key):
            raise refusals.unknown_key()
        needed = self._needs(scope) if callable(self._needs) else self._needs
        call = {
            "key": key,
            "event_id": uuid4().hex,  # if it has to be sent again, it counts once
            "endpoint": self._endpoint(scope),
            "scope": needed,
            "units": self._units(scope) if callable(self._units) else self._units,
            "ip_address": address(scope),
            "user_agent": plain_header(scope, b"user-agent", USER_AGENT_LENGTH),
        }
        try:
            verdict = await self._ask(call)
        except Unreachable as error:
            log.warning("a key could not be checked: %s", error)
            if self._allows_unchecked:
                return None
            raise refusals.unreachable() from None
        if not verdict["valid"]:
            raise refusals.of_verdict(verdict, needed)
        return verdict

    async def _ask(self, call: dict[str, Any]) -> dict[str, Any]:
        status, found = await self._line.post("/keys/verify", call)
        if status == 200 and is_verdict(found):
            verdict: dict[str, Any] = found
            return verdict
        said = found.get("detail") if isinstance(found, dict) else None
        if 400 <= status < 500 and status not in (408, 429):  # ours to put right: no outage
            log.error("Bursar refuses to check keys: %s %s", status, said)
            raise refusals.unreachable()
        raise Unreachable(f"{status} {said}")

    async def _live(self, scope: Connection, receive: Receive, send: Send) -> None:
        """What still waits is told before the server ends; for applications without a lifespan,
        too."""
        received: list[str] = []
        sent: list[str] = []

        async def heard() -> Any:
            message = await receive()
            received.append(message["type"])
            return message

        async def passed(message: Any) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.close()
            sent.append(message["type"])
            await send(message)

        try:
            await self.app(scope, heard, passed)
        except Exception:
            if sent:
                raise
        if sent:
            return
        for phase in ("startup", "shutdown"):  # the application knows of no such thing
            if f"lifespan.{phase}" not in received:
                await heard()
            await passed({"type": f"lifespan.{phase}.complete"})

    async def close(self) -> None:
        """Tells the outcomes that wait, and hangs up; a server with a lifespan sees to it."""
        await self.outcomes.close(self._closing_seconds)
        await self._line.close()


VERDICT = {"valid", "code", "user_id", "key_id", "tier", "scopes", "usage_id", "quota", "rate",
           "retry_after_seconds"}  # fmt: skip


def is_verdict(found: Any) -> bool:
    """Something between here and Bursar may answer in its place."""
    return isinstance(found, dict) and found.keys() >= VERDICT


def is_preflight(scope: Connection) -> bool:
    """A browser asks without any key whether it may send one."""
    return scope.get("method") == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


class Call:
    """One call on its way through the application."""

    def __init__(
        self, app: Application, verdict: dict[str, Any] | None, send: Send, outcomes: Outcomes
    ) -> None:
        self._app, self._verdict, self._send, self._outcomes = app, verdict, send, outcomes
        rate = rate_headers(verdict["rate"]) if verdict else {}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in rate.items()]
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._status: int | None = None

    async def run(self, scope: Connection, receive: Receive) -> None:
        failure: BaseException | None = None
        try:
            await self._app(scope, receive, self.send)
        except BaseException as error:
            failure = error
            raise
        finally:
            self._tell(scope["type"], failure)

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif kind == "websocket.accept":
            self._status = SWITCHED
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif kind == "websocket.close" and self._status is None:
            self._status = DENIED
        await self._send(message)
        if kind == "http.response.body" and not message.get("more_body", False):
            self._ended = time.perf_counter()

    def _tell(self, kind: str, failure: BaseException | None) -> None:
        """Of a WebSocket only that it was opened: how long it stays open is no response time."""
        if self._verdict is None or self._verdict["usage_id"] is None:
            return
        left = isinstance(failure, asyncio.CancelledError)
        took = round(((self._ended or time.perf_counter()) - self._started) * 1000)
        self._outcomes.add(
            {
                "usage_id": self._verdict["usage_id"],
                "user_id": self._verdict["user_id"],
                "status_code": self._status or (CLIENT_LEFT if left else BROKE),
                "response_time_ms": min(took, LONGEST_CALL_MS) if kind == "http" else None,
                "error_message": type(failure).__name__[:ERROR_LENGTH] if failure else None,
            }
        )
