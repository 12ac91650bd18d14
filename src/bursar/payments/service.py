"""The verbs of payments: ask for one; confirm, bounce or give up one that people carry out.

What was asked for is written as whoever asks. What comes of it is written by the worker, in whose
transactions `confirm` and `bounce` run; the origin says whose deed it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as customers
from bursar.audit import service as audit
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.idempotency import KeyInFlight, KeyReused
from bursar.payments import currencies, purposes, queries, refunding, settling
from bursar.payments.applied import DIFFERS, KNOWN
from bursar.payments.models import Method, Payment, PaymentMethod, ProviderState, Status
from bursar.payments.providers import Fact, What
from bursar.payments.providers.registry import MANUAL, Providers
from bursar.payments.purposes import TOP_UP
from bursar.payments.rules import TOP_UP_LEAST, TOP_UP_MOST
from bursar.system import queries as system


@dataclass(frozen=True, slots=True)
class NewPayment:
    """What somebody asks for."""

    user_id: UUID
    method: Method
    amount: Decimal | None = None
    currency: str | None = None
    subjects: Mapping[str, UUID] = field(default_factory=dict)
    description: str | None = None
    reference: str | None = None
    method_id: UUID | None = None
    save_method: bool = False
    metadata: dict[str, Any] | None = None
    key: str | None = None
    fingerprint: bytes | None = None
    by_staff: bool = False


class TopUpLimit(BursarError, status=422, code="payments.top_up_limit"):
    """Less or more than may be paid into a wallet at once; `least` and `most` say the limits."""


class UnknownMethod(BursarError, status=404, code="payments.unknown_method"):
    """There is no such saved payment method, or it is not yours."""


@dataclass(frozen=True, slots=True)
class Intended:
    """The payment that was asked for, and whether it had been asked for before by the same key."""

    payment: Payment
    replayed: bool = False


async def intend(db: AsyncSession, providers: Providers, new: NewPayment) -> Intended:
    """Writes down what is to be paid, once for its key; nobody outside is asked yet."""
    if before := await asked_before(db, new):
        return Intended(before, replayed=True)
    provider = providers.name_for(new.method)
    if new.by_staff:
        await customers.user(db, new.user_id)
    purpose, due = await purposes.check(db, new.subjects, new.user_id, new.amount, new.currency)
    currency = due.currency if due else new.currency or "USD"
    wanted = due.amount if due else new.amount
    if wanted is None:
        raise InvalidInput.at("/amount", "Say how much is to be paid.", "missing")
    amount = await currencies.check(db, wanted, currency)
    if purpose == TOP_UP and not new.by_staff:
        await check_limits(db, amount)
    if new.method_id is not None:
        await check_method(db, new, provider)
    row = insert(Payment).values(
        user_id=new.user_id,
        amount=amount,
        currency=currency,
        payment_method=new.method,
        purpose=purpose,
        **new.subjects,
        description=new.description or (due.description if due else None),
        reference=new.reference,
        provider=provider,
        test_mode=provider != MANUAL and providers.of(provider).is_test,
        method_id=new.method_id,
        save_method=new.save_method and provider != MANUAL,
        about=new.metadata,
        idempotency_key=new.key,
        fingerprint=new.fingerprint,
        change_reason="asked for",
        changed_by=db.info["origin"].actor.name,
    )
    payment_id = await db.scalar(row.on_conflict_do_nothing().returning(Payment.id))
    if payment_id is None:  # the same key, a moment ago
        before = await asked_before(db, new)
        if before is None:
            raise in_flight()
        return Intended(before, replayed=True)
    after = {"amount": amount, "currency": currency, "method": new.method, "user_id": new.user_id}
    await audit.record(db, "payments.asked_for", "payment", payment_id, after=after)
    return Intended(await queries.payment(db, payment_id))


async def asked_before(db: AsyncSession, new: NewPayment) -> Payment | None:
    """The payment of this key; the same key with something else is refused."""
    if new.key is None:
        return None
    query = select(Payment).filter_by(user_id=new.user_id, idempotency_key=new.key)
    found: Payment | None = await db.scalar(query)
    if found is None:
        return None
    if found.fingerprint != new.fingerprint:
        raise KeyReused.now()
    if found.provider != MANUAL and found.attempts < 2 and is_being_asked(found):
        raise in_flight()
    audit.nothing_changed(db)
    return found


def is_being_asked(payment: Payment) -> bool:
    return payment.provider_state in (ProviderState.INTENDED, ProviderState.UNKNOWN)


def in_flight() -> KeyInFlight:
    return KeyInFlight(
        "The first request with this key is still at work; ask again in a moment.",
        headers={"Retry-After": "1"},
    )


async def check_limits(db: AsyncSession, amount: Decimal) -> None:
    least, most = await system.value(db, TOP_UP_LEAST), await system.value(db, TOP_UP_MOST)
    if not least <= amount <= most:
        detail = f"Between {least} and {most} may be paid in at once."
        error = {"pointer": "/amount", "detail": detail, "code": TopUpLimit.code}
        raise TopUpLimit(detail, errors=[error], least=least, most=most)


async def check_method(db: AsyncSession, new: NewPayment, provider: str) -> None:
    saved = await db.get(PaymentMethod, new.method_id)
    if saved is None or saved.user_id != new.user_id or saved.provider != provider:
        raise UnknownMethod("There is no such saved payment method.")


class NotByHand(BursarError, status=409, code="payments.not_by_hand"):
    """Its provider says what becomes of this payment; only cash, checks and bank transfers are
    confirmed by people."""


class AmountDiffers(BursarError, status=422, code="payments.amount_differs"):
    """More came than was asked for; record the rest as a payment of its own."""


async def confirm(
    db: AsyncSession, payment_id: UUID, *, amount: Decimal | None, reason: str | None
) -> Payment:
    """The money is here: staff have counted it. As the worker, on behalf of staff."""
    payment = await by_hand(db, payment_id)
    received = amount if amount is not None else payment.amount
    received = await currencies.check(db, received, payment.currency)
    said = reason or f"{payment.payment_method} received"
    applied = await settling.apply(
        db, told(payment, What.CAPTURED, str(payment.id), received, said)
    )
    if applied.what == DIFFERS:
        raise AmountDiffers(
            f"{payment.amount} {payment.currency} was asked for; record the rest as a payment of"
            " its own.",
            errors=[
                {"pointer": "/amount", "detail": "More than was asked for.", "code": "differs"}
            ],
        )
    if applied.what == KNOWN:
        audit.nothing_changed(db)
        return payment
    after = {"amount": received, "reason": said}
    await audit.record(db, "payments.confirmed", "payment", payment.id, after=after)
    return payment


async def bounce(db: AsyncSession, payment_id: UUID, *, reason: str) -> Payment:
    """The check was returned, the transfer never came. What was credited goes out of the wallet
    again, as far as it is there; so does what we have given back of it."""
    payment = await by_hand(db, payment_id)
    if payment.status == Status.PENDING:
        await settling.apply(db, told(payment, What.CANCELLED, str(payment.id), None, reason))
    else:
        fact = told(payment, What.REFUNDED, f"bounce:{payment.id}", None, reason)
        if not await refunding.bounced(db, payment, fact):
            audit.nothing_changed(db)
            return payment
    await db.refresh(payment)
    await audit.record(db, "payments.bounced", "payment", payment.id, after={"reason": reason})
    return payment


async def give_up(db: AsyncSession, payment_id: UUID) -> bool:
    """Somebody does not want to pay any more. Whether its provider is to be told; cash, a check and
    a transfer have none."""
    payment = await queries.payment(db, payment_id, lock=True)
    if payment.status != Status.PENDING:
        audit.nothing_changed(db)
        return False
    if is_by_hand := payment.provider == MANUAL:
        await settling.apply(db, told(payment, What.CANCELLED, str(payment.id), None, "given up"))
    await audit.record(db, "payments.given_up", "payment", payment.id)
    return not is_by_hand


async def by_hand(db: AsyncSession, payment_id: UUID) -> Payment:
    payment = await queries.payment(db, payment_id, lock=True)
    if payment.provider != MANUAL:
        raise NotByHand(f"What becomes of this payment, {payment.provider} says.")
    return payment


def told(payment: Payment, what: What, object_id: str, amount: Decimal | None, reason: str) -> Fact:
    return Fact(
        what,
        MANUAL,
        object_id,
        {"id": str(payment.id)},
        amount=amount,
        currency=payment.currency,
        reason=reason,
    )
