"""The ceiling: the same row as the same JSON in bare Starlette and asyncpg, for anybody who asks.

    python -m bench.peers.handwritten PORT      # DATABASE_URL names the database

No sign-in, no claim for row-level security, no log line, no request id, no limit, no security
header. It signs in to PostgreSQL as the owner, whose policy is `true`. It runs on plain uvicorn,
which was measured to be a sixth faster for it than Bursar's HTTP server (`--bursar-server`).
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

import asyncpg
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bursar.system.catalogue import CATALOGUE

SQL = "select value, version, updated_at, updated_by from settings where key = $1"


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=8, max_size=8, reset=keep
    ) as pool:
        app.state.pool = pool
        yield


async def keep(_: asyncpg.Connection) -> None:
    """Spares the round trip that a pool makes to reset each connection, as Bursar does."""


async def read_setting(request: Request) -> Response:
    key = request.path_params["key"]
    row = await request.app.state.pool.fetchrow(SQL, key)
    if row is None:
        return Response(status_code=404)
    setting = CATALOGUE[key]
    body = {
        "key": key,
        "value": orjson.Fragment(row["value"]),
        "default": setting.default,
        "description": setting.description,
        "valueSchema": setting.schema,
        "version": row["version"],
        "updatedAt": row["updated_at"],
        "updatedBy": row["updated_by"],
    }
    return Response(orjson.dumps(body, default=str), media_type="application/json")


async def ready(_: Request) -> Response:
    return JSONResponse({"status": "ready"})


app = Starlette(
    routes=[Route("/settings/{key}", read_setting), Route("/ready", ready)], lifespan=lifespan
)


def main() -> None:
    port = int(sys.argv[1])
    if "--bursar-server" in sys.argv:
        asyncio.run(on_bursar_server(port))
    else:
        uvicorn.run(app, port=port, log_level="warning", access_log=False)


async def on_bursar_server(port: int) -> None:
    from bursar.server import bind, serve

    await serve(app, sock=bind("127.0.0.1", port), should_stop=asyncio.Event())


if __name__ == "__main__":
    main()
