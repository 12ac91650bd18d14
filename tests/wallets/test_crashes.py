"""Whatever is killed, and whenever: what was answered is in the ledger, once, and stays so."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from sqlalchemy.engine import URL, make_url

from bursar.core.database import Database
from bursar.core.database_errors import OutcomeUnknown
from bursar.core.embedded import Embedded
from bursar.core.migrate import migrate
from bursar.wallets import till
from bursar.wallets.ledger import Outcome
from bursar.wallets.till import Till
from tests.conftest import Live
from tests.databases import SECRET, new_folder
from tests.databases import test_settings as settings_of_tests
from tests.programs import postmaster, until
from tests.wallets.till_program import CALLERS, amount_of
from tests.wallets.till_world import add_customer, balance, charge, entries, fetch

LOTS = 10**12
PROGRAM = Path(__file__).with_name("till_program.py")
ROOT = Path(__file__).parents[2]
SERVICE_KILLS = 35
BACKEND_KILLS = 12
SERVER_KILLS = 3  # the keeper of the server waits longer before each restart
QUICK_RECOVERY = (  # instead of an fsync of each of some thousand files
    "alter system set recovery_init_sync_method = 'syncfs'",
    "select pg_reload_conf()",
)
AGAIN = 100  # of the charges that were answered last are sent once more by the next process


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Path, str]]:
    """A PostgreSQL of this module's own, fsync and all: its folder and its address."""
    data = new_folder()
    with Embedded(data, say=lambda _: None) as server:
        asyncio.run(migrate(server.url(), settings_of_tests(), lambda _: None))
        for statement in QUICK_RECOVERY:
            asyncio.run(fetch(server.url("postgres", "postgres"), statement))
        yield data, server.url()


class Service:
    """The program that charges, one child after the other, and what the children were answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.users = [asyncio.run(add_customer(url, LOTS, digit)) for digit in "0137"]
        self._scope = f"of {self.users[0]}"
        self._answers = new_folder() / "answers"
        self._answers.touch()
        self._starter = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        self._child = 0

    def start(self) -> None:
        """A new child goes on a little before the place where the last one got to."""
        order = {
            "url": self.url,
            "secret": SECRET,
            "scope": self._scope,
            "users": [str(user) for user in self.users],
            "answers": str(self._answers),
            "first": max(0, self.highest - AGAIN),
        }
        assert self._starter.stdin
        self._starter.stdin.write(json.dumps(order) + "\n")
        self._starter.stdin.flush()
        self._child = int(self._says())

    def end(self, number: signal.Signals) -> None:
        os.kill(self._child, number)
        assert self._says() == "ended"
        self._child = 0

    def _says(self) -> str:
        assert self._starter.stdout
        return self._starter.stdout.readline().strip()

    @property
    def answers(self) -> list[tuple[int, UUID, bool]]:
        lines = self._answers.read_text().splitlines(keepends=True)
        words = [line.split() for line in lines if line.endswith("\n")]
        return [(int(number), UUID(done), replayed == "1") for number, done, replayed in words]

    @property
    def highest(self) -> int:
        return max((number for number, *_ in self.answers), default=0)

    def answer_some(self) -> None:
        """Until some more are answered: at a moment that nobody can foresee."""
        enough = self._answers.stat().st_size + random.randint(1, 15_000)
        until(lambda: self._answers.stat().st_size > enough or not self._lives, "answers")
        assert self._lives

    @property
    def _lives(self) -> bool:
        return psutil.pid_exists(self._child)

    def discard(self) -> None:
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        self._starter.communicate()

    def check(self) -> None:
        """Each answer is in the ledger, nothing is there twice, and the balances are its sums."""
        told = defaultdict(set)
        for number, operation, _ in self.answers:
            told[str(number)].add(operation)
        made: dict[str, UUID] = {}
        spent: dict[UUID, int] = defaultdict(int)
        for entry in asyncio.run(entries(self.url, self._scope)):
            assert entry["key"] not in made
            made[entry["key"]] = UUID(entry["operation_id"])
            number = int(entry["key"])
            assert entry["amount"] == amount_of(number)
            spent[self.users[number % len(self.users)]] += entry["amount"]
        assert told
        assert {key: {made.get(key)} for key in told} == told
        assert len(made) <= self.highest + CALLERS + 1
        for user in self.users:
            assert asyncio.run(balance(self.url, user)) == LOTS - spent[user]


@pytest.fixture
def service(cluster: tuple[Path, str]) -> Iterator[Service]:
    running = Service(cluster[1])
    yield running
    running.discard()


def test_the_service_is_killed_again_and_again(service: Service) -> None:
    for _ in range(SERVICE_KILLS):
        service.start()
        service.answer_some()
        service.end(signal.SIGKILL)
    service.start()
    service.answer_some()
    service.end(signal.SIGTERM)
    assert sum(replayed for *_, replayed in service.answers) > SERVICE_KILLS
    service.check()


def test_postgresql_is_killed_again_and_again(cluster: tuple[Path, str], service: Service) -> None:
    data, _ = cluster
    service.start()
    service.answer_some()
    kills = [backend] * BACKEND_KILLS + [the_server] * SERVER_KILLS
    random.shuffle(kills)
    for victim in kills:
        os.kill(until(lambda victim=victim: victim(data), "somebody to kill"), signal.SIGKILL)
        service.answer_some()
    service.end(signal.SIGTERM)
    service.check()


def the_server(data: Path) -> int | None:
    """PostgreSQL itself; nobody while it comes back from the kill before."""
    with suppress(OSError):
        return postmaster(data)
    return None


def backend(data: Path) -> int | None:
    """A backend that charges."""
    with suppress(psutil.Error, OSError):
        children = psutil.Process(postmaster(data)).children()
        random.shuffle(children)
        for child in children:
            if "worker_user" in " ".join(child.cmdline()):
                return child.pid
    return None


READY = b"Z\0\0\0\5I"  # the last that PostgreSQL says of a statement, after its commit


class Cutter:
    """Between the till and PostgreSQL: keeps the answer to what has the mark in it, and cuts."""

    def __init__(self, url: str, mark: bytes, cuts: int) -> None:
        self._target = make_url(url)
        self._mark = mark
        self._left = cuts
        self._folder = new_folder()
        self.cuts = 0
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Cutter"]:
        if "host" in self._target.query:
            port = self._target.port or 5432
            path = str(self._folder / f".s.PGSQL.{port}")
            server = await asyncio.start_unix_server(self._serve, path)
            Path(path).chmod(0o777)
            here = self._target.update_query_dict({"host": str(self._folder)})
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            here = self._target.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        self.url = here.render_as_string(hide_password=False)
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await connect(self._target)
        asked = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(2**20):
                if self._mark in data and self._left:
                    asked.set()
                server.write(data)

        asking = asyncio.create_task(forward())
        kept = b""
        with suppress(ConnectionError):
            while data := await answers.read(2**16):
                if not asked.is_set():
                    writer.write(data)
                    continue
                kept += data  # a long answer begins before its commit
                if kept.endswith(READY):
                    self._left -= 1
                    self.cuts += 1
                    break
        asking.cancel()
        writer.transport.abort()
        server.transport.abort()


async def connect(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = url.port or 5432
    if folder := url.query.get("host"):
        return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
    return await asyncio.open_connection(url.host, port)


@pytest.mark.parametrize("neighbours", [0, 200])
async def test_a_socket_is_cut_before_the_answer_ten_times(live_db: Live, neighbours: int) -> None:
    carl = await add_customer(live_db.url, LOTS)
    async with Cutter(live_db.url, b"the-marked-one", cuts=10).listening() as cutter:
        desk = Till(Database(cutter.url, live_db.settings))
        requests = [charge(carl, 3, "the-marked-one"), *(charge(carl) for _ in range(neighbours))]
        outcomes = await desk.post_all(requests)
        await desk.close()
    assert cutter.cuts == 10
    assert [type(each) for each in outcomes] == [Outcome] * (neighbours + 1)
    assert all(getattr(each, "replayed", False) for each in outcomes)
    assert len(await entries(live_db.url)) == neighbours + 1
    assert await balance(live_db.url, carl) == LOTS - 3 - neighbours


async def test_who_was_cut_off_may_ask_again_ten_times(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 0)
    carl = await add_customer(live_db.url, LOTS)
    request: Any = charge(carl, 3, "the-marked-one")
    async with Cutter(live_db.url, b"the-marked-one", cuts=10).listening() as cutter:
        desk = Till(Database(cutter.url, live_db.settings))
        for _ in range(10):
            with pytest.raises(OutcomeUnknown):
                await desk.post(request)
        done = await desk.post(request)
        await desk.close()
    assert (cutter.cuts, done.replayed) == (10, True)
    assert len(await entries(live_db.url)) == 1
    assert await balance(live_db.url, carl) == LOTS - 3
