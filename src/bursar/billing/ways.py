"""How an open invoice will be paid: what has come for it, what is on its way, what is tried."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing.models import Invoice
from bursar.billing.rules import DECLINES
from bursar.payments.models import Dispute, DisputeStatus, Payment, PaymentMethod, Status
from bursar.payments.providers.registry import MANUAL, Providers

OPEN_PAGE = timedelta(hours=1)


HAS_COME = Payment.captured > Payment.refunded


async def payments_with_money(db: AsyncSession, invoice: Invoice) -> Sequence[Payment]:
    """Those that nobody contests first, and of them the oldest: that one is the invoice's, and the
    others go back."""
    query = select(Payment).where(Payment.invoice_id == invoice.id, HAS_COME)
    query = query.order_by(Payment.disputed > 0, Payment.payment_date, Payment.id)
    return (await db.scalars(query.execution_options(populate_existing=True))).all()


async def is_being_paid(db: AsyncSession, invoice: Invoice) -> bool:
    """Whether money is on its way."""
    query = select(Payment.id).where(
        Payment.invoice_id == invoice.id,
        Payment.user_id == invoice.user_id,
        on_its_way(),
    )
    return await db.scalar(query.limit(1)) is not None


def on_its_way() -> ColumnElement[bool]:
    """By the saved method, or by a page that the customer has opened within the hour."""
    is_open = Payment.created_at > func.now() - OPEN_PAGE
    return and_(
        Payment.status == Status.PENDING,
        Payment.provider != MANUAL,
        or_(Payment.automatic, is_open),
    )


def under_way() -> ColumnElement[bool]:
    """Of invoices in a query: those that nothing else is taken for, as money is here or coming."""
    query = select(Payment.id).where(Payment.invoice_id == Invoice.id, or_(HAS_COME, on_its_way()))
    return query.exists()


async def method_to_try(
    db: AsyncSession, providers: Providers, invoice: Invoice
) -> PaymentMethod | None:
    """The customer's default one; not one whose payment of this invoice was contested: its owner
    does not want that."""
    method = await db.scalar(
        select(PaymentMethod).filter_by(user_id=invoice.user_id, is_default=True)
    )
    if method is None or not await may_try(db, providers, invoice, method):
        return None
    return method


async def may_try(
    db: AsyncSession, providers: Providers, invoice: Invoice, method: PaymentMethod
) -> bool:
    usable = any(
        (each.name, each.is_test) == (method.provider, method.test_mode)
        for each in providers.known.values()
    )
    if not usable or await declined(db, invoice, method) > len(DECLINES):
        return False
    contested = select(Dispute.id).join(Payment, Payment.id == Dispute.payment_id)
    contested = contested.where(Dispute.status == DisputeStatus.LOST, *tried(invoice, method))
    return await db.scalar(contested.limit(1)) is None


async def declined(db: AsyncSession, invoice: Invoice, method: PaymentMethod) -> int:
    """How often this method has not paid it since it is open; another one begins anew."""
    failed = select(func.count(Payment.id)).where(
        *tried(invoice, method),
        Payment.automatic,
        Payment.status == Status.FAILED,
        Payment.created_at >= (invoice.reopened_at or invoice.issued_at),
    )
    return await db.scalar(failed) or 0


def tried(invoice: Invoice, method: PaymentMethod) -> tuple[ColumnElement[bool], ...]:
    return Payment.invoice_id == invoice.id, Payment.method_id == method.id
