"""One client at a time: the socket, the wire, the sizes and the deadlines of the server."""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send

from bursar.connection import Connection, State, Terms
from bursar.core.edge import NOT_KEPT, RAW_HEADERS
from bursar.line import Line
from bursar.server import PortInUse, UnknownHost, _config, _sweeping, bind, serve
from tests.server_clients import (
    HERE,
    HURRIED,
    Client,
    ask,
    client,
    eventually,
    get,
    post,
    running,
)

# The socket


def test_a_port_in_use_is_one_clear_sentence() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortInUse) as caught:
            bind("127.0.0.1", port)
    assert caught.value.detail == (
        f"port {port} on 127.0.0.1 is in use; stop the other program or choose --port"
    )
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_a_host_that_is_not_ours_is_one_clear_sentence(host: str) -> None:
    with pytest.raises(UnknownHost, match="choose another --host"):
        bind(host, 0)


def test_a_port_without_the_right_to_it_is_one_clear_sentence() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 2:
        pytest.skip("this machine lets everybody have every port")
    script = (
        "import os; from bursar.server import bind, PortForbidden\n"
        "bind('127.0.0.1', 0).close()  # imports what it needs, while it may\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: bind('127.0.0.1', 1)\n"
        "except PortForbidden as error: print(error.detail, error.exit_code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "choose a --port above 1023 4" in done.stdout


async def test_what_the_application_raises_at_its_start_comes_out_as_it_is() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise UnknownHost("the database is away")

    with bind("127.0.0.1", 0) as sock, pytest.raises(UnknownHost, match="the database is away"):
        await serve(broken, sock=sock, should_stop=asyncio.Event())


# Ordinary requests


async def test_keep_alive_and_pipelining_answer_in_order() -> None:
    async with running() as program, client(program.port) as one:
        first = await one.ask(get("/pause/0.05"), get("/health"), get("/pause/0"))
        assert (first.body, first.headers.keys() >= {"date"}) == (b"rested", True)
        assert "server" not in first.headers
        assert b"rss" in (await one.answer()).body
        assert (await one.answer()).body == b"rested"
        chunked = post("/length", "Transfer-Encoding: chunked")
        assert (await one.ask(chunked, b"3\r\nabc\r\n4\r\nabcd\r\n0\r\n\r\n")).body == b"7"
        last = await one.ask(get("/pause/0", "Connection: close"))
        assert last.headers["connection"] == "close"
        assert await one.rest() == b""


async def test_a_body_is_asked_for_only_when_it_is_wanted() -> None:
    async with running() as program, client(program.port) as one:
        wanted = post("/length", "Content-Length: 2", "Expect: 100-continue")
        assert (await one.ask(wanted)).status == 100
        assert (await one.ask(b"ab")).body == b"2"
        refused = post("/length", "Content-Length: 2000000", "Expect: 100-continue")
        assert (await one.ask(refused)).status == 413


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """Closing at once would send a reset, which overtakes the answer."""
    async with running(terms={"linger_seconds": 20}) as program:
        for _ in range(5):
            async with client(program.port) as one:
                head = post("/length", "Content-Length: 3000000")
                refused = await one.ask(head, b"x" * 3_000_000)
                assert (refused.status, refused.headers["connection"]) == (413, "close")
                assert await one.rest() == b""


async def test_the_application_learns_that_its_client_left() -> None:
    async with running() as program:
        async with client(program.port, get("/departure")):
            pass

        async def noticed() -> bool:
            return (await program.figures())["gone"] == 1

        await eventually(noticed)


# Sizes


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (get("/health", "X: " + "x" * 40_000), 431),
        (get("/" + "x" * 40_000), 431),
        (get("/health", *["A: b"] * 101), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000, 431),
        (b"HELO example.com\r\n\r\n", 400),
        (post("/length", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (post("/length", "Transfer-Encoding: chunked") + b"0\r\n" + b"T: t\r\n" * 90_000, 400),
        (post("/length", "Transfer-Encoding: chunked") + b"1;" + b"e" * 600_000, 400),
    ],
)
async def test_what_cannot_be_a_request_is_refused_as_a_problem(said: bytes, status: int) -> None:
    async with running() as program:
        async with client(program.port) as one:
            refused = await one.ask(said)
            problem = json.loads(refused.body)
            assert refused.status == problem["status"] == status
            assert refused.headers["x-request-id"] == problem["request_id"]
            assert {*RAW_HEADERS, NOT_KEPT} <= {
                (name.encode(), value.encode()) for name, value in refused.headers.items()
            }
            assert await one.rest() == b""
        assert (await ask(program.port, get("/health"))).status == 200


async def test_requests_sent_far_ahead_are_answered_up_to_a_bound() -> None:
    async with running() as program, client(program.port, get("/pause/0.01") * 500) as one:
        statuses = [line for line in (await one.rest()).split(b"\r\n") if b"HTTP/1.1" in line]
        served = sum(b" 200 " in line for line in statuses)
        assert 10 <= served <= 20
        assert b" 503 " in statuses[-1]
        assert len(statuses) == served + 1


async def test_a_broken_request_waits_for_the_answers_before_it() -> None:
    async with running() as program, client(program.port) as one:
        assert (await one.ask(get("/pause/0.2"), b"NONSENSE\r\n\r\n")).body == b"rested"
        assert (await one.answer()).status == 400


async def test_what_comes_along_with_a_request_has_a_size_of_its_own() -> None:
    async with running() as program:
        async with client(program.port, get("/pause/0")) as one:
            one.writer.write(get("/pause/0") + b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000)
            assert [(await one.answer()).status for _ in range(3)] == [200, 200, 431]
        async with client(program.port) as one:
            body = post("/length", "Content-Length: 60000") + b"x" * 60_000
            one.writer.write(body + get("/pause/0")[:20])
            assert (await one.answer()).body == b"60000"
            assert (await one.ask(get("/pause/0")[20:])).body == b"rested"


async def test_nothing_is_read_behind_an_upgrade_that_we_do_not_speak() -> None:
    upgrade = get("/pause/0", "Connection: upgrade", "Upgrade: h2c")
    async with running() as program, client(program.port) as one:
        answer = await one.ask(upgrade, b"x" * 10_000)
        assert (answer.body, answer.headers["connection"]) == (b"rested", "close")
        assert await one.rest() == b""


# Deadlines


@pytest.mark.parametrize(
    ("said", "drip", "answer"),
    [
        (b"", b"", b""),
        (b"\r\n", b"\r\n", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nX-Hal", b"", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nX-Drip", b"p", b"HTTP/1.1 408"),
        (post("/length", "Content-Length: 100000"), b"x", b"HTTP/1.1 408"),
        (post("/length", "Transfer-Encoding: chunked"), b"1\r\nx\r\n", b"HTTP/1.1 408"),
        (post("/unread", "Content-Length: 100000"), b"x", b"HTTP/1.1 200"),
        (get("/health"), b"", b"HTTP/1.1 200"),
    ],
)
async def test_slow_and_silent_clients_are_closed(said: bytes, drip: bytes, answer: bytes) -> None:
    async with running(terms=HURRIED) as program, contextlib.AsyncExitStack() as stack:
        with program.frozen():
            one = await stack.enter_async_context(client(program.port, said))
        dripping = asyncio.ensure_future(drips(one, drip))
        try:
            assert (await one.rest())[:12] == answer
        finally:
            dripping.cancel()


async def test_half_a_head_behind_a_request_has_a_deadline() -> None:
    terms = {**HURRIED, "keep_alive_seconds": 60}
    said = get("/pause/0") + b"GET / HTTP/1.1\r\nX-Half"
    async with running(terms=terms) as program, contextlib.AsyncExitStack() as stack:
        with program.frozen():
            one = await stack.enter_async_context(client(program.port, said))
        assert (await one.answer()).body == b"rested"
        assert (await one.rest()).startswith(b"HTTP/1.1 408")


async def drips(one: Client, drop: bytes) -> None:
    while drop:
        await asyncio.sleep(0.1)
        one.writer.write(drop)


async def test_a_body_that_moves_at_a_pace_may_last_longer_than_its_deadline() -> None:
    terms = {**HURRIED, "min_bytes_per_second": 300}
    async with running(terms=terms) as program, client(program.port) as one:
        one.writer.write(post("/length", "Content-Length: 20000"))
        begun = time.monotonic()
        for _ in range(20):
            one.writer.write(b"x" * 1000)
            await asyncio.sleep(0.1)
        assert time.monotonic() - begun > 1.5
        assert (await one.answer()).body == b"20000"


async def test_an_answer_that_nobody_reads_is_dropped() -> None:
    async with running(terms=HURRIED) as program:
        before = (await program.figures())["rss"]
        deaf = [slow_reader(program.port) for _ in range(5)]
        try:

            async def dropped() -> bool:
                return all(was_reset(sock) for sock in deaf)

            await eventually(dropped)
        finally:
            for sock in deaf:
                sock.close()
        assert (await program.figures())["rss"] < before + 60_000_000


def slow_reader(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(get("/big"))
    return sock


def was_reset(sock: socket.socket) -> bool:
    state: int = struct.unpack("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))[0]
    return state == 7  # TCP_CLOSE


async def test_an_answer_that_is_read_at_a_pace_arrives_whole() -> None:
    terms = {**HURRIED, "write_timeout_seconds": 6, "min_bytes_per_second": 10_000}
    async with running(terms=terms) as program:
        sock = slow_reader(program.port)
        sock.setblocking(False)
        loop, begun, received = asyncio.get_running_loop(), time.monotonic(), 0
        with sock:
            while received < 30_000_000:
                got = await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 20)
                assert got, f"closed after {received} bytes"
                received += len(got)
                if time.monotonic() - begun < 10:
                    await asyncio.sleep(0.02)


# In this process


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await asyncio.sleep(0.2 if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def serving(state: State) -> AsyncIterator[int]:
    """The port of a server without a life of its own, whose state can be looked at."""
    config = _config(plain, state.terms, ())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(config, state, {}), sock=bind("127.0.0.1", 0)
    )
    try:
        async with _sweeping(state):
            yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_feed_that_stays_open_is_no_request_in_flight() -> None:
    state = State(Terms(max_in_flight=1))
    feed = asyncio.ensure_future(asyncio.sleep(60))  # as the WebSocket protocol keeps its own
    state.tasks.add(feed)
    async with serving(state) as port:
        assert (await ask(port, get("/"))).status == 204
    assert not state.at_work
    feed.cancel()


async def test_a_connection_that_cannot_be_closed_does_not_end_the_deadlines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no way")

    state = State(Terms(**HURRIED))  # type: ignore[arg-type]
    async with serving(state) as port, client(port) as stuck:
        await eventually(lambda: connected(state))
        [connection] = state.connections
        monkeypatch.setattr(connection, "check", broken)
        with monkeypatch.context() as patch:
            patch.setattr(Line, "cut", broken)

            async def written_off() -> bool:
                return connection not in state.connections

            await eventually(written_off)
        async with client(port) as silent:
            assert await silent.rest() == b""
        assert caplog.text.count("a connection could not be cut") == 1
        stuck.writer.close()


async def connected(state: State) -> bool:
    return bool(state.connections)


@pytest.mark.parametrize(
    ("terms", "said", "reason"),
    [
        ({"max_in_flight": 0}, get("/"), "busy"),
        ({"max_connections": 0}, get("/"), "crowded"),
        ({}, b"NONSENSE\r\n\r\n", "unreadable"),
        ({}, get("/" + "x" * 40_000), "request.head_too_large"),
        (HURRIED, b"GET /", "request.too_slow"),
    ],
)
async def test_what_the_server_refuses_is_counted(
    terms: dict[str, float], said: bytes, reason: str
) -> None:
    before = refused(reason)
    async with serving(State(Terms(**terms))) as port:  # type: ignore[arg-type]
        answer = await ask(port, said)
        assert answer.status in (400, 408, 431, 503)
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert refused(reason) == before + 1


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("bursar_refused_total", {"reason": reason}) or 0
