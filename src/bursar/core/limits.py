"""No request takes more than its share: one too many, or one too large, is refused unread."""

from collections.abc import Mapping
from functools import cache, partial
from random import getrandbits
from types import MappingProxyType

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bursar.core.errors import BursarError
from bursar.core.problems import MEDIA_TYPE, answer

EXEMPT = frozenset({"/health", "/api/health", "/api/v1/health"})  # asked most when all is busy
BODY_HEADERS = (b"content-length", b"transfer-encoding")
HOLE = "@request_id@"


class Overloaded(BursarError, status=503, code="overloaded"):
    """The server has all the work it can take; try again after `Retry-After` seconds."""


class BodyTooLarge(BursarError, status=413, code="body.too_large"):
    """The body of the request is larger than this server takes."""


class Limits:
    """ASGI middleware: bounds the requests at work and the size of each body.

    It may stand inside the edge (which then names the request) or alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_in_flight: int,
        max_body_bytes: int,
        max_batch_bytes: int = 0,
        batch_paths: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.app = app
        self.max_in_flight = max_in_flight
        self.batch_paths = batch_paths
        self.in_flight = 0
        self._of_bodies = Bound(max_body_bytes)
        self._of_batches = cache(partial(Bound, max_batch_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            await self._measure(scope, receive, send)
            return
        if self.in_flight >= self.max_in_flight:
            await BUSY(scope, send)
            return
        self.take_place()
        try:
            await self._measure(scope, receive, send)
        finally:
            self.give_place()

    def take_place(self) -> None:
        self.in_flight += 1

    def give_place(self) -> None:
        self.in_flight -= 1

    async def _measure(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body whose declared length is too large is refused here, any other is counted."""
        items = self.batch_paths.get(scope.get("path", ""))  # a lifespan has none
        bound = self._of_batches(items) if items else self._of_bodies
        for name, value in scope.get("headers", ()):
            if name == b"content-length" and int(value) > bound.most:
                await bound.refuse(scope, send)
                return
            if name in BODY_HEADERS:
                await Counted(self, bound, scope, receive, send).run()
                return
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            return  # it left while we read its body: nobody to answer, nothing of ours is broken


class Bound:
    """How many bytes a body may have, and the answer to a larger one."""

    def __init__(self, most: int, items: int | None = None) -> None:
        self.most = most
        also = f"; it may have {items} items at most" if items else ""
        self.refuse = Refusal(
            BodyTooLarge(
                f"The body is larger than {most} bytes{also}.",
                headers={"connection": "close"},  # the rest of the body is not worth reading
            )
        )


class Counted:
    """A request with a body: counted while the application reads it.

    While it waits for its client it is not at work, or slow clients could take all the places.
    """

    def __init__(
        self, limits: Limits, bound: Bound, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._limits, self._bound, self._scope = limits, bound, scope
        self._receive, self._send = receive, send
        self._bytes = 0
        self._whole = False
        self._answered = False
        self._refused = False

    async def run(self) -> None:
        try:
            await self._limits.app(self._scope, self.receive, self.send)
        except ClientDisconnect:
            return
        except Exception:
            if not self._refused:
                raise  # else it is only the application's way to say that the body broke off

    async def receive(self) -> Message:
        """The next part; past the limit the answer is 413 and to the application the client left.

        An exception would not do: whatever stands between here and the reader may catch it.
        """
        if self._refused:
            return {"type": "http.disconnect"}
        message = await self._next()
        self._bytes += len(message.get("body", b""))
        if self._bytes <= self._bound.most:
            return message
        self._refused = True
        if not self._answered:
            await self._bound.refuse(self._scope, self._send)
        return {"type": "http.disconnect"}

    async def _next(self) -> Message:
        if self._whole:
            return await self._receive()
        self._limits.give_place()
        try:
            message = await self._receive()
        finally:
            self._limits.take_place()
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        self._answered = True
        await self._send(message)


class Refusal:
    """A problem document made ready beforehand, so that saying no costs next to nothing."""

    def __init__(self, error: BursarError, *, reason: str | None = None) -> None:
        self.reason = reason or error.code  # as the metrics call it
        self._before, self._after = bytes(answer(error, HOLE).body).split(HOLE.encode())
        self.status = error.status
        self._headers = [(b"content-type", MEDIA_TYPE.encode())]
        self._headers += [(k.encode(), v.encode()) for k, v in error.headers.items()]

    async def __call__(self, scope: Scope, send: Send) -> None:
        named = scope.get("state", {}).get("request_id")
        headers, body = self.parts(named or new_request_id(), name_it=named is None)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def parts(self, request_id: str, *, name_it: bool) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body; `name_it` where nothing further out puts the id on the answer."""
        written = request_id.encode()
        body = self._before + written + self._after
        headers = [*self._headers, (b"content-length", str(len(body)).encode())]
        if name_it:
            headers.append((b"x-request-id", written))
        return headers, body


def new_request_id() -> str:
    """To find a line in a log by, not a secret; the system's own dice would cost a system call."""
    return f"{getrandbits(96):024x}"


BUSY = Refusal(
    Overloaded("The server is busy; try again in a second.", headers={"retry-after": "1"}),
    reason="busy",
)
