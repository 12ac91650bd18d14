"""What providers tell about refunds: done, failed, sent back, or made at their own page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events
from bursar.payments import posting
from bursar.payments.applied import DIFFERS, DONE, KNOWN, NOT_HERE, Applied
from bursar.payments.happenings import PaymentRefunded, PaymentRefundFailed, about
from bursar.payments.models import (
    Destination,
    Dispute,
    DisputeStatus,
    Payment,
    ProviderState,
    Refund,
    RefundStatus,
)
from bursar.payments.providers import Fact, What
from bursar.payments.refunds import TOLD_WITHIN


async def apply(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    """The payment is locked, and with it all its refunds."""
    refund = await find(db, payment, fact)
    if fact.what == What.REFUND_FAILED:
        return await failed(db, payment, refund, fact)
    if refund is None:
        return await made_elsewhere(db, payment, fact)
    if refund.status in (RefundStatus.COMPLETED, RefundStatus.RETURNED):
        return Applied(KNOWN)
    if refund.status == RefundStatus.FAILED:
        return await done_before_it_failed(db, payment, refund, fact)
    if fact.amount is not None and fact.amount != refund.amount:
        return Applied(DIFFERS, reason=f"{fact.amount} went back, {refund.amount} was asked for")
    await posting.send_away(db, payment, refund)
    await end(db, payment, refund, RefundStatus.COMPLETED, fact)
    return Applied(DONE)


async def done_before_it_failed(
    db: AsyncSession, payment: Payment, refund: Refund, fact: Fact
) -> Applied:
    """Told backwards: it was done, and then sent back. What the provider had refused to begin
    cannot be done, and staff look at that."""
    if refund.provider_refund_id != fact.object_id:
        return Applied(DIFFERS, reason="a refund that had failed is said to be done")
    if await given_instead(db, refund) >= refund.amount:
        return Applied(KNOWN, reason="it has been given into the wallet since it failed")
    if refund.amount > payment.refundable:
        return await no_room(db, payment, refund.amount)
    await posting.hand_over(db, payment, refund)
    await end(db, payment, refund, RefundStatus.RETURNED, fact)
    return Applied(DONE)


async def given_instead(db: AsyncSession, refund: Refund) -> Decimal:
    """What has gone into the wallet since this refund failed."""
    query = select(func.coalesce(func.sum(Refund.amount), 0)).where(
        Refund.payment_id == refund.payment_id,
        Refund.destination == Destination.WALLET,
        Refund.status == RefundStatus.COMPLETED,
        Refund.settled_at >= refund.settled_at,
    )
    return (await db.scalars(query)).one()


async def find(db: AsyncSession, payment: Payment, fact: Fact) -> Refund | None:
    """By our own id, which the provider tells back, or by the provider's."""
    query = select(Refund).where(Refund.payment_id == payment.id)
    rows = (await db.scalars(query.execution_options(populate_existing=True))).all()
    for row in rows:
        if fact.refund_id == str(row.id) or row.provider_refund_id == fact.object_id:
            return row
    return None


async def made_elsewhere(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    """Somebody has refunded at the provider's own page: it is so, whatever the wallet has."""
    if fact.refund_id:
        return Applied(NOT_HERE, reason="the refund is not here")
    if not payment.captured:
        return Applied(NOT_HERE, reason="the payment is not known to be captured yet")
    if await is_one_unanswered(db, payment):
        return Applied(NOT_HERE, reason="it may be a refund of ours that is not answered yet")
    amount = fact.amount or Decimal(0)
    if amount <= 0 or fact.currency not in (None, payment.currency):
        return Applied(DIFFERS, reason=f"{amount} {fact.currency} is said to have gone back")
    if fact.is_reversal and await waits_for_dispute(db, payment, fact):
        return Applied(NOT_HERE, reason="it may be the money of a dispute that is not decided yet")
    is_twice = fact.is_reversal or amount > payment.refundable
    if is_twice and not payment.disputed and amount <= await lost(db, payment):
        return Applied(KNOWN, reason="it is the money that a dispute has taken already")
    if amount > payment.refundable:
        return await no_room(db, payment, amount)
    await record_gone(db, payment, amount, fact, taken=fact.is_reversal)
    return Applied(DONE)


async def waits_for_dispute(db: AsyncSession, payment: Payment, fact: Fact) -> bool:
    """For one that is open; or that is told a moment after the money went, if none is known."""
    if payment.disputed:
        return True
    known = await db.scalar(select(Dispute.id).filter_by(payment_id=payment.id).limit(1))
    is_new = fact.happened_at is not None and fact.happened_at > datetime.now(UTC) - TOLD_WITHIN
    return known is None and is_new


async def lost(db: AsyncSession, payment: Payment) -> Decimal:
    """What disputes have taken of the payment for good. No provider gives back more than had come:
    what goes back beside that and has no room is the same money, told once more."""
    query = select(func.coalesce(func.sum(Dispute.counted), 0))
    query = query.filter_by(payment_id=payment.id, status=DisputeStatus.LOST)
    return (await db.scalars(query)).one()


async def no_room(db: AsyncSession, payment: Payment, amount: Decimal) -> Applied:
    """More than is left went back. What is undecided may leave room for it; else staff look."""
    undecided = payment.disputed or await is_one_unanswered(db, payment)
    reason = f"{amount} went back, {payment.refundable} {payment.currency} was left"
    return Applied(NOT_HERE if undecided else DIFFERS, reason=reason)


async def is_one_unanswered(db: AsyncSession, payment: Payment) -> bool:
    """We have asked, and do not know the provider's name for it yet."""
    query = select(Refund.id).filter_by(
        payment_id=payment.id, status=RefundStatus.PENDING, provider_refund_id=None
    )
    return await db.scalar(query.limit(1)) is not None


async def record_gone(
    db: AsyncSession,
    payment: Payment,
    amount: Decimal,
    fact: Fact,
    *,
    taken: bool,
    given: Sequence[Refund] = (),
) -> Refund:
    """Writes down money that has gone back already, given by somebody at their provider's page or
    taken from us; and takes it out of the wallet as far as it is there."""
    refund = Refund(
        payment_id=payment.id,
        amount=amount,
        requested_by=fact.provider,
        reason=(fact.reason or f"at {fact.provider}")[:500],
        taken=taken,
        provider_refund_id=fact.object_id,
    )
    db.add(refund)
    await db.flush()
    await db.refresh(refund)
    await posting.take_for_refund(db, payment, refund, given)
    await end(db, payment, refund, RefundStatus.COMPLETED, fact)
    return refund


async def bounced(db: AsyncSession, payment: Payment, fact: Fact) -> bool:
    """None of its money ever came: what is here of it is gone, and what we had given back of it is
    fetched back. Whether there was any."""
    query = select(Refund).filter_by(
        payment_id=payment.id, status=RefundStatus.COMPLETED, taken=False
    )
    given, left = (await db.scalars(query.order_by(Refund.id))).all(), payment.refundable
    for each in given:
        each.status, each.failure_reason = RefundStatus.RETURNED, fact.reason
    if left > 0:
        await record_gone(db, payment, left, fact, taken=True, given=given)
    elif given:
        await posting.take_for_refund(db, payment, None, given)
    return left > 0 or bool(given)


async def failed(db: AsyncSession, payment: Payment, refund: Refund | None, fact: Fact) -> Applied:
    if refund is None:
        return Applied(NOT_HERE, reason="the refund is not here")
    if refund.status in (RefundStatus.FAILED, RefundStatus.RETURNED):
        return Applied(KNOWN)
    was_done = refund.status == RefundStatus.COMPLETED
    await posting.bring_back(db, payment, refund, was_done=was_done)
    await end(db, payment, refund, RefundStatus.RETURNED if was_done else RefundStatus.FAILED, fact)
    return Applied(DONE)


async def end(
    db: AsyncSession, payment: Payment, refund: Refund, status: RefundStatus, fact: Fact
) -> None:
    """The trigger of refunds counts it in the payment."""
    refund.status, refund.settled_at = status, func.now()
    gone = status != RefundStatus.COMPLETED
    refund.provider_state = ProviderState.GONE if gone else ProviderState.DONE
    if gone:
        refund.failure_reason = (fact.reason or fact.code or "the provider refused")[:1000]
    if not refund.provider_refund_id and fact.object_id != str(refund.id):
        refund.provider_refund_id = fact.object_id
    await db.flush()
    await db.refresh(refund)
    await db.refresh(payment)
    if status == RefundStatus.COMPLETED:
        await events.publish(db, PaymentRefunded.model_validate(about(payment)))
    else:
        facts = {**about(payment), "refund_id": refund.id, "refund_status": status}
        await events.publish(db, PaymentRefundFailed.model_validate(facts))
