"""Runs the ASGI application in this process; a stop answers every request it has taken."""

import asyncio
import contextlib
import ctypes
import errno
import functools
import logging
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from email.utils import formatdate
from typing import Any

from starlette.types import ASGIApp, Message
from uvicorn.config import Config

from bursar.connection import Connection, State, Terms
from bursar.core import metrics
from bursar.core.errors import BursarError

log = logging.getLogger("bursar.server")

BACKLOG = 2048
SPARE_FILES = 256  # database connections, log files, pipes to PostgreSQL
SO_ATTACH_FILTER = 26


class PortInUse(BursarError, status=503, code="server.port_in_use", exit_code=5):
    """Another program listens on the port already."""


class PortForbidden(BursarError, status=503, code="server.port_forbidden", exit_code=4):
    """The operating system does not let this user listen on the port."""


class UnknownHost(BursarError, status=503, code="server.unknown_host", exit_code=2):
    """The host is no address of this machine."""


def bind(host: str, port: int, *, backlog: int = BACKLOG) -> socket.socket:
    """A listening socket; clients may connect from here on and wait until the server is ready.

    It listens at once because the kernel reports a port in use only then, for certain.
    """
    address = _resolve(host, port)
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address[1])
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explain(error, host, port) from error
    sock.setblocking(False)
    return sock


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UnknownHost(f"the host {host} is unknown; choose another --host") from error
    first = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return first[0], first[4]


def _explain(error: OSError, host: str, port: int) -> BursarError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port} on {host} is in use; stop the other program or choose --port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PortForbidden(
            f"port {port} on {host} is not allowed for this user; choose a --port above 1023"
        )
    return UnknownHost(f"{host} is not an address of this machine; choose another --host")


async def serve(
    app: ASGIApp,
    *,
    sock: socket.socket,
    should_stop: asyncio.Event,
    terms: Terms | None = None,
    trusted_proxies: Sequence[str] = (),
    shares_socket: bool = False,
    on_started: Callable[[], None] | None = None,
) -> None:
    """Serves until `should_stop` is set and the requests at work are answered.

    `shares_socket`: other processes listen on it too and may go on, so it is not made deaf here.
    Where all of them stop, their parent calls `refuse_handshakes` first.
    What the application raises while it starts comes out of here as it is.
    """
    terms = terms or Terms()
    _allow_files(terms.max_connections + SPARE_FILES)
    state = State(terms)
    config = _config(app, terms, trusted_proxies)
    loop = asyncio.get_running_loop()
    async with _lifespan(app) as app_state, _sweeping(state):
        listener = await loop.create_server(
            functools.partial(Connection, config, state, app_state), sock=sock, backlog=BACKLOG
        )
        try:
            if on_started is not None:
                on_started()
            await should_stop.wait()
            await _drain(listener, state, None if shares_socket else sock)
        finally:
            listener.close()
            await _cut(state)


def _allow_files(wanted: int) -> None:
    """A soft limit of 1,024 open files, common as it is, would be the real limit of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log.warning("the limit of open files (%d) is below max_connections", most)


def _config(app: ASGIApp, terms: Terms, trusted_proxies: Sequence[str]) -> Config:
    config = Config(
        app,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        timeout_keep_alive=terms.keep_alive_seconds,  # type: ignore[arg-type]
        ws_max_size=1_048_576,
    )
    config.load()
    return config


@contextlib.asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """uvicorn's own prints a traceback and exits; here the caller gets the exception itself."""
    state: dict[str, Any] = {}
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    life = asyncio.ensure_future(app(scope, inbox.get, outbox.put))
    try:
        inbox.put_nowait({"type": "lifespan.startup"})
        await _step(life, outbox)
        yield state
        inbox.put_nowait({"type": "lifespan.shutdown"})
        await _step(life, outbox)
        await life
    finally:
        life.cancel()


async def _step(life: asyncio.Future[None], outbox: asyncio.Queue[Message]) -> None:
    """Waits for the application's word, or raises what it died of."""
    word = asyncio.ensure_future(outbox.get())
    either: set[asyncio.Future[Any]] = {life, word}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        word.cancel()
        life.result()
    elif word.result()["type"].endswith("failed"):
        await life
        raise RuntimeError(word.result().get("message", "the application did not start"))


@contextlib.asynccontextmanager
async def _sweeping(state: State) -> AsyncIterator[None]:
    """Checks the clocks of all connections, several times in the shortest deadline."""
    terms = state.terms
    shortest = min(
        terms.head_timeout_seconds,
        terms.body_timeout_seconds,
        terms.write_timeout_seconds,
        terms.linger_seconds,
    )
    _set_date(state)
    sweeper = asyncio.ensure_future(_sweep(state, min(0.5, shortest / 4)))
    try:
        yield
    finally:
        sweeper.cancel()


async def _sweep(state: State, pause: float) -> None:
    clock = asyncio.get_running_loop().time
    before = clock()
    while True:
        await asyncio.sleep(pause)
        _set_date(state)
        _report_refused(state)
        metrics.requests_in_flight.set(
            len(state.at_work)
        )  # at each request it would cost a thirtieth
        now = clock()
        for connection in _http(state):
            try:
                connection.check(now, now - before)
            except Exception:
                log.exception("a connection could not be checked")
                _write_off(connection, state)
        before = now


def _write_off(connection: Connection, state: State) -> None:
    """Cuts it, and whatever comes of that, the sweep goes on: all deadlines hang on it."""
    try:
        connection.line.cut()
    except Exception:
        log.exception("a connection could not be cut")
        state.connections.discard(connection)


def _report_refused(state: State) -> None:
    """One line for all of them: a line for each would be a flood of its own."""
    if state.refused:
        log.warning("too many requests at once", extra={"fields": {"refused": state.refused}})
        state.refused = 0


def _set_date(state: State) -> None:
    state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]


def _http(state: State) -> list[Connection]:
    return [each for each in state.connections if isinstance(each, Connection)]


async def _drain(listener: asyncio.Server, state: State, sock: socket.socket | None) -> None:
    """Takes what still arrives for a while, stops listening, then answers what it has taken."""
    terms = state.terms
    state.draining = True
    for connection in _http(state):
        connection.announce()
    await asyncio.sleep(terms.drain_seconds)
    if sock is not None:
        refuse_handshakes(sock)
    await asyncio.sleep(0.1)  # for the handshakes that had begun
    if sock is not None:
        await _take_all(sock, terms.shutdown_seconds)
    listener.close()
    for each in list(state.connections):
        if not isinstance(each, Connection):
            each.shutdown()  # a WebSocket: 1012, come back later
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(terms.shutdown_seconds):
            while state.connections or state.tasks:
                await _let_go(state)
                await asyncio.sleep(0.02)


async def _take_all(sock: socket.socket, within_seconds: float) -> None:
    """Whoever waits in the kernel's queue is taken: on a busy machine time may pass in which we
    cannot look there."""
    queue = select.poll()
    queue.register(sock, select.POLLIN)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            while queue.poll(0):
                await _look()


async def _look() -> None:
    """Lets the loop read what has arrived: after a pause its timers come first, and then we."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def refuse_handshakes(sock: socket.socket) -> None:
    """Makes the listening socket deaf to new clients, so that closing it cuts off nobody.

    A connection that the kernel has taken but we have not is reset when the listener closes,
    with the request that may be on it. After this filter (drop SYN without ACK) the queue only
    drains. A client whose SYN was dropped tries again in a second: it finds the next server, or
    none, but never a broken connection.
    """
    if sys.platform != "linux":
        return
    program = [
        (0x30, 0, 0, 13),  # load the byte with the TCP flags
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # only SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # take
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    memory = ctypes.create_string_buffer(code, len(code))
    with contextlib.suppress(OSError):  # then it is as good as any other server
        packed = struct.pack("@HP", len(program), ctypes.addressof(memory))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, packed)


async def _let_go(state: State) -> None:
    """Closes idle connections few at a time, so that a request just arrived is seen before."""
    for index, connection in enumerate(_http(state)):
        if index % 16 == 0:
            await _look()
        connection.leave()


async def _cut(state: State) -> None:
    """Ends what the deadline found: requests that never end, clients that never read."""
    if state.connections or state.tasks:
        log.warning(
            "stopped with %d connections and %d requests unfinished",
            len(state.connections),
            len(state.tasks),
        )
    for each in list(state.connections):
        each.line.cut() if isinstance(each, Connection) else each.transport.abort()
    tasks = list(state.tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)
