"""Customers with money, charges, and what the ledger says about them afterwards."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from bursar.core import exact
from bursar.wallets import ledger
from bursar.wallets.ledger import Request
from tests.databases import raw

LOTS = 10**12
ADD_USER = "insert into users (id, email, name) values ($1, $2, 'Carl')"
SENT = """
  select operations.key, operations.outcome ->> 'operation_id' as operation_id, transfers.amount,
    operations.created_at
  from transfers join operations on operations.id = operation_id where operations.scope = $1
"""
WAITING = """
  select pid from pg_locks join pg_stat_activity using (pid)
  where not granted and usename = 'worker_user' and datname = current_database()
"""
CONNECTED = """
  select pid from pg_stat_activity where usename = 'worker_user' and datname = current_database()
"""


async def fetch(url: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    """As the owner: what is really there."""
    connection = await asyncpg.connect(raw(url))
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def add_customer(url: str, balance: int, last_digit: str = "1") -> UUID:
    """Somebody with so much in the wallet; the last digit says which lane it takes."""
    user_id = UUID(uuid4().hex[:-1] + last_digit)
    await fetch(url, ADD_USER, user_id, f"{secrets.token_hex(8)}@example.com")
    if balance:
        leg = ledger.transfer("clearing", ledger.user(user_id), balance, kind="funding")
        await fetch(url, "select post($1::jsonb)", document(Request("funds", str(user_id), (leg,))))
    return user_id


def document(request: Request) -> str:
    return exact.dumps([request.document()])


def charge(user_id: UUID, amount: int = 1, key: str = "", **given: Any) -> Request:
    leg = ledger.transfer(ledger.user(user_id), "revenue", amount, kind="charge", **given)
    return Request("test", key or str(uuid4()), (leg,))


async def balance(url: str, user_id: UUID) -> int:
    [row] = await fetch(url, "select posted from accounts where owner_id = $1", user_id)
    return int(row["posted"])


async def entries(url: str, scope: str = "test") -> list[asyncpg.Record]:
    """The transfers that this test has made, the funding not among them."""
    return await fetch(url, SENT, scope)


@asynccontextmanager
async def locked(url: str, user_id: UUID) -> AsyncIterator[asyncpg.Connection]:
    """Another transaction holds the wallet: who charges it waits until the block ends."""
    connection = await asyncpg.connect(raw(url))
    try:
        async with connection.transaction():
            await connection.execute("select from accounts where owner_id = $1 for update", user_id)
            yield connection
    finally:
        await connection.close()


async def blocked(url: str) -> int:
    """The backend of a batch that waits for a lock, as soon as there is one."""
    async with asyncio.timeout(20):
        while not (found := await fetch(url, WAITING)):
            await asyncio.sleep(0.01)
    return int(found[0]["pid"])
