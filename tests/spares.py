"""Databases that a test has given back, made like new: much less work than making a new one.

Only rows and numbers are put right. Where anything else is not as it was (a table, a right, a
limit, what PostgreSQL knows of the sizes), nobody gets that database again.
"""

import asyncio
import io
from dataclasses import dataclass, field

import asyncpg

ROOM = (
    2 * 1024 * 1024
)  # what was deleted keeps its room: a table that has grown further is no new one
GOODBYE_SECONDS = 5.0

# A row that was written anew has another xmin; one that is gone is missed by the count.
CATALOGS = (
    *("pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_default_acl", "pg_extension"),
    *("pg_index", "pg_inherits", "pg_namespace", "pg_policy", "pg_proc", "pg_rewrite"),
    *("pg_statistic", "pg_trigger", "pg_type"),
)
ROWS = [f"select '{name}', count(*), sum(xmin::text::bigint) from {name}" for name in CATALOGS]
AROUND = """
  select 'sizes', sum(relpages), sum(reltuples)::numeric from pg_class
  union all select 'limits', count(*), sum(hashtext(setrole || setconfig::text))
    from pg_db_role_setting join pg_database on pg_database.oid = setdatabase
    where datname = current_database()
  union all select 'database', 1, hashtext(row(datdba, datallowconn, datconnlimit, datacl)::text)
    from pg_database where datname = current_database()
"""
SHAPE = " union all ".join([*ROWS, AROUND])
TABLES = """
  select oid::regclass::text, pg_relation_size(oid) from pg_class
  where relkind = 'r' and relnamespace = 'public'::regnamespace and pg_relation_size(oid) > 0
"""
NUMBERS_AGAIN = """
  select setval(seqrelid::regclass, seqstart, false) from pg_sequence
  where pg_sequence_last_value(seqrelid) is not null
"""
OTHERS = """
  select pg_terminate_backend(pid) from pg_stat_activity
  where datname = current_database() and pid <> pg_backend_pid()
"""


@dataclass
class Spares:
    """Those of one process, asked about by a superuser."""

    ready: list[str] = field(default_factory=list)
    _shapes: dict[str, list[asyncpg.Record]] = field(default_factory=dict)
    _rows: dict[str, bytes] = field(default_factory=dict)  # of the tables that are not empty then

    async def learn(self, url: str, connection: asyncpg.Connection) -> None:
        """This one is new."""
        self._shapes[url] = await connection.fetch(SHAPE)
        if not self._rows:
            assert await connection.fetch(NUMBERS_AGAIN) == [], "a new one has used no number"
            for name in dict(await connection.fetch(TABLES)):
                if found := await rows(connection, name):
                    self._rows[name] = found

    async def take_back(self, url: str, connection: asyncpg.Connection) -> bool:
        """Whether it is like new again."""
        if url not in self._shapes or not await left_alone(connection):
            return False
        tables = dict(await connection.fetch(TABLES))
        if max(tables.values()) > ROOM or not await self.is_new(url, connection):
            return False
        await self._put_right(connection, set(tables))
        self.ready.append(url)
        return True

    async def is_new(self, url: str, connection: asyncpg.Connection) -> bool:
        """But for its rows. PostgreSQL itself may have counted them since."""
        return await connection.fetch(SHAPE) == self._shapes[url]

    async def _put_right(self, connection: asyncpg.Connection, tables: set[str]) -> None:
        right = {name for name, new in self._rows.items() if new == await rows(connection, name)}
        # No trigger and no foreign key speaks up: what they keep from being deleted goes too.
        emptied = [f"delete from {name}" for name in tables - right]
        await connection.execute(";".join(["set session_replication_role = replica", *emptied]))
        for name in self._rows.keys() - right:
            await connection.copy_to_table(name, source=io.BytesIO(self._rows[name]))
        await connection.fetch(NUMBERS_AGAIN)


async def left_alone(connection: asyncpg.Connection) -> bool:
    """Once whoever is still in it has been told to go."""
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            while await connection.fetch(OTHERS):
                await asyncio.sleep(0.005)
    except TimeoutError:
        return False
    return True


async def rows(connection: asyncpg.Connection, table: str) -> bytes:
    kept = io.BytesIO()
    await connection.copy_from_table(table, output=kept)
    return kept.getvalue()
