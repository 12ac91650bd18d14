"""A database that a test has given back is like new, or it is not handed out again."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests import databases
from tests.databases import connected, raw
from tests.spares import rows

EVERY_TABLE = """
  select oid::regclass::text as name from pg_class
  where relkind = 'r' and relnamespace = 'public'::regnamespace
"""
WRITES = """
  insert into users (email, name) values ('carl@example.com', 'Carl');
  insert into settings (key, value) values ('company_name', '"Otters"');
  insert into events (name, payload) values ('test', '{}');
  update accounts set status = 'frozen' where shard = 0;
  delete from reward_tiers;
"""


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """None of those that other tests have left."""
    kept, databases.spares.ready = databases.spares.ready, []
    yield await databases.clone()
    databases.spares.ready += kept


async def contents(url: str) -> dict[str, bytes]:
    async with connected(databases.as_superuser(url)) as superuser:
        names = [row["name"] for row in await superuser.fetch(EVERY_TABLE)]
        return {name: await rows(superuser, name) for name in names}


async def write(url: str, sql: str) -> None:
    async with connected(databases.as_superuser(url)) as superuser:
        await superuser.execute(f"set session_replication_role = replica; {sql}")


async def test_rows_and_numbers_are_as_in_a_new_one(url: str) -> None:
    new = await contents(url)
    await write(url, WRITES)
    assert await contents(url) != new
    await databases.discard(url)
    assert await databases.clone() == url
    assert await contents(url) == new
    async with connected(raw(url)) as owner:
        sql = "insert into events (name, payload) values ('test', '{}') returning id"
        assert await owner.fetchval(sql) == 1
    await databases.discard(url)


@pytest.mark.parametrize(
    "sql",
    [
        "alter table users disable trigger user",
        "create table more (n int)",
        "drop table reward_tiers cascade",
        "create or replace function touch() returns trigger language plpgsql as 'begin end'",
        "grant select on users to app_user",
        "alter table users alter name set default 'x'",
        "alter role app_user in database {name} set lock_timeout = 0",
        "alter database {name} set lock_timeout = 0",
        "alter database {name} connection limit 3",
        "revoke connect on database {name} from app_user",
        "analyze accounts",
        "insert into users (email, name) "
        "select n || '@example.com', repeat('x', 100) from generate_series(1, 20000) n",
    ],
)
async def test_what_is_otherwise_not_as_it_was_is_not_handed_out_again(url: str, sql: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    await write(url, sql.format(name=name))
    await databases.discard(url)
    assert url not in databases.spares.ready
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(raw(url))


async def test_whoever_is_still_in_it_is_sent_away(url: str) -> None:
    staying = await asyncpg.connect(raw(url))
    await staying.execute("begin; insert into users (email, name) values ('c@example.com', 'C')")
    await databases.discard(url)
    assert databases.spares.ready == [url]
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await staying.execute("commit")
    assert (await contents(url))["users"] == b""
