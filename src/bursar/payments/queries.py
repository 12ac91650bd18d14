"""Reads of payments, refunds, disputes and what their providers told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.core.errors import BursarError
from bursar.core.paging import Order, Page, PageQuery, fetch, only
from bursar.payments.models import (
    Dispute,
    DisputeStatus,
    Method,
    Payment,
    PaymentAudit,
    PaymentMethod,
    Refund,
    RefundStatus,
    Status,
)

PAYMENTS = Order(
    {"created_at": Payment.created_at, "amount": Payment.amount},
    key=Payment.id,
    default="-created_at",
)
AUDITS = Order({"created_at": PaymentAudit.created_at}, key=PaymentAudit.id, default="created_at")
REFUNDS = Order({"created_at": Refund.created_at}, key=Refund.id, default="-created_at")
DISPUTES = Order({"opened_at": Dispute.opened_at}, key=Dispute.id, default="-opened_at")
COUNT_TO = 10_000


class UnknownPayment(BursarError, status=404, code="payments.unknown_payment"):
    """There is no such payment, or it is not yours."""


class UnknownRefund(BursarError, status=404, code="payments.unknown_refund"):
    """There is no such refund."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which payments somebody wants to see."""

    user_id: UUID | None = None
    status: Status | None = None
    method: Method | None = None
    reference: str | None = None
    unclaimed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    def apply(self, query: Select[Payment]) -> Select[Payment]:
        wanted = {
            Payment.user_id: self.user_id,
            Payment.status: self.status,
            Payment.payment_method: self.method,
            Payment.reference: self.reference,
            Payment.unclaimed: self.unclaimed,
        }
        query = only(query, wanted)
        if self.since:
            query = query.where(Payment.created_at >= self.since)
        if self.until:
            query = query.where(Payment.created_at < self.until)
        return query


async def payments(db: AsyncSession, ask: PageQuery, filters: Filters) -> Page[Payment]:
    return await fetch(db, filters.apply(select(Payment)), ask, PAYMENTS, count_to=COUNT_TO)


async def payment(db: AsyncSession, payment_id: UUID, *, lock: bool = False) -> Payment:
    """One payment; locked, nothing else changes it until the transaction ends."""
    query = select(Payment).where(Payment.id == payment_id)
    if lock:
        query = query.with_for_update(key_share=True)
    found: Payment | None = await db.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise UnknownPayment("There is no such payment.")
    return found


class Taken(StrEnum):
    """How money was taken from us, rather than given back."""

    CONTESTED = "contested"  # and the dispute was lost
    RETURNED = "returned"  # it bounced, or a bank has taken it back


async def taken(db: AsyncSession, payment_id: UUID) -> tuple[Decimal, Taken]:
    """How much of a payment's money was taken from us, and how."""
    lost = select(Dispute.id).where(
        Dispute.payment_id == payment_id, Dispute.status == DisputeStatus.LOST, Dispute.counted > 0
    )
    [much, is_lost] = (await db.execute(select(func.money_taken(payment_id), lost.exists()))).one()
    return much, Taken.CONTESTED if is_lost else Taken.RETURNED


async def audits(db: AsyncSession, payment_id: UUID, ask: PageQuery) -> Page[PaymentAudit]:
    await payment(db, payment_id)
    query = select(PaymentAudit).where(PaymentAudit.payment_id == payment_id)
    return await fetch(db, query, ask, AUDITS)


async def refund(db: AsyncSession, refund_id: UUID) -> Refund:
    found = await db.get(Refund, refund_id, populate_existing=True)
    if found is None:
        raise UnknownRefund("There is no such refund.")
    return found


async def refunds(
    db: AsyncSession,
    ask: PageQuery,
    *,
    payment_id: UUID | None = None,
    status: RefundStatus | None = None,
) -> Page[Refund]:
    query = only(select(Refund), {Refund.payment_id: payment_id, Refund.status: status})
    return await fetch(db, query, ask, REFUNDS, count_to=COUNT_TO)


async def disputes(
    db: AsyncSession, ask: PageQuery, *, status: DisputeStatus | None = None
) -> Page[Dispute]:
    query = only(select(Dispute), {Dispute.status: status})
    return await fetch(db, query, ask, DISPUTES, count_to=COUNT_TO)


@dataclass(frozen=True, slots=True)
class Summed:
    """How many payments there are of one method, status and currency."""

    payment_method: str
    status: str
    currency: str
    payment_count: int
    total_amount: Decimal


SUMMARY = text("""
  select payment_method, status, currency, payment_count, total_amount from payment_summary
  order by payment_method, status, currency
""")


async def summary(db: AsyncSession) -> Sequence[Summed]:
    """A customer's own, or for staff all of them."""
    return [Summed(*row) for row in await db.execute(SUMMARY)]


@accounts.keeps_personal_data("payments")
async def personal_data(db: AsyncSession, user_id: UUID) -> dict[str, Any]:
    """What they have paid, and the ways to pay that they have saved."""
    payments = select(Payment).where(Payment.user_id == user_id)
    methods = select(PaymentMethod).where(PaymentMethod.user_id == user_id)
    paid = ("id", "amount", "currency", "payment_method", "status", "purpose", "description",
            "reference", "captured", "refunded", "created_at")  # fmt: skip
    saved = ("kind", "brand", "last_four", "exp_month", "exp_year", "created_at")
    newest = payments.order_by(Payment.created_at.desc(), Payment.id.desc()).limit(COUNT_TO)
    oldest_first = methods.order_by(PaymentMethod.created_at, PaymentMethod.id)
    return {
        "payments": [
            {name: getattr(row, name) for name in paid} for row in await db.scalars(newest)
        ],
        "methods": [
            {name: getattr(row, name) for name in saved} for row in await db.scalars(oldest_first)
        ],
    }
