"""A disputed payment: its money is held as far as it is there, and released or gone in the end."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events
from bursar.payments import posting, refunding
from bursar.payments.applied import DIFFERS, DONE, KNOWN, NOT_HERE, Applied
from bursar.payments.happenings import PaymentDisputed
from bursar.payments.models import Dispute, DisputeStatus, Payment
from bursar.payments.providers import Fact, What


async def apply(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    """The payment is locked. An end that comes before its beginning opens the dispute first; won
    at once, nothing was ever held."""
    if not payment.captured:
        return Applied(NOT_HERE, reason="the payment is not known to be captured yet")
    if fact.currency not in (None, payment.currency):
        return Applied(DIFFERS, reason=f"a dispute in {fact.currency}")
    query = select(Dispute).filter_by(provider_dispute_id=fact.object_id)
    dispute = await db.scalar(query.execution_options(populate_existing=True))
    is_new = dispute is None
    if dispute is None:
        amount = fact.amount or payment.captured
        if amount > payment.refundable and await refunding.is_one_unanswered(db, payment):
            return Applied(NOT_HERE, reason="a refund is under way, which may be refused now")
        dispute = await begin(db, payment, fact, takes=fact.what != What.DISPUTE_WON)
    if fact.what == What.DISPUTE_OPENED:
        return Applied(DONE if is_new else KNOWN)
    if dispute.status != DisputeStatus.OPEN:
        return Applied(KNOWN)
    await end(db, payment, dispute, fact, gives=not is_new)
    return Applied(DONE)


async def begin(db: AsyncSession, payment: Payment, fact: Fact, *, takes: bool) -> Dispute:
    dispute = Dispute(
        payment_id=payment.id,
        provider_dispute_id=fact.object_id,
        amount=fact.amount or payment.captured,
        reason=(fact.reason or "")[:500] or None,
        due_at=fact.due_at,
    )
    db.add(dispute)
    await db.flush()
    await db.refresh(dispute)  # how much of it is counted, says a trigger
    if takes:
        dispute.held = await posting.hold_dispute(db, payment, dispute)
        await db.flush()
    await told(db, payment, dispute)
    return dispute


async def end(
    db: AsyncSession, payment: Payment, dispute: Dispute, fact: Fact, *, gives: bool
) -> None:
    won = fact.what == What.DISPUTE_WON
    if won and gives:
        await posting.release_dispute(db, payment, dispute)
    dispute.status = DisputeStatus.WON if won else DisputeStatus.LOST
    dispute.closed_at = func.now()
    await db.flush()
    await told(db, payment, dispute)


async def told(db: AsyncSession, payment: Payment, dispute: Dispute) -> None:
    await db.refresh(dispute)
    await db.refresh(payment)
    happened = PaymentDisputed(
        payment_id=payment.id,
        user_id=payment.user_id,
        dispute_id=dispute.id,
        dispute_status=dispute.status,
    )
    await events.publish(db, happened)
