"""Asks a provider, always between two short transactions: first that we ask, then what it said.

Before the call it stands in the row that nobody knows how it ended; so a crash, a time-out or a
lost answer leaves a payment that the sweeper asks about again, by the same key. The same holds for
what is given back.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import User
from bursar.payments import queries, settling
from bursar.payments.models import (
    Payment,
    PaymentMethod,
    ProviderCustomer,
    ProviderState,
    Refund,
    RefundStatus,
    Status,
)
from bursar.payments.providers import Answer, Charge, Fact, Provider, Return, Unknown, What
from bursar.payments.providers.registry import MANUAL, Providers

log = logging.getLogger(__name__)

Call = Callable[[Provider, Charge], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Desk:
    """Where providers are asked from: how the worker's transactions are opened, who is asked."""

    transaction: Callable[[], AbstractAsyncContextManager[AsyncSession]]
    providers: Providers


async def create(desk: Desk, payment_id: UUID) -> None:
    """Begins the payment at its provider, or finds out what has become of that."""
    await ask(desk, payment_id, lambda provider, charge: provider.create(charge))


async def complete(desk: Desk, payment_id: UUID) -> None:
    """Takes what the customer has approved, and learns how the payment stands. Where no answer
    comes, the sweeper goes on."""
    await ask(desk, payment_id, lambda provider, charge: provider.complete(charge))


async def learn(desk: Desk, payment_id: UUID) -> None:
    """What a webhook did not tell of a complete payment: its fee, a method that was kept."""
    async with desk.transaction() as db:
        payment = await queries.payment(db, payment_id)
        charge = await charge_of(db, payment)
        provider = desk.providers.of(payment.provider)
    answer = await provider.look(charge)
    async with desk.transaction() as db:
        await settling.hear(db, payment_id, answer)


async def cancel(desk: Desk, payment_id: UUID) -> None:
    """Ends a payment that nobody has paid; if somebody has, it is completed."""

    async def end(provider: Provider, charge: Charge) -> Answer:
        return await provider.cancel(charge)

    if not await ask(desk, payment_id, end):
        await ask(desk, payment_id, end)


async def ask(desk: Desk, payment_id: UUID, call: Call) -> bool:
    """One call. What the provider may not know yet is begun there first, and False answered."""
    async with desk.transaction() as db:
        payment = await claim(db, payment_id)
        if payment is None:
            return True
        charge = await charge_of(db, payment)
        provider = desk.providers.of(payment.provider)
        is_known = payment.provider_state == ProviderState.WAITING or any(
            name in charge.ids for name in settling.ORDERS
        )
    try:
        answer = await (call(provider, charge) if is_known else provider.create(charge))
    except Unknown as why:
        log.warning("%s did not answer about the payment %s: %s", provider.name, payment_id, why)
        return True
    async with desk.transaction() as db:
        await settling.hear(db, payment_id, answer)
    return is_known


async def claim(db: AsyncSession, payment_id: UUID) -> Payment | None:
    """Writes down that we ask; None where nothing can be asked any more.

    What is answered is the payment as it was before, so that it shows whether it is known there.
    """
    query = select(Payment).where(Payment.id == payment_id).with_for_update(key_share=True)
    payment: Payment | None = await db.scalar(query.execution_options(populate_existing=True))
    if payment is None or payment.status != Status.PENDING or payment.provider == MANUAL:
        return None
    asked = {
        "asked_at": func.now(),
        "attempts": Payment.attempts + 1,
        "provider_state": ProviderState.UNKNOWN,
    }
    row = update(Payment).where(Payment.id == payment_id).values(**asked)
    await db.execute(row.execution_options(synchronize_session=False))
    return payment


async def charge_of(db: AsyncSession, payment: Payment) -> Charge:
    """What the provider is asked, all of it from what was written down before."""
    email = await db.scalar(select(User.email).where(User.id == payment.user_id))
    known = select(ProviderCustomer.customer_id).filter_by(
        user_id=payment.user_id, provider=payment.provider
    )
    own = select(PaymentMethod.token).filter_by(id=payment.method_id, user_id=payment.user_id)
    token = await db.scalar(own)
    return Charge(
        key=f"payment-{payment.id}",
        payment_id=payment.id,
        amount=payment.amount,
        currency=payment.currency,
        description=payment.description or "Payment",
        return_url=f"{db.info['settings'].public_url}/payments/{payment.id}",
        ids=ids_of(payment),
        customer_id=await db.scalar(known),
        customer_email=email,
        method=token,
        off_session=payment.automatic,
        save_method=payment.save_method,
        begun_at=payment.created_at,
    )


def ids_of(payment: Payment) -> dict[str, str]:
    names = settling.FILLED
    return {name: value for name in names if (value := getattr(payment, name)) is not None}


async def give_back(desk: Desk, refund_id: UUID) -> None:
    """Asks the provider for a refund that was written down, or how one stands."""
    async with desk.transaction() as db:
        claimed = await claim_refund(db, refund_id)
        if claimed is None:
            return
        refund, payment = claimed
        back = Return(
            key=f"refund-{refund.id}",
            refund_id=refund.id,
            payment_id=payment.id,
            amount=refund.amount,
            currency=payment.currency,
            is_whole=refund.amount == payment.captured,
            ids=ids_of(payment),
            provider_refund_id=refund.provider_refund_id,
            reason=refund.reason,
            begun_at=refund.created_at,
        )
        provider = desk.providers.of(payment.provider)
        known = refund.provider_state == ProviderState.WAITING
    try:
        answer = await (provider.look_at_refund(back) if known else provider.refund(back))
    except Unknown as why:
        log.warning("%s did not answer about the refund %s: %s", provider.name, refund_id, why)
        return
    async with desk.transaction() as db:
        await hear_refund(db, refund_id, provider.name, answer)


async def claim_refund(db: AsyncSession, refund_id: UUID) -> tuple[Refund, Payment] | None:
    """Likewise for a refund."""
    query = select(Refund).where(Refund.id == refund_id).with_for_update(key_share=True)
    refund = await db.scalar(query)
    if refund is None or refund.status != RefundStatus.PENDING:
        return None
    asked: dict[str, Any] = {"asked_at": func.now(), "attempts": Refund.attempts + 1}
    if refund.provider_state != ProviderState.WAITING:
        asked["provider_state"] = ProviderState.UNKNOWN
    row = update(Refund).where(Refund.id == refund_id).values(**asked)
    await db.execute(row.execution_options(synchronize_session=False))
    payment = await db.get(Payment, refund.payment_id)
    return (refund, payment) if payment and payment.provider != MANUAL else None


async def hear_refund(db: AsyncSession, refund_id: UUID, provider: str, answer: Answer) -> None:
    """What was said about a refund. The payment is locked first, as everywhere."""
    refund = await db.get(Refund, refund_id)
    if refund is None:
        return
    reference = {"id": str(refund.payment_id)}
    await settling.find(db, provider, reference)
    refund = await db.get(Refund, refund_id, populate_existing=True)
    if refund is None or refund.status != RefundStatus.PENDING:
        return
    if name := answer.ids.get("provider_refund_id"):
        refund.provider_refund_id = name
    refund.provider_state = answer.state
    await db.flush()
    for fact in answer.facts:
        await settling.apply(db, fact)
    if answer.state == ProviderState.GONE:
        gone = Fact(
            What.REFUND_FAILED,
            provider,
            refund.provider_refund_id or str(refund.id),
            reference,
            refund_id=str(refund.id),
            code=answer.code,
            reason=answer.reason,
        )
        await settling.apply(db, gone)
