"""What every test may ask for: a database, an application on it, somebody who is signed in."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.app import create_app
from bursar.auth.actor import Actor, Origin
from bursar.auth.tokens import Tokens
from bursar.connection import Terms
from bursar.core.database import Database
from bursar.core.settings import Settings
from bursar.server import bind, serve
from tests import canaries, databases
from tests.world import OLIVIA

# These start databases of their own, or ask none: with one that is named they would only be done
# again. (tests/test_openapi.py leaves its longest test out by itself.)
THE_SAME_EVERYWHERE = [
    *("accounts/test_first_start.py", "auth/test_hashes.py", "auth/test_passwords.py"),
    *("core/embedded", "core/test_limits.py", "core/test_settings_file.py"),
    *("test_bench.py", "test_cli.py", "test_docs.py", "test_serve.py", "test_server.py"),
    *("test_server_load.py", "test_shape.py", "wallets/test_kills.py"),
]
collect_ignore = THE_SAME_EVERYWHERE if os.environ.get(databases.EXTERNAL) else []
servers = ExitStack()
DAY_SECONDS = 24 * 60 * 60
MIDNIGHT_SECONDS = 60  # what counts days is done in a few
LONG_SECONDS = 300  # or in so many, where a test says that it may last
LOOPBACK = ("127.", "::1", "localhost", "/", "\0")


def only_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """No test talks to anybody outside of this machine, not even to a name server."""
    if event == "socket.connect":
        place = arguments[1]
        host = str(place[0] if isinstance(place, tuple) else place)
        if not host.startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {host}")


sys.addaudithook(only_loopback)


# How quickly examples are made and tried says how busy the machine is; the rest stays as it is.
hypothesis_settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("unhurried")


def pytest_report_header() -> list[str]:
    left = " ".join(collect_ignore)
    return [f"left to a run without {databases.EXTERNAL}: {left}"] if left else []


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        databases.start(servers)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may last longest begins first, so that in the end no process works on alone."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the time limit of a test
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No test begins right before midnight: what happens today happens on one day (and in one
    month) for the test, for Bursar and for the database alike."""
    before = LONG_SECONDS if item.get_closest_marker("timeout") else MIDNIGHT_SECONDS
    while (left := DAY_SECONDS - time.time() % DAY_SECONDS) < before:
        time.sleep(left)
    return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """No key may stand in the database's log, whatever was tried and refused there."""
    found = [file for folder in databases.logs for file in canaries.in_files(folder)]
    if found:
        sys.stderr.write("\n".join(["API keys stand in the database's log:", *found, ""]))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        servers.close()


@pytest.fixture(autouse=True)
def keep_keys_out_of_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test is about, no API key stands in what was logged meanwhile."""
    yield
    phases = (caplog.get_records(phase) for phase in ("setup", "call"))
    said = [repr((each.getMessage(), vars(each))) for phase in phases for each in phase]
    assert [text for text in said if canaries.in_text(text)] == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Nor in what was written meanwhile, by us or by programs that a test has started."""
    report = yield
    found = [name for name, text in report.sections if canaries.in_text(text)]
    if report.passed and found:
        report.outcome, report.longrepr = "failed", f"API keys stand in: {', '.join(found)}"
    return report


@pytest.fixture(scope="session")
def settings() -> Settings:
    return databases.test_settings()


@pytest.fixture(scope="session")
async def shared_database(settings: Settings) -> AsyncIterator[Database]:
    """One per worker; nothing is ever committed to it."""
    url = await databases.clone()
    database = Database(url, settings)
    yield database
    await database.close()
    await databases.discard(url)


@pytest.fixture
async def db(shared_database: Database) -> AsyncIterator[AsyncSession]:
    """A transaction as the owner of the company, rolled back at the end."""
    async with as_actor(shared_database, OLIVIA) as session:
        yield session


class as_actor:  # noqa: N801 - reads as a verb where it is used
    """`async with as_actor(database, CARL) as db:` a transaction that is never committed."""

    def __init__(self, database: Database, actor: Actor) -> None:
        self._transaction = database.transaction(actor.claim, origin=Origin(actor))

    async def __aenter__(self) -> AsyncSession:
        return await self._transaction.__aenter__()

    async def __aexit__(self, *error: Any) -> bool:
        rollback = RuntimeError("rolled back at the end of the test")
        try:
            await self._transaction.__aexit__(RuntimeError, rollback, None)
        except RuntimeError as raised:
            if raised is not rollback:
                raise
        return False


@dataclass
class Live:
    """A database that commits, and the application on it."""

    url: str
    settings: Settings
    app: FastAPI

    @property
    def database(self) -> Database:
        database: Database = self.app.state.database
        return database

    def api(self, actor: Actor | None = None, **headers: str) -> httpx2.AsyncClient:
        """A client over the whole application, signed in as somebody, or as nobody."""
        if actor:
            headers["Authorization"] = f"Bearer {Tokens(self.settings.secret_keys).sign(actor)}"
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app), base_url="http://bursar", headers=headers
        )

    @asynccontextmanager
    async def serving(self, *, port: int = 0, **how: Any) -> AsyncIterator[str]:
        """The application behind Bursar's own server, on a port of its own; answers the URL."""
        stop = asyncio.Event()
        sock = bind("127.0.0.1", port)
        terms = Terms(drain_seconds=0, shutdown_seconds=5)
        serving = serve(self.app, sock=sock, should_stop=stop, terms=terms, **how)
        task = asyncio.create_task(serving)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            stop.set()
            await task
            sock.close()


@pytest.fixture
async def live_db(settings: Settings) -> AsyncIterator[Live]:
    """A database of this test's own, for what must commit: concurrency, jobs, crashes, the API."""
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    yield live
    await live.app.state.till.close()
    await live.database.close()
    await databases.discard(url)
