"""Payments of invoices, and how their money goes: it bounces, is contested, or given back.

its_id, payment = await paid(live)
await bounce(live, payment)
await hear(live)
"""

from decimal import Decimal
from typing import Any
from uuid import UUID

from bursar.auth.actor import Actor
from bursar.payments.providers import What
from tests.accounts.people import mails, rows, run_jobs
from tests.billing.meterman import ADMIN, ask, hear
from tests.billing.test_invoices import invoice, month_over
from tests.conftest import Live
from tests.payments.tills import captured, fact, intend, row_of, tell
from tests.wallets.purses import move_in
from tests.world import CARL, OLIVIA

TOTAL = Decimal("1.72")
BECAUSE = {"reason": "It was our mistake"}


async def payment_for(live: Live, its_id: str, *, heard: bool = True, **given: Any) -> UUID:
    """A transfer that has come for an invoice, or what is said of it."""
    facts = {"payment_method": "bank_transfer", "provider": "manual", **given}
    payment = await intend(live, CARL, TOTAL, purpose="invoice", invoice_id=UUID(its_id), **facts)
    told = {"provider": facts["provider"], "object_id": f"pi_{payment}"}
    await tell(live, captured(payment, TOTAL, **told))
    if heard:
        await hear(live)
    return payment


async def paid(live: Live, **given: Any) -> tuple[str, UUID]:
    """Carl's invoice, and the payment that has paid it."""
    await move_in(live)
    await month_over(live)
    its_id = (await invoice(live))["id"]
    payment = await payment_for(live, its_id, **given)
    assert (await invoice(live))["status"] == "paid"
    return its_id, payment


async def bounce(live: Live, payment: UUID) -> None:
    path = f"{ADMIN}/payments/{payment}/bounce"
    answer = await ask(live, "POST", path, {"reason": "no funds"})
    assert answer.status_code == 200, answer.text


async def dispute(live: Live, payment: UUID, *ends: What, amount: Any = TOTAL) -> None:
    provider = (await row_of(live, payment))["provider"]
    for what in (What.DISPUTE_OPENED, *ends):
        named = f"dp_{payment}"
        [applied] = await tell(live, fact(payment, what, named, amount, provider=provider))
        assert applied.what == "done", applied
        await hear(live)


async def dispute_ends(live: Live, payment: UUID, what: What) -> None:
    await tell(live, fact(payment, what, f"dp_{payment}", TOTAL))
    await hear(live)


async def give_back(live: Live, payment: UUID, amount: Any = None, **body: Any) -> None:
    asked = {"amount": amount, **body} if amount else body
    answer = await ask(live, "POST", f"/api/v1/payments/{payment}/refunds", asked)
    assert answer.status_code == 201, answer.text
    await hear(live)


async def reopen(live: Live, its_id: str, who: Actor = OLIVIA) -> Any:
    return await ask(live, "POST", f"{ADMIN}/invoices/{its_id}/reopening", BECAUSE, who)


async def letters(live: Live, template: str) -> int:
    found = await mails(live, "carl@example.com")
    return [each.template for each in found].count(template)


async def events_of(live: Live, name: str) -> int:
    return len(await rows(live, "select from events where name = $1", name))


async def an_hour_later(live: Live) -> None:
    await rows(live, "update refunds set settled_at = settled_at - interval '61 minutes'")
    await rows(live, "update pgqueuer set execute_after = execute_after - interval '61 minutes'")
    await run_jobs(live)
