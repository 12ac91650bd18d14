"""The OpenAPI document is true: every route keeps to it, whatever is thrown at it."""

import asyncio
import copy
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.routing import iter_route_contexts

from bursar.app import create_app
from bursar.auth.actor import Actor
from bursar.auth.guard import Everyone, Guard, customer
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import Tokens
from bursar.core import queue
from bursar.core.database import WORKER
from bursar.core.settings import Settings
from bursar.core.wire import DoorRoute, Route
from bursar.worker import Worker
from tests.conftest import Live
from tests.databases import EXTERNAL, raw
from tests.matrix import CALLERS, EVERYBODY, STATED
from tests.scene import set_scene
from tests.world import ADAM, ANNA, CARL, MARK, OLIVIA, SUE

OPERATION_ID = re.compile(r"[a-z][a-z0-9_]+")


CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.fixture
def document(live_db: Live) -> dict[str, Any]:
    return live_db.app.openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_operation_ids_are_stable_and_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(OPERATION_ID.fullmatch(name) for name in ids)
    assert {"system_alive", "admin_list_settings", "admin_read_setting"} <= set(ids)


def test_every_operation_says_what_it_is_and_how_it_fails(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation.get("summary"), path
        assert operation.get("description"), path
        for status, answer in operation["responses"].items():
            if status == "default" or (int(status) >= 400 and path != "/ready"):
                assert "application/problem+json" in answer["content"], (path, method, status)


def test_every_route_names_who_may_call_it(live_db: Live) -> None:
    """Not one may be forgotten: it names a guard, or says that it is for everyone."""
    assert undeclared(live_db.app) == NO_GUARD


NO_GUARD = {
    "/metrics": "its token is its guard",
    "/openapi.json": "FastAPI's own, for everyone",
    "/docs/assets/{path}": "a folder of files, for everyone",
}.keys()


def undeclared(app: FastAPI) -> set[str]:
    """Declared is what stands on the first level, which core/wire.py looks at before the body."""
    contexts = list(iter_route_contexts(app.routes))
    return {str(each.path_format) for each in contexts if not who_may(each, deep=False)}


def who_may(context: Any, *, deep: bool) -> set[Any]:
    dependants = [getattr(context, "dependant", None)]
    found = set()
    for dependant in filter(None, dependants):
        for inner in dependant.dependencies:
            if isinstance(inner.call, Guard | Everyone):
                found.add(inner.call)
            if deep:
                dependants.append(inner)
    return found


def test_a_route_that_declares_nobody_is_found(settings: Settings) -> None:
    """Of each kind, also at the door, on a socket, and where only something deeper has a guard."""
    app = create_app(settings, "postgresql://nowhere/nothing")
    router = APIRouter(route_class=Route)
    door = APIRouter(route_class=DoorRoute)

    async def answer() -> None: ...
    async def asks(actor: Annotated[Actor, customer]) -> Actor:
        return actor

    async def deeper(actor: Annotated[Actor, Depends(asks)]) -> None: ...
    async def socket(websocket: WebSocket) -> None: ...

    router.add_api_route("/plain", answer)
    router.add_api_route("/declared", answer, dependencies=[customer])
    router.add_api_route("/deeper", deeper)
    router.add_api_websocket_route("/socket", socket)
    door.add_api_route("/door", answer, methods=["POST"])
    app.include_router(router, prefix="/new")
    app.include_router(door, prefix="/new")
    app.add_route("/starlette", answer)
    assert undeclared(app) - NO_GUARD == {
        "/new/plain",
        "/new/deeper",
        "/new/socket",
        "/new/door",
        "/starlette",
    }


def test_no_kept_answer_is_for_more_than_its_guards_let_in(settings: Settings) -> None:
    """A stored answer is given once the guards of the first level have said yes: all there are."""
    app = create_app(settings, "postgresql://nowhere/nothing")
    for context in iter_route_contexts(app.routes):
        if "POST" in (context.methods or ()) and not getattr(context.endpoint, "own_key", False):
            assert who_may(context, deep=True) == who_may(context, deep=False), context.path_format


ROLES = {"owner": OLIVIA, "administrator": ADAM, "support": SUE, "analyst": ANNA, "marketer": MARK}
WHO = {"nobody": None, "customer": CARL, **ROLES}
FROM_THE_DOCUMENT, MADE_UP = "examples,coverage,stateful", "fuzzing"
EXAMPLES = {"owner": 8, "customer": 8, "nobody": 8}  # all routes are theirs; the others see less
TRIES = [(who, FROM_THE_DOCUMENT) for who in ("owner", "customer", "nobody")]
TRIES += [(who, MADE_UP) for who in WHO]


@pytest.mark.skipif(EXTERNAL in os.environ, reason="the same on every PostgreSQL: done without it")
@pytest.mark.timeout(600)  # a minute's work, which a busy machine makes several of
@pytest.mark.parametrize(("who", "phases"), TRIES)
async def test_bursar_keeps_to_its_document(
    live_db: Live, tmp_path: Path, who: str, phases: str
) -> None:
    """Schemathesis with all its checks: no 5xx, nothing undocumented.

    Each tries what they are let in to, nobody what is for everybody; that they are turned away from
    the rest is what tests/test_matrix.py is for. What comes of the document alone (coverage) is the
    same for all staff, so the owner tries it for them; it is the longest, and so it begins first.
    """
    assert {*ROLES} == {*StaffRole}
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(trimmed(live_db.app.openapi(), who)))
    async with populated(live_db), working(live_db), live_db.serving() as base:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
        command += ["run", str(document), "--url", base, "--seed", "1", "--no-color"]
        command += ["--max-examples", str(EXAMPLES.get(who, 2))]
        command += ["--phases", phases, "--request-timeout", "20"]
        command += ["--generation-database", "none"]  # what one run found is not for the next
        command += ["--generation-allow-x00", "false"]  # refused by design: PostgreSQL has no NUL
        if actor := WHO[who]:  # a token without a session: no example can sign it out
            token = Tokens(live_db.settings.secret_keys).sign(actor)
            command += ["--header", f"Authorization: Bearer {token}"]
        run = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()[:12000]


def trimmed(document: dict[str, Any], who: str) -> dict[str, Any]:
    """What this one tries, without Idempotency-Key: a key that came before with another body is
    refused, and the same few keys come all the time; tests/core/test_idempotency.py tries them."""
    document = copy.deepcopy(document)
    for path, method, operation in operations(document):
        if not is_theirs(f"{method.upper()} {path}", who):
            del document["paths"][path][method]
        kept = [p for p in operation.get("parameters", ()) if p["name"] != "Idempotency-Key"]
        operation["parameters"] = kept
    return document


def is_theirs(route: str, who: str) -> bool:
    words = STATED[route]
    if who == "nobody" or words == EVERYBODY:
        return who == "nobody" and words == EVERYBODY
    caller = next(c for c in CALLERS if c.name.endswith(f", {who}"))
    return caller.refused(words, route.split()[0]) is None


@asynccontextmanager
async def populated(live: Live) -> AsyncIterator[None]:
    """Everybody of the matrix is there; and as nobody tries anything for long, nobody waits."""
    database = await asyncpg.connect(raw(live.url))
    await set_scene(database)
    forgetting = asyncio.create_task(forget_attempts(database))
    try:
        yield
    finally:
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
        await database.close()


async def forget_attempts(database: asyncpg.Connection) -> None:
    while True:
        await database.execute("delete from attempts")
        await asyncio.sleep(0.1)


@asynccontextmanager
async def working(live: Live) -> AsyncIterator[None]:
    """A worker beside it, heard of, so that /ready has nothing to complain about."""
    stop = asyncio.Event()
    task = asyncio.create_task(Worker(live.database, live.settings).run(stop))
    async with asyncio.timeout(30):
        while True:
            async with live.database.transaction(WORKER) as db:
                if await queue.worker_alive(db):
                    break
    yield
    stop.set()
    await task
