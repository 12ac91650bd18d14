"""Plain SQL on the ledger: what older reports and programs run goes on, and nobody does more."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bursar.wallets import ledger
from tests.wallets.oracle import Books, books

VIEWS = ("user_balance", "wallets", "wallet_transactions", "user_with_balance")
DENIED = asyncpg.InsufficientPrivilegeError
POST = """[{"scope": "s", "key": "k", "legs": [{"verb": "transfer", "debit": "clearing", "credit":
  "revenue", "asset": "USD", "amount": 1, "kind": "gift"}]}]"""


@dataclass
class Scene:
    """Carl gave Dora 30 of his 130 dollars, and of the 100 that he has, 20 are held."""

    url: str
    owner: Books
    carl: str
    dora: str
    hold: str

    def as_carl(self) -> Any:
        return books(self.url, "app_user", self.carl)


@pytest.fixture
async def scene(url: str) -> AsyncIterator[Scene]:
    async with books(url) as owner:
        dollar = 10**6
        carl, dora = await owner.customer(130 * dollar), await owner.customer()
        wallet = ledger.user(carl)
        await owner.do(ledger.transfer(wallet, ledger.user(dora), 30 * dollar, kind="transfer"))
        held = await owner.do(ledger.hold(wallet, 20 * dollar, kind="charge", seconds=60))
        yield Scene(url, owner, carl, dora, held["legs"][0]["hold_id"])
        await owner.check()


async def test_the_functions_as_the_owner(scene: Scene) -> None:
    owner, carl = scene.owner, scene.carl
    assert await owner.fetchval(f"select deduct_user_balance('{carl}', 0.000125, 'otter-2', 512)")
    assert await owner.fetchval(f"select deduct_user_balance('{carl}', 1)")
    named = "select deduct_user_balance(user_id => $1, amount => $2, model_id => $3, tokens => $4)"
    assert await owner.fetchval(named, carl, Decimal("0.5"), "otter-2", 12)
    assert await owner.fetchval("select add_user_funds($1, 10.25, 'payment 1')", carl)
    named = "select add_user_funds(user_id => $1, amount => $2, transaction_id => $3)"
    assert await owner.fetchval(named, carl, 10, "payment 2")
    query = "select total, spent, available, held, currency from user_balance where user_id = $1"
    [balance] = await owner.fetch(query, carl)
    assert [str(value) for value in balance] == [
        "150.250000", "31.500125", "98.749875", "20.000000", "USD",
    ]  # fmt: skip
    query = "select metadata from wallet_transactions where user_id = $1 and category = 'models'"
    kept = [row["metadata"] for row in await owner.fetch(query, carl)]
    assert {"model_id": "otter-2", "tokens": 512} in kept


async def test_more_than_there_is_is_false_and_nothing_is_written(scene: Scene) -> None:
    before = await scene.owner.count()
    assert not await scene.owner.fetchval("select deduct_user_balance($1, 80.000001)", scene.carl)
    assert await scene.owner.count() == before


async def test_a_payment_is_credited_once(scene: Scene) -> None:
    add = "select add_user_funds($1, $2, $3)"
    name = f"payment {uuid4()}"
    for _ in range(2):
        assert await scene.owner.fetchval(add, scene.dora, 5, name)
    assert (await scene.owner.state(scene.dora))[0] == 35 * 10**6
    with pytest.raises(asyncpg.DataError, match="key_reused"):
        await scene.owner.fetchval(add, scene.dora, 6, name)


async def test_nothing_is_paid_into_an_account_that_was_deleted(scene: Scene) -> None:
    """As by the API. What was paid before is told again."""
    add, name = "select add_user_funds($1, 5, $2)", f"payment {uuid4()}"
    assert await scene.owner.fetchval(add, scene.dora, name)
    await scene.owner.execute("update users set status = 'deleted' where id = $1", scene.dora)
    before = await scene.owner.count()
    with pytest.raises(asyncpg.DataError, match=r"wallet\.unknown_account"):
        await scene.owner.fetchval(add, scene.dora, f"payment {uuid4()}")
    assert await scene.owner.fetchval(add, scene.dora, name)
    assert await scene.owner.count() == before


@pytest.mark.parametrize("amount", ["0", "-1", "0.0000001", "1e30", "'NaN'", "'Infinity'", "null"])
async def test_a_bad_amount_is_an_error(scene: Scene, amount: str) -> None:
    for call in (f"deduct_user_balance('{scene.carl}', {amount})",
                 f"add_user_funds('{scene.carl}', {amount}, 'x')"):  # fmt: skip
        refused = r"money\.(not_positive|too_large|too_many_digits)"
        with pytest.raises(asyncpg.DataError, match=refused):
            await scene.owner.fetchval(f"select {call}")


async def test_nobody_is_an_error(scene: Scene) -> None:
    for who in (f"'{uuid4()}'", "null"):
        with pytest.raises(asyncpg.DataError, match=r"wallet\.unknown_account"):
            await scene.owner.fetchval(f"select deduct_user_balance({who}, 1)")


async def test_a_customer_spends_their_own_and_it_is_audited(scene: Scene) -> None:
    async with scene.as_carl() as mine:
        assert await mine.fetchval("select deduct_user_balance($1, 2.5, 'm', 1)", scene.carl)
        assert not await mine.fetchval("select deduct_user_balance($1, 78)", scene.carl)
    trail = "select event_type from audit_logs where actor_id = $1"
    assert [row[0] for row in await scene.owner.fetch(trail, scene.carl)] == ["wallets.charged"]


async def test_a_customer_does_nothing_else(scene: Scene) -> None:
    before = await scene.owner.count()
    async with scene.as_carl() as mine:
        for amount in (1, 10**6):  # the same words, whatever the other one has
            with pytest.raises(DENIED, match=r"^this is not your wallet$"):
                await mine.fetchval("select deduct_user_balance($1, $2)", scene.dora, amount)
        for sql in (
            f"select deduct_user_balance('{uuid4()}', 1)", "select deduct_user_balance(null, 1)",
            f"select add_user_funds('{scene.carl}', 1, 'x')", f"select post('{POST}')",
            "select * from transfers", "select * from operations", "select 1 from adjustments",
            f"select post_one('{POST}'::jsonb -> 0)", f"select * from legs_of('{POST}')",
            "select open_company_accounts('USD')", f"select post_as_staff('{POST}')",
            "select add_asset('GBP', 2, 'currency')", "select staff_at_work()",
            f"select change_wallet_status('{scene.carl}', 'USD', 'open', 'it is mine')",
            f"select change_wallet_overdraft('{scene.carl}', 'USD', 1000000)",
        ):  # fmt: skip
            await denied(mine, sql)
    assert await scene.owner.count() == before


async def denied(mine: Books, sql: str) -> None:
    """Refused, or it has nothing to do."""
    async with mine.connection.transaction():
        with pytest.raises((DENIED, asyncpg.DataError)):
            async with mine.connection.transaction():
                await mine.execute(sql)


WRITES = (
    "insert into accounts (asset) values ('USD')",
    "update accounts set posted = posted + 1",
    "update accounts set owner_id = owner_id",
    "delete from accounts",
    "update holds set captured = 0",
    "insert into holds select * from holds",
    "delete from holds",
    "insert into transfers (id) values (uuid7())",
    "update transfers set amount = 1",
    "delete from transfers",
    "insert into operations (id) values (uuid7())",
    "delete from operations",
    "truncate transfers, holds, operations, accounts cascade",
    "insert into wallet_days (account_id, day, category) values (uuid7(), now(), 'x')",
    "update assets set scale = 0",
    "insert into assets (code, scale) values ('GBP', 2)",
    "update accounts set status = 'frozen'",
    "update accounts set overdraft = null",
    "select 1 from accounts for update",
    "insert into user_balance (user_id) values (uuid7())",
    "update wallets set balance = 1000000",
)


@pytest.mark.parametrize("role", ["app_user", "staff_user", "worker_user", "analytics_user"])
async def test_no_login_role_writes_the_tables(scene: Scene, role: str) -> None:
    if role == "worker_user":
        writes = [sql for sql in WRITES if "wallet_days" not in sql]  # it keeps what was summed up
    else:
        writes = list(WRITES)
    async with books(scene.url, role, scene.carl) as mine:
        for sql in writes:
            with pytest.raises((DENIED, asyncpg.ObjectNotInPrerequisiteStateError,
                                asyncpg.WrongObjectTypeError)):  # fmt: skip
                await mine.execute(sql)


async def test_a_customer_sees_their_own(scene: Scene) -> None:
    async with scene.as_carl() as mine:
        [balance] = await mine.fetch("select * from user_balance")
        assert (str(balance["user_id"]), balance["available"]) == (scene.carl, 80)
        [wallet] = await mine.fetch("select * from wallets")
        assert (wallet["balance"], wallet["held"], wallet["currency"]) == (100, 20, "USD")
        query = "select direction, amount, balance_after, type from wallet_transactions"
        rows = await mine.fetch(f"{query} order by balance_after")
        assert [tuple(row) for row in rows] == [
            ("debit", 30, 100, "transfer"), ("credit", 130, 130, "funding"),
        ]  # fmt: skip
        [person] = await mine.fetch("select id, available from user_with_balance")
        assert tuple(person) == (UUID(scene.carl), 80)
        assert len(await mine.fetch("select * from holds")) == 1
        entries = "select amount, balance from wallet_entries($1)"
        assert len(await mine.fetch(entries, wallet["id"])) == 2


async def test_nobody_sees_what_another_has(scene: Scene) -> None:
    """Not even who was paid by them, who has the number of their wallet and their transfer."""
    async with books(scene.url, "app_user", scene.dora) as hers:
        [got] = await hers.fetch("select * from wallet_transactions")
        assert (got["amount"], got["balance_after"]) == (30, 30)
        from_wallet = got["from_wallet"]
        assert await hers.fetch("select * from wallet_entries($1)", from_wallet) == []
        for view in (*VIEWS, "accounts", "holds"):
            for row in await hers.fetch(f"select * from {view}"):
                said = {name: value for name, value in row.items() if name != "from_wallet"}
                assert from_wallet not in said.values()
                assert UUID(scene.carl) not in said.values()
                numbers = {value for value in said.values() if isinstance(value, Decimal | int)}
                assert not numbers & {Decimal(100), Decimal(130), 10**8, 13 * 10**7}


@pytest.mark.parametrize("role", ["app_user", "staff_user"])
async def test_who_has_no_claim_sees_nothing(scene: Scene, role: str) -> None:
    account = (await scene.owner.wallet(scene.carl) or {})["id"]
    async with books(scene.url, role) as nobody:
        for source in ("accounts", "holds", "user_balance", "wallets", "wallet_transactions"):
            assert await nobody.fetch(f"select * from {source}") == [], source
        assert await nobody.fetch("select * from wallet_entries($1)", account) == []
        if role == "app_user":
            assert await nobody.fetch("select * from user_with_balance") == []
            with pytest.raises(DENIED):
                await nobody.fetchval("select deduct_user_balance($1, 1)", scene.carl)


async def test_analysts_read_the_views_and_nothing_else(scene: Scene) -> None:
    async with books(scene.url, "analytics_user") as analyst:
        for view in VIEWS:
            found = await analyst.fetch(f"select * from {view}")
            users = {row["id" if view == "user_with_balance" else "user_id"] for row in found}
            assert {UUID(scene.carl), UUID(scene.dora)} <= users
        for sql in (
            "select * from transfers", "select * from holds", "select * from operations",
            f"select post('{POST}')", f"select deduct_user_balance('{scene.carl}', 1)",
            f"select add_user_funds('{scene.carl}', 1, 'x')", "select password_hash from users",
        ):  # fmt: skip
            with pytest.raises(DENIED):
                await analyst.execute(sql)


async def test_a_user_goes_and_the_account_stays(scene: Scene) -> None:
    owner = scene.owner
    account = (await owner.wallet(scene.dora) or {})["id"]
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await owner.execute("delete from users where id = $1", scene.dora)
    assert await owner.fetchval("select deduct_user_balance($1, 30)", scene.dora)
    await owner.execute("delete from users where id = $1", scene.dora)
    [left] = await owner.fetch("select owner_id, posted, seq from accounts where id = $1", account)
    assert tuple(left) == (None, 0, 2)
    assert len(await owner.fetch("select * from wallet_entries($1)", account)) == 2
    with pytest.raises(asyncpg.DataError, match="unknown_account"):
        await owner.fetchval("select add_user_funds($1, 1, 'late')", scene.dora)


async def test_a_user_with_a_decided_adjustment_can_go_too(scene: Scene) -> None:
    user = await scene.owner.customer()
    await scene.owner.execute(
        """insert into adjustments (user_id, asset, amount, reason, proposed_by, state, decided_at)
           values ($1, 'USD', 5, 'a mistake', uuid7(), 'rejected', now())""",
        user,
    )
    await scene.owner.execute("delete from users where id = $1", user)
    assert not await scene.owner.fetch("select from users where id = $1", user)


async def test_a_new_customer_has_a_wallet_in_dollars(scene: Scene) -> None:
    insert = (
        "insert into users (email, name, user_type) values ($1, 'New', 'customer') returning id"
    )
    user_id = await scene.owner.fetchval(insert, f"{uuid4()}@example.com")
    [row] = await scene.owner.fetch("select * from user_balance where user_id = $1", user_id)
    assert (row["total"], row["spent"], row["available"], row["currency"]) == (0, 0, 0, "USD")
