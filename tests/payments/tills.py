"""Payments for tests: intents, facts as a provider would tell them, and what came of them.

payment_id = await intend(live, CARL, 20)
await tell(live, captured(payment_id, 20))
assert await state(live, payment_id) == ("completed", 20, 0)
"""

from decimal import Decimal
from typing import Any
from uuid import UUID

from bursar.auth.actor import Origin
from bursar.core.database import WORKER
from bursar.payments import settling
from bursar.payments.applied import Applied
from bursar.payments.models import Payment
from bursar.payments.providers import Fact, What
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import Customer, id_of
from tests.world import OLIVIA

STAFF = Origin(OLIVIA)


async def intend(live: Live, who: Customer, amount: Any = 20, **given: Any) -> UUID:
    """A payment that was asked for, past the API; by Stripe unless said otherwise."""
    facts = {"payment_method": "stripe", "provider": "stripe", **given}
    async with live.database.transaction(WORKER) as db:
        payment = Payment(user_id=id_of(who), amount=Decimal(amount), **facts)
        db.add(payment)
        await db.flush()
        return payment.id


async def service(live: Live) -> UUID:
    """Something else than the wallet that money may be for: `purpose="service", service_id=…`."""
    made = "insert into services (name, price, duration_minutes) values ('Tea', 20, 5) returning id"
    [row] = await rows(live, made)
    found: UUID = row["id"]
    return found


def fact(payment_id: UUID, what: What, object_id: str, amount: Any = None, **more: Any) -> Fact:
    return Fact(
        what,
        more.pop("provider", "stripe"),
        object_id,
        more.pop("payment", {"id": str(payment_id)}),
        amount=None if amount is None else Decimal(amount),
        currency=more.pop("currency", "USD"),
        **more,
    )


def captured(payment_id: UUID, amount: Any = 20, **more: Any) -> Fact:
    return fact(
        payment_id, What.CAPTURED, more.pop("object_id", f"pi_{payment_id}"), amount, **more
    )


def cancelled(payment_id: UUID, **more: Any) -> Fact:
    return fact(payment_id, What.CANCELLED, f"pi_{payment_id}", **more)


def refunded(payment_id: UUID, object_id: str, amount: Any, **more: Any) -> Fact:
    return fact(payment_id, What.REFUNDED, object_id, amount, **more)


async def tell(live: Live, *facts: Fact) -> list[Applied]:
    """Each in a transaction of its own, as the worker does."""
    applied = []
    for each in facts:
        async with live.database.transaction(WORKER) as db:
            applied.append(await settling.apply(db, each))
    return applied


async def row_of(live: Live, payment_id: Any) -> dict[str, Any]:
    [row] = await rows(live, "select * from payments where id = $1", payment_id)
    return dict(row)


async def state(live: Live, payment_id: Any) -> tuple[str, Any, Any]:
    row = await row_of(live, payment_id)
    return row["status"], row["captured"], row["refunded"]


async def changes(live: Live, payment_id: Any) -> list[str]:
    """The statuses that the audit of a payment tells, the oldest first."""
    query = "select new_status from payment_audits where payment_id = $1 order by created_at, id"
    return [row["new_status"] for row in await rows(live, query, payment_id)]


async def company(live: Live) -> dict[str, Decimal]:
    """What the company's own accounts have, those that have anything, in dollars."""
    query = """
      select purpose, sum(posted) / 1000000.0 as has from accounts
      where purpose <> 'wallet' and asset = 'USD' group by purpose having sum(posted) <> 0
    """
    return {row["purpose"]: Decimal(row["has"]).normalize() for row in await rows(live, query)}
