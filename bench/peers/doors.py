"""Bursar's API as it is, or the same API with nobody at the door; for bench/identify.py.

    python -m bench.peers.doors PORT guarded      # DATABASE_URL names the database
    python -m bench.peers.doors PORT open

Both are what `bursar serve` runs, without its jobs: the same server, the same middleware, the same
log lines, the same route by the same short way. The open one leaves out what the guarded one does
to know who asks: Identify (token, Actor, ended sessions), the guard with its permission, and the
claim around the statement; and as a superuser it reads past row-level security altogether.
"""

import asyncio
import os
import sys
from functools import partial
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from bursar.app import create_app, know_routes
from bursar.auth.guard import Identify
from bursar.commands.processes import run_until_signal, terms_of
from bursar.core import etag, logs
from bursar.core.database import NOBODY, Claim, Database, Role, connect_hot
from bursar.core.hot import hot
from bursar.core.hot_pool import HotPool
from bursar.core.settings import Settings, load
from bursar.core.wire import JSON
from bursar.metering.pace import Pace
from bursar.server import bind, serve
from bursar.system import queries
from bursar.system.schemas import SettingOut

SUPERUSER = "postgres"
router = APIRouter(prefix="/api/v1/open")


class Nobody:
    """Stands where a guard stands and asks nothing."""

    is_guard = True

    async def __call__(self, _: Request) -> None:
        return None


@router.get("/settings/{key}", response_model=SettingOut)
@hot
async def read_setting(
    request: Request, actor: Annotated[None, Depends(Nobody())], key: str
) -> Response:
    """As bursar/system/admin.py has it, line for line, but for the claim."""
    view = await queries.setting(request.app.state.unguarded, NOBODY, key)
    body = SettingOut.model_validate(view).model_dump_json()
    return Response(body, media_type=JSON, headers={"ETag": etag.of(view.version)})


class Unguarded(Database):
    """Sends the bare statement, as one whom row-level security does not concern."""

    def _pool(self, role: Role) -> HotPool:
        if role not in self._pools:
            url = self.url.set(username=SUPERUSER)
            self._pools[role] = HotPool(
                partial(connect_hot, url, self.settings),
                size=self.settings.database_hot_pool_size,
                timeout_seconds=self.settings.database_pool_timeout_seconds,
            )
        return self._pools[role]

    async def _send(
        self, connection: Any, claim: Claim, sql: str, arguments: tuple[Any, ...]
    ) -> list[asyncpg.Record]:
        return list(await connection.fetch(BARE, *arguments))


BARE = queries.ONE.replace("$2", "$1")  # nobody's name comes before the key


def open_up(app: FastAPI, url: str, settings: Settings) -> None:
    guards: tuple[object, ...] = (Identify, Pace)
    app.user_middleware[:] = [each for each in app.user_middleware if each.cls not in guards]
    app.state.unguarded = Unguarded(url, settings)
    app.include_router(router)
    know_routes(app)


def main() -> None:
    port, kind = int(sys.argv[1]), sys.argv[2]
    settings = load()
    logs.configure(settings)
    url = os.environ["DATABASE_URL"]
    app = create_app(settings, url)
    if kind == "open":
        open_up(app, url, settings)

    async def work(stop: asyncio.Event) -> None:
        app.state.stopping = stop
        sock = bind("127.0.0.1", port)
        try:
            await serve(app, sock=sock, should_stop=stop, terms=terms_of(settings))
        finally:
            if kind == "open":
                await app.state.unguarded.close()

    run_until_signal(work)


if __name__ == "__main__":
    main()
