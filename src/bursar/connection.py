"""One HTTP connection: each stage has a deadline and a size, and no answer is lost by closing."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from bursar.core import metrics
from bursar.core.edge import NOT_KEPT, RAW_HEADERS
from bursar.core.errors import BursarError
from bursar.core.limits import BUSY, EXEMPT, Overloaded, Refusal, new_request_id
from bursar.core.problems import Unreadable
from bursar.line import Line

MAX_PIPELINED = 16  # requests sent ahead on one connection
PIECE_BYTES = 4096
FIRST_WORD_SECONDS = 0.5  # of a new connection, while the server stops
SECURITY_LINES = b"".join([b"%s: %s\r\n" % pair for pair in (*RAW_HEADERS, NOT_KEPT)])


class TooSlow(BursarError, status=408, code="request.too_slow"):
    """The request did not arrive in time, so the connection was closed."""


class HeadTooLarge(BursarError, status=431, code="request.head_too_large"):
    """The address and headers of the request are larger or more than this server takes."""


TOO_SLOW = Refusal(TooSlow("The request took too long to arrive."))
HEAD_TOO_LARGE = Refusal(HeadTooLarge("The address and headers of the request are too large."))
UNREADABLE = Refusal(Unreadable("The request could not be read."))
CROWDED = Refusal(
    Overloaded("The server has too many connections.", headers={"retry-after": "1"}),
    reason="crowded",
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client may ask of this server."""

    max_connections: int = 4096
    max_in_flight: int = 256
    max_head_bytes: int = 32_768
    max_headers: int = 100
    head_timeout_seconds: float = 10
    body_timeout_seconds: float = 30
    write_timeout_seconds: float = 30
    keep_alive_seconds: float = 30
    linger_seconds: float = 2
    min_bytes_per_second: int = 5_000  # a body may last longer, and an answer too, at this pace
    drain_seconds: float = 1
    shutdown_seconds: float = 20


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.terms = terms
        self.draining = False
        self.at_work: set[asyncio.Task[None]] = set()  # HTTP requests that wait for no client
        self.refused = 0  # requests that were turned away since the last sweep

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.at_work.discard(task)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with clocks: it keeps open whatever stays silent, this does not.

    One sweep over all connections (`check`) reads the clocks; a timer for each request would cost
    more than the rest of this class.
    """

    server_state: State
    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.terms = server_state.terms
        self.crowded = False
        self.unanswered = 0  # requests whose head has arrived
        self.request_bytes = 0  # of the newest request, framing included, give or take a piece
        self.piece_bytes = 0
        self.body_bytes = 0
        self.head_since: float | None = None
        self.body_since: float | None = None
        self.task: asyncio.Task[None] | None = None  # of the request that is being answered
        self.upgraded = False  # to what we do not speak, so nothing that follows is HTTP
        self.turned_away = False  # the newest request, before the application saw it
        self.fault: Refusal | None = None
        self.last_words: Refusal | None = None  # said once the earlier requests are answered
        self.write_mark: tuple[float, int] | None = None

    @property
    def line(self) -> Line:
        return cast("Line", self.transport)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", Line(transport, self.loop)))
        self.head_since = self.loop.time()
        excess = len(self.connections) - self.terms.max_connections
        self.crowded = excess > 0
        if excess > max(16, self.terms.max_connections // 8):
            metrics.count_refused(CROWDED.reason)
            transport.abort()  # refusing politely has a limit too

    def connection_lost(self, exc: Exception | None) -> None:
        self._start_counting()
        super().connection_lost(exc)

    # From the client to the application

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.crowded and self.line.closing_since is None:
            self.say(CROWDED)
            return
        if self.head_since is None and self.body_since is None:
            self.head_since = self.loop.time()
        for start in range(0, len(data), PIECE_BYTES):
            if self.upgraded or self.last_words or self.line.closing_since is not None:
                return
            self._read(data[start : start + PIECE_BYTES])

    def _read(self, piece: bytes) -> None:
        """The parser does not tell where a request ended: small pieces tell nearly enough."""
        self.piece_bytes = len(piece)
        self.request_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self.upgraded = True
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self.announce()
        except httptools.HttpParserError:
            self.fail(self.fault or UNREADABLE)
        else:
            self._check_size()

    def _check_size(self) -> None:
        most = self.terms.max_head_bytes + PIECE_BYTES  # the end of the request before it
        if self.head_since is not None and self.request_bytes > most:
            self.fail(HEAD_TOO_LARGE)
        elif self.body_since is not None:
            # Trailers and chunk extensions are framing without a body, and have no other bound.
            framing = self.request_bytes - 8 * self.body_bytes
            if framing > 2 * self.terms.max_head_bytes:
                self.fail(UNREADABLE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.head_since is None:  # it came along with the end of the request before it
            self.head_since = self.loop.time()
            self.request_bytes = self.piece_bytes

    def on_headers_complete(self) -> None:
        self._check_head()
        if self._busy() and self._may_turn_away():
            self._turn_away()
            return
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:
            return  # a WebSocket
        self.head_since, self.body_since, self.body_bytes = None, self.loop.time(), 0
        self.unanswered += 1
        if self.server_state.draining:
            self._announce_end(before)

    def _check_head(self) -> None:
        """Raises out of the parser; `data_received` then answers with `fault`."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self.fault = CROWDED
        elif len(self.headers) > self.terms.max_headers:
            self.fault = HEAD_TOO_LARGE
        elif self.request_bytes > self.terms.max_head_bytes:  # maybe with the body: look closer
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.terms.max_head_bytes:
                self.fault = HEAD_TOO_LARGE
        if self.fault is not None:
            raise ValueError("refused")

    def _busy(self) -> bool:
        """A request that waits for its client is not at work, or slow clients could fill us up."""
        return len(self.server_state.at_work) >= self.terms.max_in_flight

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.task = self.loop.create_task(cycle.run_asgi(app))
        self.task.add_done_callback(self.server_state.ended)
        self.tasks.add(self.task)
        if not cycle.more_body:
            self._start_counting()

    def _start_counting(self) -> None:
        """The request that is being answered waits for its client no more.

        It is not always the newest: that one may stand in the queue behind it, and does not count.
        """
        if self.task is not None and not self.task.done():
            self.server_state.at_work.add(self.task)

    def _may_turn_away(self) -> bool:
        path = self.url.partition(b"?")[0].decode("latin-1")
        return not (self.unanswered or self.parser.should_upgrade() or path in EXEMPT)

    def _turn_away(self) -> None:
        """Refuses before there is a task: a third of the cost, which at a flood is everything.

        Without it the refusals alone would fill the event loop and starve the requests at work.
        """
        self.turned_away = True
        self.head_since, self.body_since, self.body_bytes = None, self.loop.time(), 0
        self.server_state.refused += 1
        ends = self.server_state.draining or not self.parser.should_keep_alive()
        self._write_refusal(BUSY, closing=ends, bodiless=self.parser.get_method() == b"HEAD")
        if ends:
            self.line.close()

    def on_body(self, body: bytes) -> None:
        if not self.turned_away:
            super().on_body(body)
        self.body_bytes += len(body)

    def on_message_complete(self) -> None:
        if not self.turned_away:
            super().on_message_complete()
        elif self.line.closing_since is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._start_counting()
        self.turned_away = False
        self.body_since = None
        self.request_bytes = 0

    def handle_websocket_upgrade(self) -> None:
        self.line.flush()
        self.transport = self.line.wire  # a WebSocket has a goodbye of its own
        super().handle_websocket_upgrade()

    # From the application to the client

    def on_response_complete(self) -> None:
        self._start_counting()
        self.unanswered -= 1
        super().on_response_complete()
        if self.head_since is not None:
            self._unset_keepalive_if_required()  # the next request has begun: its clock runs
        if self.last_words is not None and not self.unanswered:
            self.say(self.last_words)

    def fail(self, refusal: Refusal) -> None:
        """Refuses the newest request and closes, after the requests before it are answered."""
        if self.body_since is not None and not self._withdraw():
            return
        if self.unanswered:
            self.last_words = refusal
        else:
            self.say(refusal)

    def _withdraw(self) -> bool:
        """Takes the newest request back from the application; False if its answer has begun."""
        self._start_counting()
        cycle = self.cycle
        if self.turned_away or cycle is None or cycle.response_complete:
            self.line.close()
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.line.cut()
            return False
        self.unanswered -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        return True

    def say(self, refusal: Refusal) -> None:
        self._unset_keepalive_if_required()
        self._write_refusal(refusal, closing=True)
        self.line.close()

    def _write_refusal(self, refusal: Refusal, *, closing: bool, bodiless: bool = False) -> None:
        metrics.count_refused(refusal.reason)
        headers, body = refusal.parts(new_request_id(), name_it=True)
        headers += self.server_state.default_headers
        if closing:
            headers.append((b"connection", b"close"))
        head = b"".join([b"%s: %s\r\n" % pair for pair in headers])
        text = b"" if bodiless else body
        self.line.write(STATUS_LINE[refusal.status] + head + SECURITY_LINES + b"\r\n" + text)

    # From the sweep

    def check(self, now: float, elapsed: float) -> None:
        """Closes this connection if its client has let a deadline pass."""
        line = self.line
        if line.get_write_buffer_size():
            self._check_reader(now)
        elif line.closing_since is not None:
            self.write_mark = None
            if now - line.closing_since > self.terms.linger_seconds:
                line.cut()
        else:
            self.write_mark = None
            self._check_request(now, elapsed)

    def _check_reader(self, now: float) -> None:
        """An answer that nobody reads holds memory: it must move at a pace, however slow."""
        line, seconds = self.line, self.terms.write_timeout_seconds
        if line.closing_since is not None:
            line.closing_since = now
        if self.write_mark is None:
            self.write_mark = (now, line.delivered())
        elif now - self.write_mark[0] > seconds:
            delivered = line.delivered()
            if delivered - self.write_mark[1] < seconds * self.terms.min_bytes_per_second:
                line.cut()
            self.write_mark = (now, delivered)

    def _check_request(self, now: float, elapsed: float) -> None:
        waited = elapsed if self.flow.read_paused else 0  # then we are the slow ones
        if self.head_since is not None:
            self.head_since += waited
            self._check_head_clock(now - self.head_since)
        elif self.body_since is not None:
            self.body_since += waited
            pace = self.body_bytes / self.terms.min_bytes_per_second
            if now - self.body_since > self.terms.body_timeout_seconds + pace:
                self.fail(TOO_SLOW)

    def _check_head_clock(self, seconds: float) -> None:
        patience = self.terms.head_timeout_seconds
        if self.crowded or self.server_state.draining:
            patience = min(patience, self.terms.linger_seconds)
        if self.unanswered or seconds <= patience:
            return
        if self.request_bytes:
            self.fail(TOO_SLOW)
        else:
            self.line.close()  # it never said a word: neither do we

    # While the server stops

    def announce(self) -> None:
        """Ends the connection with the answer that is being made."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def _announce_end(self, before: RequestResponseCycle | None) -> None:
        if before is not None and not before.response_started:
            before.keep_alive = True  # one more request came along behind it
        self.announce()

    def leave(self) -> None:
        """Closes the connection if no request is on it, not even a part of one, nor can be: who has
        just come is given time for the first word."""
        has_just_come = self.head_since is not None and (
            self.loop.time() - self.head_since < FIRST_WORD_SECONDS
        )
        if not (self.unanswered or self.request_bytes or has_just_come):
            self.line.close()
