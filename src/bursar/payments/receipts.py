"""One receipt for each payment that money came for: numbered once, mailed once, written anew.

A number is given when the payment completes, the next of its year, without a gap: whoever reads the
books of a year sees by the numbers alone that no receipt is missing. What was paid in test mode is
counted apart. What stands on a receipt is read when it is written, so that refunds are on it; who
we were then is kept with its number.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import User
from bursar.core.errors import BursarError
from bursar.payments import queries
from bursar.payments.around_models import Receipt, Series
from bursar.payments.currencies import exactly
from bursar.payments.models import (
    Dispute,
    DisputeStatus,
    Method,
    Payment,
    PaymentMethod,
    Refund,
    RefundStatus,
)
from bursar.payments.purposes import TOP_UP
from bursar.system import queries as system
from bursar.system.catalogue import COMPANY_NAME, SUPPORT_EMAIL

METHODS = {
    Method.STRIPE: "Card",
    Method.PAYPAL: "PayPal",
    Method.CASH: "Cash",
    Method.CHECK: "Check",
    Method.BANK_TRANSFER: "Bank transfer",
}


class NothingReceived(BursarError, status=409, code="payments.nothing_received"):
    """A receipt says that money has come, and for this payment none has."""


async def issue(db: AsyncSession, payment_id: UUID) -> Receipt:
    """Gives the payment its number, unless it has one; as the worker."""
    payment = await queries.payment(db, payment_id, lock=True)
    if found := await db.get(Receipt, payment_id):
        return found
    if not payment.captured:
        raise NothingReceived("No money has come for this payment, so there is no receipt.")
    receipt = Receipt(
        payment_id=payment.id,
        series=Series.TEST if payment.test_mode else Series.LIVE,
        company=await system.value(db, COMPANY_NAME),
        support_email=await system.value(db, SUPPORT_EMAIL),
    )
    db.add(receipt)
    await db.flush()
    await db.refresh(receipt)
    return receipt


@dataclass(frozen=True, slots=True)
class Back:
    """Money that went back, and when."""

    when: datetime
    amount: str
    how: str


@dataclass(frozen=True, slots=True)
class Document:
    """All that stands on a receipt, as it is written there."""

    number: str
    is_test: bool
    company: str
    support: str
    issued_at: datetime
    paid_at: datetime
    customer: str
    email: str | None
    what_for: str
    method: str
    amount: str
    backs: tuple[Back, ...]
    kept: str | None  # what is left after refunds
    payment_id: UUID


async def document(db: AsyncSession, payment_id: UUID) -> Document | None:
    """What the receipt says now; None where the payment has none yet. As whoever may see it."""
    payment = await queries.payment(db, payment_id)
    receipt = await db.get(Receipt, payment_id)
    if receipt is None:
        return None
    owner = await db.get(User, payment.user_id) if payment.user_id else None
    known = owner is not None and owner.erased_at is None
    gone = payment.refunded > 0
    return Document(
        number=receipt.title,
        is_test=receipt.series == Series.TEST,
        company=receipt.company,
        support=receipt.support_email,
        issued_at=receipt.issued_at,
        paid_at=payment.payment_date or receipt.issued_at,
        customer=(owner.name if owner and known else "") or "Customer",
        email=owner.email if owner and known else None,
        what_for=what_for(payment),
        method=await method_of(db, payment),
        amount=written(payment.captured, payment.currency),
        backs=await backs(db, payment),
        kept=written(payment.captured - payment.refunded, payment.currency) if gone else None,
        payment_id=payment.id,
    )


def written(amount: Decimal, currency: str) -> str:
    return f"{exactly(amount, currency):,f} {currency}"


def what_for(payment: Payment) -> str:
    kind = "Top-up of the wallet" if payment.purpose == TOP_UP else payment.purpose
    kind = kind.replace("_", " ").capitalize()
    return f"{kind}: {payment.description}" if payment.description else kind


async def method_of(db: AsyncSession, payment: Payment) -> str:
    """Visa ending in 4242, where the method is known so well."""
    saved = await db.get(PaymentMethod, payment.method_id) if payment.method_id else None
    if saved is not None:
        return describe(saved)
    name = METHODS[Method(payment.payment_method)]
    return f"{name}, {payment.reference}" if payment.reference else name


def describe(saved: PaymentMethod) -> str:
    name = (saved.brand or saved.kind).replace("_", " ").title()
    return f"{name} ending in {saved.last_four}" if saved.last_four else name


async def backs(db: AsyncSession, payment: Payment) -> tuple[Back, ...]:
    """What was given back, and what a dispute has taken, in their order."""
    refunds = select(Refund).where(
        Refund.payment_id == payment.id, Refund.status == RefundStatus.COMPLETED
    )
    lost = select(Dispute).where(
        Dispute.payment_id == payment.id, Dispute.status == DisputeStatus.LOST, Dispute.counted > 0
    )
    found = [
        Back(
            each.settled_at or each.created_at,
            written(each.amount, payment.currency),
            "to the wallet" if each.destination == "wallet" else "the way it came",
        )
        for each in await db.scalars(refunds)
    ]
    found += [
        Back(
            each.closed_at or each.opened_at,
            written(each.counted, payment.currency),
            "by a dispute",
        )
        for each in await db.scalars(lost)
    ]
    return tuple(sorted(found, key=lambda back: back.when))
