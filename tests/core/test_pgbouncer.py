"""Through PgBouncer in transaction mode everything works, and nobody sees another's rows."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url

from bursar.app import create_app
from bursar.core import jobs
from bursar.core.database import WORKER, Database, Role, plain_dsn, role_password
from bursar.core.migrate import migrate
from bursar.core.notices import Notices
from bursar.core.settings import Settings
from tests import databases, jobs_world, notes
from tests.clusters import identity
from tests.conftest import Live
from tests.databases import ADMIN, SECRET
from tests.listeners import BRISK
from tests.listeners import until as hearing
from tests.notes import Note
from tests.programs import MYSELF, ORDINARY, User, bursar, free_port, new_folder, serving, until
from tests.workers import Bench, worker_process
from tests.world import CARL, DORA

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
AS_IT_IS_FROM = (1, 21)  # keeps track of named statements itself
AT_ONCE = 100
ROUNDS = 20
ONE = "select owner, body from notes where id = $2"
MINE = "select owner, body from notes"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


def version() -> tuple[int, int]:
    said = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout)
    assert found, said.stdout
    return int(found[1]), int(found[2])


def modes() -> list[str]:
    """How Bursar may speak through the PgBouncer that is installed."""
    return ["unnamed", "as it is"] if PROGRAM and version() >= AS_IT_IS_FROM else ["unnamed"]


@dataclass
class Pooled:
    """A database, its own address and the one of PgBouncer in front of it."""

    url: str
    direct_url: str
    named: bool

    def settings(self, **given: Any) -> Settings:
        return databases.test_settings(database_unnamed_statements=not self.named, **given)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url,
            "BURSAR_DATABASE_DIRECT_URL": self.direct_url,
            "BURSAR_DATABASE_UNNAMED_STATEMENTS": "false" if self.named else "true",
            "BURSAR_SECRET_KEY": SECRET,
        }


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pgbouncer() as listening:
        yield listening


@pytest.fixture(params=modes())
async def pooled(port: int, request: pytest.FixtureRequest) -> AsyncIterator[Pooled]:
    direct = await databases.clone()
    url = make_url(direct).set(query={}, host="127.0.0.1", port=port)
    yield Pooled(
        plain_dsn(url.set(password=databases.OWNER_PASSWORD)), direct, request.param == "as it is"
    )
    await databases.discard(direct)


@contextmanager
def pgbouncer() -> Iterator[int]:
    """In front of the server of the tests, as a user that this server lets in by its socket."""
    admin = make_url(os.environ[ADMIN])
    socket_folder = admin.query.get("host")
    user = owner_of(Path(str(socket_folder))) if socket_folder else ORDINARY
    folder, port = new_folder(user), free_port()
    place = f"host={socket_folder or admin.host} port={admin.port or 5432}"
    passwords = {role.value: role_password(role, databases.test_settings()) for role in Role}
    passwords[databases.OWNER] = databases.OWNER_PASSWORD
    users = "".join(f'"{name}" "{password}"\n' for name, password in passwords.items())
    write(folder / "users", users, user)
    write(folder / "pgbouncer.ini", configuration(place, folder / "users", port), user)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), folder / "pgbouncer.ini"],
            **{"stdout": log, "stderr": log, "cwd": "/", **identity(user)},
        )
        try:
            log_file = folder / "log"
            until(lambda: "process up" in log_file.read_text(), f"PgBouncer, see {log_file}")
            yield port
        finally:
            process.kill()  # asked to stop, newer ones wait for clients that failed tests left
            process.wait(30)
    shutil.rmtree(folder)


def configuration(place: str, users: Path, port: int) -> str:
    """So few connections that clients have to take turns on them."""
    prepared = "max_prepared_statements = 200" if version() >= AS_IT_IS_FROM else ""
    return f"""
[databases]
* = {place}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 5
max_client_conn = 500
{prepared}
"""


def owner_of(folder: Path) -> User:
    status = folder.stat()
    return User("the owner of the database", status.st_uid, status.st_gid)


def write(path: Path, content: str, user: User) -> None:
    path.write_text(content)
    path.chmod(0o600)
    os.chown(path, user.uid, user.gid if MYSELF.uid == 0 else -1)


# Who sees what


async def test_a_hundred_at_once_see_their_own_rows_alone(pooled: Pooled) -> None:
    await notes.make_table(pooled.direct_url)
    settings = pooled.settings(
        database_pool_size=30, database_hot_pool_size=30, database_pool_timeout_seconds=60
    )
    database = Database(pooled.url, settings)
    people = [CARL.claim, DORA.claim]
    ids = [(await notes.write(database, person, person.subject))[0] for person in people]

    async def ask(number: int) -> None:
        for turn in range(ROUNDS):
            mine, hers = (number + turn) % 2, (number + turn + 1) % 2
            me = people[mine]
            if number % 3 == 0:
                assert [row["body"] for row in await database.fetch_all(me, MINE)] == [me.subject]
            elif number % 3 == 1:
                assert await database.fetch_one(me, ONE, ids[hers]) is None
            else:
                async with database.transaction(me) as db:
                    assert list(await db.scalars(select(Note.body))) == [me.subject]
                    await db.execute(text("select 1"))
                    assert await db.get(Note, ids[hers]) is None

    try:
        await asyncio.gather(*(ask(number) for number in range(AT_ONCE)))
    finally:
        await database.close()


async def test_limits_of_the_roles_hold(pooled: Pooled) -> None:
    settings = databases.test_settings()
    await migrate(pooled.direct_url, settings, lambda _: None)  # a clone has lost its limits
    database = Database(pooled.url, pooled.settings())
    async with database.transaction(CARL.claim) as db:
        assert await db.scalar(text("show statement_timeout")) == "2min"
        assert await db.scalar(text("select current_user")) == "app_user"
    await database.close()


async def test_a_key_of_idempotency_has_one_effect(pooled: Pooled) -> None:
    settings = pooled.settings(database_pool_timeout_seconds=60)
    live = Live(pooled.direct_url, settings, create_app(settings, pooled.url))
    await notes.install(live)
    async with live.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        answers = await notes.sent_at_once(pooled.direct_url, api, {"body": "once"})
        late = await api.post("/api/v1/notes", json={"body": "once"})
        total = (await api.get("/api/v1/notes")).json()["total"]
    await live.database.close()
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]
    assert late.headers["idempotent-replayed"] == "true"
    assert total == 1


# Jobs


async def test_a_worker_is_told_past_the_pooler(pooled: Pooled) -> None:
    """It never polls within this test, so that only LISTEN can tell it."""
    await jobs_world.make_notes(pooled.direct_url)
    database = Database(pooled.url, pooled.settings())
    bench = Bench(pooled.direct_url, database)
    given = {
        "database_url": pooled.url,
        "database_direct_url": pooled.direct_url,
        "database_unnamed_statements": not pooled.named,
        "database_pool_size": 8,
    }
    with worker_process(pooled.url, pace={"poll_seconds": 600}, **given):
        await bench.enqueue(jobs_world.write, {"word": "warm"})
        await bench.until_noted("write", "warm")
        words = [f"word {number}" for number in range(20)]
        for word in words:
            async with database.transaction(WORKER) as db:
                await jobs.enqueue(db, jobs_world.write, {"word": word})
        await bench.until_noted("write", *words)
    assert sorted(await bench.notes("write")) == sorted(["warm", *words])
    await database.close()


# Notices


async def test_who_listens_through_it_does_not_believe_that_it_hears(pooled: Pooled) -> None:
    """LISTEN is answered as ever, and what is announced then goes to nobody."""
    async with listening(pooled, None) as notices:
        await hearing(lambda: notices._failed > 5, "echoes that do not come")
        assert not notices.hears
    async with listening(pooled, pooled.direct_url) as notices:
        await hearing(lambda: notices.hears, "the echo")


@asynccontextmanager
async def listening(pooled: Pooled, direct_url: str | None) -> AsyncIterator[Notices]:
    async def look() -> None:
        return

    given = {"database_url": pooled.url, "database_direct_url": direct_url}
    database = Database(pooled.url, pooled.settings(**given))
    notices = Notices(database, BRISK)
    notices.on("words", print, look=look)
    async with notices.listening():
        yield notices
    await database.close()


# The whole


async def test_migrate_goes_past_the_pooler(pooled: Pooled) -> None:
    nowhere = pooled.environment | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    assert bursar("migrate", **nowhere).code == 0


async def test_all_of_bursar_works_through_it(pooled: Pooled) -> None:
    with serving("--demo", **pooled.environment) as server:
        token = bursar("staff", "token", **pooled.environment).stdout.strip()
        signed_in = {"authorization": f"Bearer {token}"}
        for _ in range(20):
            assert server.get("/api/v1/admin/settings", **signed_in).status_code == 200
        assert bursar("doctor", **pooled.environment).code == 0
        assert server.stop().code == 0
