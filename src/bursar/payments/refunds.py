"""Refunds: asked for by staff or a job, bounded by what was paid, each once.

In one transaction, as the worker, the refund is written down, the payment counts it, and the money
is set aside in the ledger: of two that race for the same money one is refused, and what is on its
way back cannot be spent meanwhile. Then the provider is asked (payments/asking.py).
"""

import logging
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import events
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.idempotency import KeyReused
from bursar.payments import currencies, posting, queries
from bursar.payments.happenings import PaymentRefunded, about
from bursar.payments.models import (
    Destination,
    Dispute,
    DisputeStatus,
    Payment,
    ProviderState,
    Refund,
    RefundStatus,
)
from bursar.payments.providers.registry import MANUAL
from bursar.payments.purposes import TOP_UP

TOLD_WITHIN = timedelta(hours=1)  # what belongs together, by webhooks of their own

log = logging.getLogger(__name__)


class NotCaptured(BursarError, status=409, code="payments.not_captured"):
    """No money has come for this payment, so none can go back."""


class Disputed(BursarError, status=409, code="payments.disputed"):
    """The payer contests this payment at the provider; it cannot be refunded until that is
    decided."""


class RefundTooLarge(BursarError, status=422, code="payments.refund_too_large"):
    """More than is left of the payment; `left` says how much is."""


class NotToWallet(BursarError, status=422, code="payments.not_to_wallet"):
    """What was paid into the wallet goes back the way it came, and a wallet needs its customer."""


async def request(
    db: AsyncSession,
    payment_id: UUID,
    amount: Decimal | None = None,
    *,
    destination: Destination = Destination.PROVIDER,
    reason: str | None = None,
    key: str | None = None,
    fingerprint: bytes | None = None,
) -> tuple[Refund, bool]:
    """A part, or all that is left; and whether this key had asked for it before."""
    payment = await queries.payment(db, payment_id, lock=True)
    if key and (before := await asked_before(db, payment, key, fingerprint)):
        return before, True
    wanted = await allowed(db, payment, amount, destination)
    origin = db.info.get("origin")
    refund = Refund(
        payment_id=payment.id,
        amount=wanted,
        destination=destination,
        reason=reason,
        requested_by=origin.actor.name if origin else "system",
        idempotency_key=key,
        fingerprint=fingerprint,
    )
    db.add(refund)
    await db.flush()
    await db.refresh(refund)
    if destination == Destination.WALLET:
        await posting.give_to_wallet(db, payment, refund)
        await finish(db, payment, refund)
    elif payment.provider == MANUAL:
        await posting.pay_out(db, payment, refund)
        await finish(db, payment, refund)
    else:
        await posting.set_aside(db, payment, refund)
    after = {"amount": wanted, "destination": destination, "reason": reason, "refund_id": refund.id}
    await audit.record(db, "payments.refund_asked_for", "payment", payment.id, after=after)
    return refund, False


async def asked_before(
    db: AsyncSession, payment: Payment, key: str, fingerprint: bytes | None
) -> Refund | None:
    query = select(Refund).filter_by(payment_id=payment.id, idempotency_key=key)
    found: Refund | None = await db.scalar(query)
    if found is not None and found.fingerprint != fingerprint:
        raise KeyReused.now()
    if found is not None:
        audit.nothing_changed(db)
    return found


async def allowed(
    db: AsyncSession, payment: Payment, amount: Decimal | None, destination: Destination
) -> Decimal:
    """How much goes back, or why nothing does; the payment is locked."""
    if not payment.captured:
        raise NotCaptured("No money has come for this payment.")
    if payment.disputed:
        raise Disputed("The payer contests this payment; it cannot be refunded until that is over.")
    if destination == Destination.WALLET and (payment.purpose == TOP_UP or not payment.user_id):
        raise NotToWallet("What was paid into the wallet goes back the way it came.")
    left = payment.refundable
    if amount is None and left > 0:
        return left
    if amount is None or amount > left:
        raise RefundTooLarge(
            f"Of this payment {left} {payment.currency} is left.",
            left=left,
            currency=payment.currency,
            errors=[
                {"pointer": "/amount", "detail": f"At most {left}.", "code": RefundTooLarge.code}
            ],
        )
    if amount <= 0:
        raise InvalidInput.at("/amount", "An amount is more than zero.", "money.not_positive")
    return await currencies.check(db, amount, payment.currency)


async def finish(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """For what no provider has to do: the money is where it belongs already."""
    refund.status, refund.settled_at = RefundStatus.COMPLETED, func.now()
    refund.provider_state = ProviderState.DONE
    await db.flush()
    await db.refresh(refund)
    await db.refresh(payment)
    await events.publish(db, PaymentRefunded.model_validate(about(payment)))


async def give_back(
    db: AsyncSession,
    payment_id: UUID,
    amount: Decimal | None = None,
    *,
    reason: str,
) -> Refund | None:
    """For a job, which gives back all that is left, or so much, the way it came. What came as cash
    or by check goes into the wallet, for a job has no hands to pay it out; and so does what the
    provider has refused, who is not asked again. Nothing goes back while it is contested, and
    where nobody is left to give it to."""
    payment = await queries.payment(db, payment_id, lock=True)
    wanted = payment.refundable if amount is None else amount
    if wanted <= 0 or payment.disputed:
        return None
    is_refused = await db.scalar(refused(payment.id).limit(1)) is not None
    if is_refused and await is_contested(db, payment):
        return None
    to_wallet = payment.provider == MANUAL or is_refused
    much = f"{wanted} {payment.currency}"
    if to_wallet and payment.user_id is None:
        log.warning("%s of the payment %s is nobody's: for staff to refund", much, payment.id)
        return None
    destination = Destination.WALLET if to_wallet else Destination.PROVIDER
    try:
        async with db.begin_nested():
            asked, _ = await request(db, payment.id, wanted, destination=destination, reason=reason)
    except posting.WALLET_SHUT:
        log.warning("%s of the payment %s has no wallet to go to: for staff", much, payment.id)
        return None
    return asked


def refused(payment_id: Any) -> Select[UUID]:
    """What its provider could not give back, or the customer's bank sent back. Not if a dispute was
    won since: no provider gives back what is contested."""
    won = select(Dispute.id).where(
        Dispute.payment_id == Refund.payment_id,
        Dispute.status == DisputeStatus.WON,
        Dispute.closed_at > Refund.settled_at,
    )
    return select(Refund.id).where(
        Refund.payment_id == payment_id,
        Refund.destination == Destination.PROVIDER,
        Refund.status.in_((RefundStatus.FAILED, RefundStatus.RETURNED)),
        ~Refund.taken,
        ~won.exists(),
    )


def refused_just_now(payment_id: Any) -> Select[UUID]:
    return refused(payment_id).where(Refund.settled_at > func.now() - TOLD_WITHIN)


async def was_refused_just_now(db: AsyncSession, payment_id: UUID) -> bool:
    return await db.scalar(refused_just_now(payment_id).limit(1)) is not None


async def is_contested(db: AsyncSession, payment: Payment) -> bool:
    """Also where nothing of it could be counted, for all was on its way back: its provider takes
    that money all the same, or has taken it."""
    query = select(Dispute.id).where(
        Dispute.payment_id == payment.id,
        Dispute.status != DisputeStatus.WON,
        Dispute.counted < Dispute.amount,
    )
    return await db.scalar(query.limit(1)) is not None
