"""An API of the business for tests: FastAPI routes behind the middleware, asked as its callers do.

async with shop(live) as (api, middleware):
    answer = await api.get("/v1/things/7", headers=carl.headers)
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import PlainTextResponse

from bursar.client import BursarKeys
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import Held, service_key

things = APIRouter(prefix="/things")
inner = FastAPI()
shop_app = FastAPI()


@things.get("/{thing_id}")
async def read_thing(request: Request, thing_id: int) -> dict[str, Any]:
    caller = request.scope["bursar"]
    if caller is None:
        return {"id": thing_id, "owner": None}
    return {
        "id": thing_id,
        "owner": caller.user_id,
        "key": caller.key_id,
        "tier": caller.tier,
        "scopes": sorted(caller.scopes),
        "left": caller.quota_remaining,
    }


@things.post("/{thing_id}/breaks")
async def break_thing(thing_id: int) -> None:
    raise ZeroDivisionError(f"the secrets of {thing_id}")


@things.get("/{thing_id}/status/{status}")
async def answer_status(thing_id: int, status: int) -> Response:
    return Response(status_code=status)


@inner.get("/parts/{part}")
async def read_part(part: str) -> str:
    return part


@shop_app.get("/health")
async def health(request: Request) -> bool:
    return request.scope["bursar"] is None


shop_app.include_router(things, prefix="/v1")
shop_app.mount("/inner", inner)


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """An application without routes, which knows of HTTP alone."""
    assert scope["type"] == "http"
    await PlainTextResponse("plain")(scope, receive, send)


@asynccontextmanager
async def shop(
    live: Live, app: Any = shop_app, *, service: Held | None = None, **how: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, BursarKeys]]:
    """Beside a Bursar that serves; the outcomes are told when it ends."""
    async with live.serving() as url:
        service = service or await service_key(live)
        async with opened(url, service, app, **how) as both:
            yield both


@asynccontextmanager
async def opened(
    url: str, service: Held, app: Any = shop_app, **how: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, BursarKeys]]:
    how.setdefault("timeout_seconds", 60)
    middleware = BursarKeys(app, url=url, service_key=service.key, **how)
    transport = httpx2.ASGITransport(middleware, raise_app_exceptions=False)  # type: ignore[arg-type]
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as api:
            yield api, middleware
    finally:
        await middleware.close()


async def calls(live: Live) -> list[tuple[Any, ...]]:
    query = "select endpoint, status_code, error_message from usage order by timestamp, id"
    return [tuple(row.values()) for row in await rows(live, query)]


async def until_told(middleware: BursarKeys, number: int) -> None:
    async with asyncio.timeout(20):
        while middleware.outcomes.told < number:
            await asyncio.sleep(0.02)
