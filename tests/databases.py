"""A PostgreSQL for the tests: the embedded one, or the external one that a variable names.

One migrated template is made per run; every worker, and every test that commits, gets a clone, or
one that another test has given back and that is like new (tests/spares.py).
"""

import asyncio
import atexit
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import asyncpg
from sqlalchemy.engine import URL, make_url

from bursar.core.embedded import Embedded
from bursar.core.migrate import migrate, owner_engine, rights_and_limits, upgrade
from bursar.core.settings import Settings
from tests import canaries
from tests.programs import UNHURRIED, roomy_folder
from tests.spares import Spares

EXTERNAL = "BURSAR_TEST_DATABASE_URL"  # of a superuser
ADMIN = "BURSAR_TEST_ADMIN_URL"  # the same, told to the workers of this run
TEMPLATE = "BURSAR_TEST_TEMPLATE"
OWNER = "bursar_test"
# As our own server has it: it would compile each big query of a test anew; and nobody cuts off the
# power of an external one, so that no test has to wait for its disk.
NOT_FOR_TESTS = "jit", "synchronous_commit"
OWNER_PASSWORD = "only for databases of tests"
TRIES = 12
SECRET = "a secret key that only the tests know"


def test_settings(**given: Any) -> Settings:
    """Settings that owe nothing to the environment of whoever runs the tests."""
    return Settings(**{"secret_key": SECRET, "data": new_folder(), **UNHURRIED, **given})


def new_folder() -> Path:
    """Short, and open to the ordinary user that PostgreSQL runs as where the tests run as root."""
    folder = Path(mkdtemp(prefix="bursar-t", dir=roomy_folder()))
    folder.chmod(0o711)
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


logs: list[Path] = []


def start(stack: ExitStack) -> None:
    """Before the first test, in the process that all workers come from."""
    admin = os.environ.get(EXTERNAL)
    if not admin:
        folder = new_folder()
        server = stack.enter_context(Embedded(folder, say=lambda _: None))
        logs.append(folder / "postgres-logs")
        admin = server.url("postgres", "postgres")
    os.environ[ADMIN] = admin
    os.environ[TEMPLATE] = f"bursar_test_{secrets.token_hex(4)}"
    asyncio.run(make_template())
    stack.callback(lambda: asyncio.run(drop_all()))


async def make_template() -> None:
    await administer(
        f"""do $$ begin
          if not exists (select from pg_roles where rolname = '{OWNER}') then
            create role {OWNER} login createrole password '{OWNER_PASSWORD}';
          end if;
        end $$""",
        f"create database {os.environ[TEMPLATE]} owner {OWNER}",
    )
    await migrate(url_of(os.environ[TEMPLATE]), test_settings(), lambda _: None)


spares = Spares()


async def clone() -> str:
    """A database of its own, migrated, empty; its address as the owner."""
    while spares.ready:
        url = spares.ready.pop()
        async with connected(as_superuser(url)) as superuser:
            if await spares.is_new(url, superuser):
                return url
        await drop(str(make_url(url).database))
    name = f"{os.environ[TEMPLATE]}_{secrets.token_hex(4)}"
    await administer(
        f"create database {name} template {os.environ[TEMPLATE]} owner {OWNER}",
        *(f"alter database {name} set {setting} = off" for setting in NOT_FOR_TESTS),
    )
    async with connected(url_of(name)) as owner:
        await owner.execute(";".join(rights_and_limits(name, Settings(**UNHURRIED))))
    async with connected(as_superuser(url_of(name))) as superuser:
        await spares.learn(url_of(name), superuser)
    return url_of(name)


async def at_revision(revision: str) -> str:
    """A database with the tables of an older release, and nothing that can be replaced."""
    url = await bare()
    await advance(url, revision)
    return url


async def bare() -> str:
    """A database with nothing in it."""
    name = f"{os.environ[TEMPLATE]}_{secrets.token_hex(4)}"
    await administer(f"create database {name} owner {OWNER}")
    return url_of(name)


async def advance(url: str, revision: str) -> None:
    """Only the tables, and only so far."""
    engine = owner_engine(url, test_settings())
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, revision)
    await engine.dispose()


async def discard(url: str) -> None:
    """Given back by a test, in which no key may have got into it."""
    like_new = False
    try:
        async with connected(as_superuser(url)) as superuser:
            canaries.refuse(await canaries.in_tables(superuser))
            like_new = await spares.take_back(url, superuser)
    finally:
        if not like_new:
            await drop(str(make_url(url).database))


async def drop_all() -> None:
    """The template, and the spare ones that the workers have left."""
    async with connected(os.environ[ADMIN]) as connection:
        mine = "select datname from pg_database where starts_with(datname, $1)"
        for row in await connection.fetch(mine, os.environ[TEMPLATE]):
            await insist(connection, f"drop database {row['datname']} with (force)")


async def drop(name: str) -> None:
    await administer(f"drop database if exists {name} with (force)")


async def administer(*statements: str) -> None:
    async with connected(os.environ[ADMIN]) as connection:
        for statement in statements:
            await insist(connection, statement)


async def insist(connection: asyncpg.Connection, statement: str) -> None:
    """PostgreSQL gives whoever is still in a database five seconds to go: too few on a busy
    machine."""
    for _ in range(TRIES - 1):
        try:
            await connection.execute(statement)
        except asyncpg.ObjectInUseError:
            continue
        return
    await connection.execute(statement)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings={"lock_timeout": "60s"})
    try:
        yield connection
    finally:
        await connection.close()


def as_superuser(url: str) -> str:
    """The same database, asked by who may read and damage everything."""
    admin = make_url(os.environ[ADMIN]).set(database=make_url(url).database)
    return admin.render_as_string(hide_password=False)


def url_of(name: str) -> str:
    admin: URL = make_url(os.environ[ADMIN])
    password = None if "host" in admin.query else OWNER_PASSWORD
    url = admin.set(username=OWNER, password=password, database=name)
    return url.render_as_string(hide_password=False)


def raw(url: str, user: str | None = None) -> str:
    """The address for asyncpg, as the owner or as somebody else."""
    parsed = make_url(url)
    return (parsed.set(username=user) if user else parsed).render_as_string(hide_password=False)
