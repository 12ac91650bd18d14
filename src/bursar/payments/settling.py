"""Gives each fact its one effect, whoever tells it, how often, and in whatever order.

    applied = await settling.apply(db, fact)   # in a transaction of the worker

A webhook, the answer to our own call, a sweep, a member of staff who counts the cash: all of them
end here. The payment is locked; what it says already is not done again; the ledger's key is the
fact's name. What cannot be so (more than was asked for, another currency) changes nothing and says
why.
"""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events
from bursar.payments import disputes, posting, refunding
from bursar.payments.applied import DIFFERS, DONE, KNOWN, NOT_HERE, Applied
from bursar.payments.happenings import PaymentCompleted, PaymentFailed, about
from bursar.payments.models import (
    Payment,
    PaymentMethod,
    ProviderCustomer,
    ProviderState,
    Status,
)
from bursar.payments.providers import Answer, Fact, What

REFERENCES = {
    "stripe_payment_intent_id": Payment.stripe_payment_intent_id,
    "stripe_charge_id": Payment.stripe_charge_id,
    "paypal_order_id": Payment.paypal_order_id,
    "paypal_payment_id": Payment.paypal_payment_id,
}
FILLED = (*REFERENCES, "stripe_customer_id", "paypal_payer_id")
ORDERS = ("stripe_payment_intent_id", "paypal_order_id")  # one for each payment, for ever
TAKINGS = ("stripe_charge_id", "paypal_payment_id")  # one for each attempt; the one that took stays


async def apply(db: AsyncSession, fact: Fact) -> Applied:
    """As the worker. What it answers says whether the fact was new."""
    payment = await find(db, fact.provider, fact.payment)
    if payment is None:
        return Applied(NOT_HERE, reason="the payment is not here")
    if other := another_order(payment, fact):
        return other
    fill_in(payment, fact.ids)
    match fact.what:
        case What.APPROVED:
            effect = approved(payment)
        case What.CAPTURED:
            effect = await captured(db, payment, fact)
        case What.DECLINED:
            effect = declined(payment, fact)
        case What.CANCELLED:
            effect = await cancelled(db, payment, fact)
        case What.METHOD_SAVED:
            effect = await keep_method(db, payment, fact)
        case What.REFUNDED | What.REFUND_FAILED:
            effect = await refunding.apply(db, payment, fact)
        case What.DISPUTE_OPENED | What.DISPUTE_WON | What.DISPUTE_LOST:
            effect = await disputes.apply(db, payment, fact)
    await db.flush()
    return Applied(effect.what, payment.id, effect.reason)


async def find(db: AsyncSession, provider: str, references: Mapping[str, str]) -> Payment | None:
    """The payment that a provider means, locked; by its ids, or by ours that it has kept for us."""
    known = [
        column == references[name] for name, column in REFERENCES.items() if name in references
    ]
    if own := uuid(references.get("id")):
        known.append(Payment.id == own)
    if not known:
        return None
    query = select(Payment).where(Payment.provider == provider, or_(*known))
    query = query.order_by(Payment.created_at).limit(1).with_for_update(key_share=True)
    return await db.scalar(query.execution_options(populate_existing=True))


def uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def another_order(payment: Payment, fact: Fact) -> Applied | None:
    """A second order that was made for the same payment: money that came by it is for staff to
    send back, and what else becomes of it is nothing to the payment."""
    for name in ORDERS:
        told, ours = {**fact.payment, **fact.ids}.get(name), getattr(payment, name)
        if told and ours and told != ours:
            reason = f"it is about {told}, and the payment's own is {ours}"
            is_nothing = fact.what in (What.DECLINED, What.CANCELLED)
            return Applied(KNOWN if is_nothing else DIFFERS, payment.id, reason)
    return None


def fill_in(payment: Payment, ids: Mapping[str, str]) -> None:
    """The provider's names for it; the first one stays."""
    for name in FILLED:
        if ids.get(name) and getattr(payment, name) is None:
            setattr(payment, name, ids[name])


def said_by(db: AsyncSession, fact: Fact) -> str:
    origin = db.info.get("origin")
    return origin.actor.name if origin else fact.provider


def approved(payment: Payment) -> Applied:
    """The payer may have closed the page since, so the sweeper takes it."""
    if payment.status != Status.PENDING or payment.provider_state != ProviderState.WAITING:
        return Applied(KNOWN)
    payment.provider_state, payment.attempts, payment.asked_at = ProviderState.UNKNOWN, 0, None
    return Applied(DONE)


async def captured(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    if payment.captured:
        return await fee_told_late(db, payment, fact)
    amount = payment.amount if fact.amount is None else fact.amount
    currency = fact.currency or payment.currency
    if currency != payment.currency or not 0 < amount <= payment.amount:
        came = f"{amount} {currency} came, {payment.amount} {payment.currency} was asked for"
        payment.failure_code, payment.failure_reason = DIFFERS, came  # for staff to see
        return Applied(DIFFERS, payment.id, came)
    for name in TAKINGS:
        setattr(payment, name, fact.ids.get(name) or getattr(payment, name))
    key = f"{fact.provider}:{fact.object_id}"
    payment.unclaimed = not await posting.receive(db, payment, amount, fact.fee, key)
    payment.captured, payment.fee = amount, fact.fee or payment.fee
    payment.provider_state, payment.next_action = ProviderState.DONE, None
    payment.failure_code = payment.failure_reason = None
    payment.change_reason = fact.reason or f"{fact.provider} captured"
    payment.changed_by = said_by(db, fact)
    payment.change_data = dict(fact.data) if fact.data else None
    if fact.happened_at:
        payment.payment_date = fact.happened_at
    await db.flush()
    await db.refresh(payment)
    await events.publish(db, PaymentCompleted.model_validate(about(payment)))
    return Applied(DONE)


async def fee_told_late(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    """Some providers know what they keep only a moment after the money has come."""
    if not fact.fee or payment.fee:
        return Applied(KNOWN)
    key = f"{fact.provider}:{fact.object_id}"
    await posting.pay_fee(db, payment, fact.fee, key)
    payment.fee = fact.fee
    return Applied(DONE)


def declined(payment: Payment, fact: Fact) -> Applied:
    """One attempt; the payment stays open, for the customer may try another way."""
    if payment.captured or payment.status == Status.FAILED:
        return Applied(KNOWN)
    told = fact.code, (fact.reason or "")[:1000] or None
    if (payment.failure_code, payment.failure_reason) == told:
        return Applied(KNOWN)
    payment.failure_code, payment.failure_reason = told
    return Applied(DONE)


async def cancelled(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    if payment.captured or payment.status == Status.FAILED:
        return Applied(KNOWN)
    payment.status, payment.provider_state = Status.FAILED, ProviderState.GONE
    payment.next_action = None
    payment.failure_code = fact.code or payment.failure_code
    payment.failure_reason = (fact.reason or payment.failure_reason or "")[:1000] or None
    payment.change_reason = (fact.reason or f"{fact.provider} cancelled")[:500]
    payment.changed_by = said_by(db, fact)
    payment.change_data = dict(fact.data) if fact.data else None
    await db.flush()
    await db.refresh(payment)
    await events.publish(db, PaymentFailed.model_validate(about(payment)))
    return Applied(DONE)


async def keep_method(db: AsyncSession, payment: Payment, fact: Fact) -> Applied:
    """A way to pay that the customer wants to use again; the first one is the default."""
    if payment.user_id is None or fact.method is None:
        return Applied(KNOWN)
    if fact.customer_id:
        await keep_customer(db, payment.user_id, fact.provider, fact.customer_id)
    saved = fact.method
    others = select(PaymentMethod.id).filter_by(user_id=payment.user_id, is_default=True).exists()
    row = insert(PaymentMethod).values(
        user_id=payment.user_id,
        provider=fact.provider,
        token=saved.token,
        kind=saved.kind,
        brand=saved.brand,
        last_four=saved.last_four,
        exp_month=saved.exp_month,
        exp_year=saved.exp_year,
        test_mode=payment.test_mode,
        is_default=select(~others).scalar_subquery(),
    )
    row = row.on_conflict_do_nothing(index_elements=["provider", "token"])
    kept = await db.scalar(row.returning(PaymentMethod.id))
    if kept is not None and payment.method_id is None:
        payment.method_id = kept
    return Applied(DONE if kept else KNOWN)


async def keep_customer(db: AsyncSession, user_id: UUID, provider: str, customer_id: str) -> None:
    row = insert(ProviderCustomer).values(
        user_id=user_id, provider=provider, customer_id=customer_id
    )
    await db.execute(row.on_conflict_do_nothing())


async def hear(db: AsyncSession, payment_id: UUID, answer: Answer) -> Payment:
    """What a provider has answered to our own call: where it stands, and its facts."""
    query = select(Payment).where(Payment.id == payment_id).with_for_update(key_share=True)
    payment = (await db.scalars(query.execution_options(populate_existing=True))).one()
    fill_in(payment, answer.ids)
    if answer.customer_id and payment.user_id:
        await keep_customer(db, payment.user_id, payment.provider, answer.customer_id)
    if not payment.captured and payment.status == Status.PENDING:
        payment.provider_state = answer.state
        payment.next_action = dict(answer.next_action) if answer.next_action else None
        payment.failure_code, payment.failure_reason = answer.code, answer.reason
        if answer.state != ProviderState.UNKNOWN:
            payment.attempts = 1  # it was heard of: the next doubt is asked about soon again
    await db.flush()
    for fact in answer.facts:
        await apply(db, fact)
    if answer.state == ProviderState.GONE:
        over = Fact(
            What.CANCELLED,
            payment.provider,
            str(payment.id),
            {"id": str(payment.id)},
            code=answer.code,
            reason=answer.reason,
        )
        await cancelled(db, payment, over)
    await db.refresh(payment)
    return payment
