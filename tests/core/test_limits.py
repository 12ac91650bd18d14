"""Limits in front of applications of every temper, over real sockets on the real server."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bursar.connection import Terms
from bursar.core.limits import Limits
from bursar.server import bind, serve
from tests.server_clients import Answer, ask, client, eventually, get, post

LIMIT = 1000


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, max_in_flight: int = 100) -> AsyncIterator[int]:
    """The port of a server in this loop that runs `app` behind Limits."""
    limited = Limits(app, max_in_flight=max_in_flight, max_body_bytes=LIMIT)
    sock, stop = bind("127.0.0.1", 0), asyncio.Event()
    port = sock.getsockname()[1]
    terms = Terms(drain_seconds=0)
    server = asyncio.ensure_future(serve(limited, sock=sock, should_stop=stop, terms=terms))
    try:
        yield port
    finally:
        stop.set()
        await server


def application() -> FastAPI:
    app = FastAPI()
    app.state.gate = asyncio.Event()

    @app.get("/wait")
    async def wait(request: Request) -> str:
        await request.app.state.gate.wait()
        return "waited"

    @app.get("/health")
    async def health() -> str:
        return "alive"

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/stubborn")
    async def stubborn(request: Request) -> str:
        try:
            await request.body()
        except Exception:
            return "I go on"
        return "done"

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a defect")

    return app


def problem(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.body)
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id"}
    assert document["status"] == answer.status
    return document


def chunked(path: str, *chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(path, "Transfer-Encoding: chunked") + body


async def test_one_request_too_many_is_refused_at_once_but_health_is_not() -> None:
    app = application()
    async with serving(app, max_in_flight=2) as port:
        async with client(port, get("/wait")) as first, client(port, get("/wait")) as second:

            async def full() -> bool:
                return (await ask(port, get("/size"))).status == 503

            await eventually(full)
            refused = await ask(port, get("/wait"))
            assert refused.headers["retry-after"] == "1"
            assert problem(refused)["code"] == "overloaded"
            assert problem(refused)["request_id"] == refused.headers["x-request-id"]
            assert (await ask(port, get("/health"))).body == b'"alive"'
            app.state.gate.set()
            assert [(await one.answer()).body for one in (first, second)] == [b'"waited"'] * 2
        assert (await ask(port, get("/wait"))).status == 200


async def test_what_is_at_work_is_a_figure() -> None:
    app = application()
    async with serving(app) as port:
        async with (
            client(port, get("/wait")),
            client(port, get("/wait")),
            client(port, post("/size", "Content-Length: 9")),  # waits for its client
        ):
            await eventually(lambda: reached(2))
            await asyncio.sleep(0.1)
            assert at_work() == 2
            app.state.gate.set()
        await eventually(lambda: reached(0))


def at_work() -> float:
    return REGISTRY.get_sample_value("bursar_requests_in_flight") or 0


async def reached(number: float) -> bool:
    return at_work() == number


async def test_a_defect_gives_its_place_back(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(application(), max_in_flight=1) as port:
        assert [(await ask(port, get("/broken"))).status for _ in range(3)] == [500] * 3
    assert "a defect" in caplog.text


async def test_a_declared_body_is_refused_before_it_is_read() -> None:
    async with serving(application()) as port, client(port) as one:
        exact = await one.ask(post("/size", f"Content-Length: {LIMIT}"), b"x" * LIMIT)
        assert exact.body == str(LIMIT).encode()
        refused = await one.ask(post("/size", f"Content-Length: {LIMIT + 1}"))
        assert (problem(refused)["code"], refused.status) == ("body.too_large", 413)
        assert await one.rest() == b""


@pytest.mark.parametrize("path", ["/size", "/stubborn"])
async def test_a_chunked_body_is_refused_where_it_passes_the_limit(path: str) -> None:
    async with serving(application()) as port:
        async with client(port) as one:
            assert (await one.ask(chunked(path, b"x" * LIMIT), b"0\r\n\r\n")).status == 200
            refused = await one.ask(chunked(path, b"x" * LIMIT, b"x"))
            assert (problem(refused)["code"], refused.status) == ("body.too_large", 413)
            assert await one.rest() == b""
        assert (await ask(port, get("/health"))).status == 200


async def test_an_answer_already_begun_breaks_off_when_the_body_grows_too_large() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})

    async with serving(echo) as port, client(port, chunked("/", b"x" * LIMIT * 2)) as one:
        text = await one.rest()
        assert b"200 OK" in text
        assert not text.endswith(b"0\r\n\r\n")


async def live(receive: Receive, send: Send) -> None:
    for word in ("startup", "shutdown"):
        await receive()
        message: Message = {"type": f"lifespan.{word}.complete"}
        await send(message)


async def test_a_client_that_leaves_while_it_sends_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with serving(application()) as port:
        async with client(port, post("/size", "Content-Length: 100"), b"half"):
            pass
        async with client(port, chunked("/size", b"half")):
            pass
        assert (await ask(port, get("/health"))).status == 200
    assert caplog.records == []


async def test_the_name_that_the_edge_gave_is_used() -> None:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["request_id"] = "given-by-the-edge"
        await limits(scope, receive, send)

    limits = Limits(application(), max_in_flight=0, max_body_bytes=LIMIT)
    async with serving(named) as port:
        refused = await ask(port, get("/size"))
        assert problem(refused)["request_id"] == "given-by-the-edge"
        assert "x-request-id" not in refused.headers  # the edge writes it
