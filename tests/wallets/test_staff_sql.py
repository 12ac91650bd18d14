"""What staff's login role does in the ledger: by functions, for who works here, and audited."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bursar.accounts.models import StaffStatus
from bursar.auth.actor import OPERATOR_ID
from bursar.core import exact
from bursar.wallets import ledger, service
from tests import databases
from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.wallets.oracle import Books, ask, books

DENIED = asyncpg.InsufficientPrivilegeError
NOT_AT_WORK = "not at work here"
REFUSED = asyncpg.RestrictViolationError
DOLLAR = 10**6


@dataclass
class Scene:
    """Olivia and Adam work here, Sue has left; Carl has 100 dollars."""

    url: str
    owner: Books
    olivia: str
    adam: str
    sue: str
    carl: str

    def as_staff(self, who: str | UUID | None) -> Any:
        return books(self.url, "staff_user", str(who) if who else None)

    async def trail(self) -> list[tuple[str, UUID]]:
        found = await self.owner.fetch("select event_type, actor_id from audit_logs order by id")
        return [(row["event_type"], row["actor_id"]) for row in found]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    url = await databases.clone()
    async with books(url) as owner:
        people = [await employed(owner, status) for status in ("active", "active", "suspended")]
        yield Scene(url, owner, *people, await owner.customer(100 * DOLLAR))
        await owner.check()
    await databases.discard(url)


async def employed(owner: Books, status: str) -> str:
    add = "insert into admin_users (email, role, status) values ($1, 'owner', $2) returning id"
    return str(await owner.fetchval(add, f"{uuid4()}@example.com", status))


def gift(user_id: str, **more: Any) -> str:
    leg = ledger.transfer("clearing", ledger.user(user_id), DOLLAR, kind="funding")
    return exact.dumps([{**ask(leg).document(), **more}])


def everything(scene: Scene) -> dict[str, str]:
    """All that staff's login role may do with money, and with what bounds it."""
    return {
        "post": f"select post_as_staff('{gift(scene.carl)}')",
        "deduct": f"select deduct_user_balance('{scene.carl}', 1)",
        "add": f"select add_user_funds('{scene.carl}', 1, 'a payment')",
        "asset": "select add_asset('GBP', 2, 'currency')",
        "status": f"select change_wallet_status('{scene.carl}', 'USD', 'frozen', 'they asked')",
        "overdraft": f"select change_wallet_overdraft('{scene.carl}', 'USD', 5)",
        "adjustment": f"""insert into adjustments (user_id, asset, amount, reason, proposed_by)
          values ('{scene.carl}', 'USD', 5, 'a mistake', uuid7())""",
    }


async def test_who_does_not_work_here_does_nothing(scene: Scene) -> None:
    """Without a claim, with one that is nobody's or a customer's, or of somebody who has left."""
    before = await scene.owner.count()
    for who in (None, uuid4(), scene.carl, scene.sue):
        async with scene.as_staff(who) as nobody:
            for sql in everything(scene).values():
                with pytest.raises(asyncpg.PostgresError, match=NOT_AT_WORK):
                    await nobody.execute(sql)
    assert await scene.owner.count() == before
    assert not await scene.owner.fetch("select from adjustments")


async def test_only_who_is_active_is_at_work(scene: Scene) -> None:
    for status in StaffStatus:
        async with scene.as_staff(await employed(scene.owner, status)) as somebody:
            call = somebody.execute(everything(scene)["add"])
            if status == StaffStatus.ACTIVE:
                await call
            else:
                with pytest.raises(asyncpg.PostgresError, match=NOT_AT_WORK):
                    await call


async def test_the_operator_of_the_machine_is_at_work(scene: Scene) -> None:
    async with scene.as_staff(OPERATOR_ID) as operator:
        assert await operator.fetchval(everything(scene)["add"])
    assert (await scene.trail())[-1] == ("wallets.funded", OPERATOR_ID)


async def test_whatever_is_done_is_audited_as_theirs(scene: Scene) -> None:
    done = everything(scene)
    del done["adjustment"]  # a proposal moves nothing; the API writes its row
    async with scene.as_staff(scene.olivia) as olivia:
        for sql in done.values():
            await olivia.execute(sql)
    assert await scene.trail() == [
        (event, UUID(scene.olivia))
        for event in (
            "wallets.posted", "wallets.charged", "wallets.funded", "wallets.asset_added",
            "wallets.frozen", "wallets.overdraft_changed",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    "actor", [None, "null", {}, {"kind": "system"}, {"kind": "customer", "id": str(uuid4())}]
)
async def test_staff_post_in_their_own_name(scene: Scene, actor: Any) -> None:
    request = gift(scene.carl, **({} if actor == "null" else {"actor": actor}))
    async with scene.as_staff(scene.olivia) as olivia:
        with pytest.raises(DENIED):
            await olivia.execute(f"select post('{request}')")
        await olivia.execute(f"select post_as_staff('{request}')")
        for nothing in ("[]", "null"):
            with pytest.raises(asyncpg.PostgresError):
                await olivia.execute(f"select post_as_staff('{nothing}')")
    assert await scene.trail() == [("wallets.posted", UUID(scene.olivia))]
    name = await scene.owner.fetchval("select actor from operations order by id desc limit 1")
    assert name == f"staff:{scene.olivia}"


async def test_an_overdraft_keeps_its_bounds(scene: Scene) -> None:
    call = "select change_wallet_overdraft($1, $2, $3, 'they asked')"
    async with scene.as_staff(scene.olivia) as olivia:

        async def answered(limit: int | None, asset: str = "USD", who: str = scene.carl) -> Any:
            return await olivia.fetchval(call, who, asset, limit)

        assert await answered(100 * DOLLAR) is None
        assert await answered(100 * DOLLAR + 1) == {
            "error": "wallet.overdraft_too_large", "most": 100,
        }  # fmt: skip
        assert await olivia.fetchval("select deduct_user_balance($1, 110)", scene.carl)
        assert await answered(10 * DOLLAR - 1) == {
            "error": "wallet.overdraft_in_use", "used": 10 * DOLLAR,
        }  # fmt: skip
        assert await answered(10 * DOLLAR) is None
        assert await answered(10 * DOLLAR) is None  # nothing to change, nothing to audit
        for nobody in (("USD", str(uuid4())), ("POINTS", scene.carl), ("GBP", scene.carl)):
            assert await answered(0, *nobody) == {"error": "wallet.unknown_account"}
        assert (await answered(-1))["error"] == "wallet.overdraft_in_use"
        with pytest.raises(asyncpg.CheckViolationError):
            await answered(None)
    changes = [event for event, _ in await scene.trail() if event == "wallets.overdraft_changed"]
    assert len(changes) == 2


async def test_points_are_never_overdrawn(scene: Scene) -> None:
    leg = ledger.transfer("rewards", ledger.user(scene.carl), 5, ledger.POINTS, kind="earn")
    await scene.owner.do(leg)
    async with scene.as_staff(scene.olivia) as olivia:
        call = "select change_wallet_overdraft($1, 'POINTS', 1)"
        told = await olivia.fetchval(call, scene.carl)
    assert told == {"error": "wallet.overdraft_too_large", "most": 0}


async def test_a_status_keeps_its_bounds(scene: Scene) -> None:
    call = "select change_wallet_status($1, 'USD', $2, $3)"
    async with scene.as_staff(scene.olivia) as olivia:
        assert await olivia.fetchval(call, scene.carl, "closed", "they asked") == {
            "error": "wallet.not_empty", "balance": 100 * DOLLAR, "held": 0,
        }  # fmt: skip
        for reason in (None, "", "  ", "x" * 501):
            with pytest.raises(asyncpg.InvalidParameterValueError):
                await olivia.fetchval(call, scene.carl, "frozen", reason)
        with pytest.raises(asyncpg.CheckViolationError):
            await olivia.fetchval(call, scene.carl, "melted", "they asked")
        assert await olivia.fetchval(call, scene.carl, "open", "they asked") is None
        assert await olivia.fetchval(call, str(uuid4()), "open", "x") == {
            "error": "wallet.unknown_account",
        }  # fmt: skip
    assert await scene.trail() == []


async def test_a_wallet_always_has_a_limit(scene: Scene) -> None:
    """Also by the owner of the database; the company's own accounts have none."""
    with pytest.raises(asyncpg.CheckViolationError):
        await scene.owner.execute("update accounts set overdraft = null where purpose = 'wallet'")
    unlimited = "select distinct purpose from accounts where overdraft is null"
    assert "wallet" not in {row["purpose"] for row in await scene.owner.fetch(unlimited)}


async def test_the_bounds_are_the_settings(live_db: Live) -> None:
    """In SQL and in Python they are the same: as declared, and as staff have set them."""
    for declared in (service.ADJUSTMENT_LIMIT, service.OVERDRAFT_AT_MOST):
        [row] = await rows(live_db, "select wallet_rule($1) as value", declared.key)
        assert row["value"] == declared.default
        await change(live_db, declared.key, 77)
        [row] = await rows(live_db, "select wallet_rule($1) as value", declared.key)
        assert row["value"] == 77


PROPOSE = """insert into adjustments (user_id, asset, amount, reason, proposed_by)
  values ($1, 'USD', $2, 'a mistake', $3) returning id"""
POSTED = """insert into adjustments (user_id, asset, amount, reason, proposed_by, state, decided_at,
  operation_id) values ($1, 'USD', $2, 'a mistake', $3, $4, now(), $5) returning proposed_by"""


async def corrected(staff: Books, user_id: str, amount: int, kind: str = "adjustment") -> UUID:
    sides = ("adjustments", ledger.user(user_id))
    debit, credit = sides if amount > 0 else sides[::-1]
    leg = ledger.transfer(debit, credit, abs(amount), kind=kind)
    request = exact.dumps([ask(leg).document()])
    [answer] = await staff.fetchval(f"select post_as_staff('{request}')")
    return UUID(answer["operation_id"])


async def test_a_proposal_is_theirs_who_propose(scene: Scene) -> None:
    async with scene.as_staff(scene.olivia) as olivia, scene.as_staff(scene.adam) as adam:
        made = await olivia.fetchval(PROPOSE, scene.carl, 5, scene.adam)
        query = "select proposed_by::text from adjustments where id = $1"
        assert await olivia.fetchval(query, made) == scene.olivia
        reject = "update adjustments set state = 'rejected', decided_at = now(), decided_by = $2"
        with pytest.raises(asyncpg.CheckViolationError):  # the two people are one
            await olivia.execute(f"{reject} where id = $1", made, UUID(scene.adam))
        with pytest.raises(REFUSED):
            await adam.execute("update adjustments set decided_by = $1", UUID(scene.olivia))
        await adam.execute(f"{reject} where id = $1", made, UUID(scene.olivia))
        query = "select decided_by::text from adjustments where id = $1"
        assert await olivia.fetchval(query, made) == scene.adam


async def test_what_is_said_to_be_posted_is(scene: Scene) -> None:
    dora = await scene.owner.customer(DOLLAR)
    async with scene.as_staff(scene.olivia) as olivia:
        given = await corrected(olivia, scene.carl, 5)
        other = await corrected(olivia, scene.carl, 5, "gift")
        for user_id, amount, state, operation in (
            (dora, 5, "posted", given),  # to somebody else
            (scene.carl, 6, "posted", given),  # more
            (scene.carl, -5, "posted", given),  # the other way
            (scene.carl, 5, "posted", other),  # something else
            (scene.carl, 5, "rejected", None),
        ):
            with pytest.raises(REFUSED):
                await olivia.execute(POSTED, user_id, amount, scene.adam, state, operation)
        made = await olivia.fetchval(POSTED, scene.carl, 5, scene.adam, "posted", given)
        assert str(made) == scene.olivia
        with pytest.raises(asyncpg.UniqueViolationError):  # once for all
            await olivia.execute(POSTED, scene.carl, 5, scene.adam, "posted", given)


async def test_beyond_the_limit_of_the_day_nobody_posts_alone(scene: Scene) -> None:
    half = 50 * DOLLAR
    async with scene.as_staff(scene.olivia) as olivia, scene.as_staff(scene.adam) as adam:
        for amount in (half, -half):
            operation = await corrected(olivia, scene.carl, amount)
            await olivia.execute(POSTED, scene.carl, amount, scene.olivia, "posted", operation)
        made = await olivia.fetchval(PROPOSE, scene.carl, 1, scene.olivia)
        operation = await corrected(olivia, scene.carl, 1)
        with pytest.raises(REFUSED, match="a second person"):
            await olivia.execute(POSTED, scene.carl, 1, scene.olivia, "posted", operation)
        await adam.execute(
            """update adjustments set state = 'posted', decided_at = now(), operation_id = $2
               where id = $1""",
            made, operation,
        )  # fmt: skip
