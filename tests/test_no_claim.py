"""CONTRACT: an unset claim sees nothing, in whatever table or view of it, whatever stands there."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests import databases
from tests.scene import Scene, opened
from tests.world import OLIVIA

CONTRACT = (
    "users", "admin_users", "user_preferences", "api_keys", "usage", "monthly_usage", "wallets",
    "wallet_transactions", "payment_methods", "payments", "payment_audits", "services",
    "appointments", "trainings", "audit_logs", "settings", "user_balance", "user_with_balance",
    "payment_summary",
)  # fmt: skip
LEDGER = ("accounts", "holds", "operations", "transfers", "adjustments", "wallet_days")
VIEWS = ("user_balance", "user_with_balance", "wallets", "wallet_transactions", "payment_summary")


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    async with opened() as made:
        await made.begin()
        for sql in FURTHER:
            await made.database.execute(sql)
        yield made


# What the scene has none of, or has taken away again.
FURTHER = (
    "insert into settings (key, value) values ('company_name', '\"Otters\"')",
    "insert into user_preferences (user_id) select id from users limit 1",
    """select record_audit('tests.done', 'thing', 'x', null, null, 'system', null, null, null, null,
       null)""",
    "insert into usage (user_id, endpoint) select id, '/things' from users limit 1",
    """insert into wallet_days (account_id, day, category)
       select id, now(), 'models' from accounts where owner_id is not null limit 1""",
)


async def test_there_is_something_to_see(scene: Scene) -> None:
    empty = [name for name in (*CONTRACT, *LEDGER) if not await count(scene.database, name)]
    assert not empty


async def count(connection: asyncpg.Connection, name: str) -> int:
    """Of a table whose columns are granted one by one too."""
    found: int = await connection.fetchval(f"select count(1) from {name}")
    return found


@pytest.mark.parametrize("role", ["app_user", "staff_user"])
@pytest.mark.parametrize("name", [*CONTRACT, *LEDGER])
@pytest.mark.parametrize("claim", ["never set", "empty", "of another transaction"])
async def test_without_a_claim_there_is_nothing(
    scene: Scene, role: str, name: str, claim: str
) -> None:
    connection = await asyncpg.connect(databases.raw(scene.live.url, role))
    try:
        if claim == "empty":
            await connection.execute("set request.jwt.claim.sub = ''")
        if claim == "of another transaction":  # also by a statement that was prepared there
            async with connection.transaction():
                await connection.execute(f"set local request.jwt.claim.sub = '{OLIVIA.id}'")
                await seen(connection, name)
        assert await seen(connection, name) == 0
    finally:
        await connection.close()


async def seen(connection: asyncpg.Connection, name: str) -> int:
    """Nothing is also what it may not even ask."""
    try:
        async with connection.transaction():
            return await count(connection, name)
    except asyncpg.InsufficientPrivilegeError:
        return 0


async def test_analysts_read_views_and_no_secrets(scene: Scene) -> None:
    """They have no claim: a role of its own is what lets them see."""
    connection = await asyncpg.connect(databases.raw(scene.live.url, "analytics_user"))
    try:
        for name in VIEWS:
            assert await seen(connection, name), name
        for name in ("admin_users", "api_keys", "audit_logs", "settings", "transfers"):
            assert not await seen(connection, name), name
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "search",
    [
        "customers_like('{%}', null, null, null, 10)",
        "keys_like('%')",
        "customer_with_email('carl@example.com')",
    ],
)
async def test_nor_is_anything_found(scene: Scene, search: str) -> None:
    """By the functions that look past the policies, so that an index is used."""
    connection = await asyncpg.connect(databases.raw(scene.live.url, "staff_user"))
    try:
        query = f"select count(found) from {search} as found"
        assert await connection.fetchval(query) == 0
        await connection.execute(
            "set request.jwt.claim.sub = '00000000-0000-7000-8000-0000000000a1'"
        )
        assert await connection.fetchval(query) > 0
    finally:
        await connection.close()
