"""The short way: as strict as the long one, and it lends its connections well."""

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from bursar.auth.actor import Actor
from bursar.auth.guard import customer, staff
from bursar.auth.permissions import Permission
from bursar.core.database_errors import DatabaseBusy
from bursar.core.errors import InvalidInput
from bursar.core.hot import ShortWays, hot
from bursar.core.hot import read as hot_read
from bursar.core.hot_pool import HotPool
from bursar.core.idempotency import own_key
from bursar.core.wire import Wire

WRITE = staff(Permission.SETTINGS_WRITE)


async def plain(request: Request, actor: Annotated[Actor, customer], name: str) -> Response:
    return Response(name)


async def without_guard(request: Request, name: str) -> Response:
    return Response(name)


async def with_more(
    request: Request, actor: Annotated[Actor, customer], name: str, page: int = 1
) -> Response:
    return Response(name)


class Name(Wire):
    """Somebody's name."""

    name: str


async def with_body(request: Request, actor: Annotated[Actor, customer], name: Name) -> Response:
    return Response(name.name)


@own_key
async def kept_body(request: Request, actor: Annotated[Actor, customer], name: Name) -> Response:
    return Response(name.name)


async def nobody() -> None:
    return None


def application(
    endpoint: Any, *, path: str = "/{name}", method: str = "GET", **more: Any
) -> FastAPI:
    router = APIRouter(**more)
    router.add_api_route(path, hot(endpoint), methods=[method], response_model=None)
    app = FastAPI()
    app.include_router(router)
    return app


def test_a_plain_route_is_taken() -> None:
    ways = ShortWays()
    ways.collect(application(plain))
    found = ways.match("GET", "/x")
    assert found
    assert found[1] == ("x",)
    assert ways.match("POST", "/x") is None
    assert ways.match("GET", "/x/y") is None


@pytest.mark.parametrize(
    "app",
    [
        lambda: application(without_guard),
        lambda: application(with_more),
        lambda: application(plain, method="POST"),
        lambda: application(with_body, path="/", method="POST"),
        lambda: application(with_body, path="/"),
        lambda: application(own_key(with_more), method="POST"),
        lambda: application(plain, path="/{name:path}"),
        lambda: application(plain, dependencies=[WRITE]),
        lambda: application(plain, dependencies=[Depends(nobody)]),
    ],
    ids=[
        "no guard",
        "a query",
        "a POST",
        "a POST whose key nobody keeps",
        "a GET with a body",
        "a POST with a query",
        "a convertor",
        "a router's guard",
        "a dependency",
    ],
)
def test_what_the_short_way_would_skip_is_refused_when_the_application_is_built(app: Any) -> None:
    with pytest.raises(TypeError, match="the hot route"):
        ShortWays().collect(app())


def post(content: bytes, **headers: str) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


async def test_a_post_that_keeps_its_key_reads_its_body_as_the_long_way_would() -> None:
    ways = ShortWays()
    ways.collect(application(kept_body, path="/", method="POST"))
    found = ways.match("POST", "/")
    assert found
    assert ways.match("GET", "/") is None
    assert found[0].body == ("name", Name)
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/ld+json"):
        read = await hot_read(post(b'{"name": "Carl"}', content_type=kind), Name)
        assert read == Name(name="Carl")
    for content, kind, pointer in (
        (b'{"name": 7}', "application/json", "/name"),
        (b"{}", "application/json", "/name"),
        (b'{"name": "Carl"', "application/json", ""),
        (b'{"name": "Carl"}', "text/plain", ""),
        (b'{"name": "Carl"}', "application/jsonp", ""),
        (b"", "application/json", ""),
    ):
        with pytest.raises(InvalidInput) as refused:
            await hot_read(post(content, content_type=kind), Name)
        assert [each["pointer"] for each in refused.value.errors or ()] == [pointer], content


def test_a_route_declared_before_is_served_before() -> None:
    router = APIRouter()
    router.add_api_route("/one", nobody)
    router.add_api_route("/{name}", hot(plain), response_model=None)
    app = FastAPI()
    app.include_router(router)
    ways = ShortWays()
    ways.collect(app)
    assert ways.match("GET", "/one") is None
    assert ways.match("GET", "/two") is not None


class Line:
    """As much of a connection as a pool sees."""

    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True

    async def close(self) -> None:
        self.closed = True


async def connect() -> Line:
    await asyncio.sleep(0)
    return Line()


async def test_a_pool_lends_no_more_than_it_has_and_says_so_in_time() -> None:
    pool = HotPool(connect, size=2, timeout_seconds=0.05)
    one, two = await pool.take(), await pool.take()
    with pytest.raises(DatabaseBusy):
        await pool.take()
    pool.put_back(one)
    assert await pool.take() is one
    pool.discard(two)
    pool.put_back(two)
    assert await pool.take() is not two


async def test_whoever_gives_up_waiting_takes_nothing_along() -> None:
    pool = HotPool(connect, size=1, timeout_seconds=5)
    one = await pool.take()
    waiting = [asyncio.create_task(pool.take()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:3]:
        task.cancel()
    pool.put_back(one)
    assert await waiting[3] is one
    pool.put_back(one)
    assert await waiting[4] is one


async def test_a_connection_that_cannot_be_made_costs_no_place() -> None:
    async def refuse() -> Line:
        raise ConnectionRefusedError

    pool = HotPool(refuse, size=1, timeout_seconds=0.05)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await pool.take()


async def test_closing_waits_for_the_statements_at_work() -> None:
    pool = HotPool(connect, size=2, timeout_seconds=1)
    one = await pool.take()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    assert not closing.done()
    pool.put_back(one)
    await closing
    assert one.closed
