"""The OpenAPI document is true: every route keeps to it, whatever is thrown at it."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from bursar.auth.actor import Actor
from bursar.auth.guard import Everyone, Guard
from bursar.auth.tokens import Tokens
from bursar.core import queue
from bursar.core.database import WORKER
from bursar.worker import Worker
from tests.conftest import Live
from tests.world import OLIVIA

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
    undeclared = [
        context.path_format
        for context in iter_route_contexts(live_db.app.routes)
        if isinstance(context.original_route, APIRoute)
        and not declares(context)
        and context.path_format != "/metrics"  # its token is its guard
    ]
    assert undeclared == []


def declares(context: Any) -> bool:
    return any(isinstance(inner.call, Guard | Everyone) for inner in context.dependant.dependencies)


@pytest.mark.parametrize("actor", [OLIVIA, None], ids=["owner", "nobody"])
async def test_bursar_keeps_to_its_document(live_db: Live, actor: Actor | None) -> None:
    """Schemathesis over the whole API with all its checks: no 5xx, nothing undocumented."""
    async with working(live_db), live_db.serving() as base:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)]
        command += ["run", f"{base}/openapi.json"]
        command += ["--max-examples", "25", "--seed", "1", "--no-color"]
        command += ["--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "10"]
        command += ["--generation-allow-x00", "false"]  # refused by design: PostgreSQL has no NUL
        if actor:
            token = Tokens(live_db.settings.secret_keys).sign(actor)
            command += ["--header", f"Authorization: Bearer {token}"]
        run = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()[:12000]


@asynccontextmanager
async def working(live: Live) -> AsyncIterator[None]:
    """A worker beside it, heard of, so that /ready has nothing to complain about."""
    stop = asyncio.Event()
    task = asyncio.create_task(Worker(live.database, live.settings).run(stop))
    async with asyncio.timeout(10):
        while True:
            async with live.database.transaction(WORKER) as db:
                if await queue.worker_alive(db):
                    break
    yield
    stop.set()
    await task
