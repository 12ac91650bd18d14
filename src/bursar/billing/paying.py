"""How an invoice is paid: from the wallet, from the saved method, or by a payment that names it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import invoicing, queries
from bursar.billing.charging import SCOPE, cannot_pay
from bursar.billing.models import Invoice, InvoiceStatus
from bursar.billing.rules import DECLINES
from bursar.billing.service import InvoicePaid, closed
from bursar.core import events, money
from bursar.core.errors import BursarError
from bursar.payments import queries as payments
from bursar.payments import refunds
from bursar.payments.models import Destination, Payment, PaymentMethod, Refund, Status
from bursar.payments.providers.registry import MANUAL, Providers
from bursar.payments.purposes import Due, purpose
from bursar.wallets import assets, ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Request
from bursar.wallets.models import Account, Asset

INVOICE = "invoice"
OPEN_PAGE = timedelta(hours=1)


@purpose(INVOICE, column="invoice_id")
async def invoice_due(db: AsyncSession, invoice_id: UUID, user_id: UUID) -> Due:
    """The whole of it."""
    row = await queries.invoice(db, invoice_id, user_id=user_id)
    if row.status != InvoiceStatus.OPEN:
        raise closed(row)
    return Due(row.total, row.currency, f"Invoice {row.title}")


async def to_collect(db: AsyncSession, most: int) -> list[UUID]:
    """Open invoices whose time has come, or for which there is enough in the wallet."""
    unit = func.power(text("10::numeric"), Asset.scale)
    has_enough = (
        select(Account.id)
        .join(Asset, Asset.code == Account.asset)
        .where(
            Account.owner_id == Invoice.user_id,
            Account.asset == Invoice.currency,
            Account.posted - Account.held + Account.overdraft >= Invoice.total * unit,
        )
        .exists()
    )
    overdue = Invoice.overdue_mailed_at.is_(None) & (Invoice.due_at < func.now())
    query = select(Invoice.id).where(
        Invoice.status == InvoiceStatus.OPEN,
        Invoice.user_id.is_not(None),
        or_(Invoice.next_try_at <= func.now(), overdue, has_enough),
    )
    return list(await db.scalars(query.order_by(Invoice.next_try_at, Invoice.id).limit(most)))


async def collect(db: AsyncSession, providers: Providers, invoice_id: UUID) -> UUID | None:
    """From the wallet, or else a payment by the saved method is begun, which is answered: its
    provider has to be asked, after the commit."""
    invoice = await queries.invoice(db, invoice_id, lock=True)
    if invoice.status != InvoiceStatus.OPEN or invoice.user_id is None:
        return None
    under_way = await is_being_paid(db, invoice)
    if not under_way and await take_from_wallet(db, invoice):
        return None
    if invoice.due_at < datetime.now(UTC) and invoice.overdue_mailed_at is None:
        await invoicing.tell_overdue(db, invoice)
    if under_way or invoice.next_try_at > datetime.now(UTC):
        return None
    return await begin_payment(db, providers, invoice)


async def is_being_paid(db: AsyncSession, invoice: Invoice) -> bool:
    """Whether money is on its way: by the saved method, or by a page that the customer has opened
    within the hour; or some has come, and staff have not given it back."""
    is_open = Payment.created_at > func.now() - OPEN_PAGE
    on_its_way = and_(
        Payment.status == Status.PENDING,
        Payment.provider != MANUAL,
        or_(Payment.automatic, is_open),
    )
    query = select(Payment.id).where(
        Payment.invoice_id == invoice.id,
        Payment.user_id == invoice.user_id,
        or_(on_its_way, Payment.captured > Payment.refunded),
    )
    return await db.scalar(query.limit(1)) is not None


async def take_from_wallet(db: AsyncSession, invoice: Invoice) -> bool:
    scale = (await assets.asset(db, invoice.currency)).scale
    leg = ledger.transfer(
        f"user:{invoice.user_id}",
        "revenue",
        money.minor(invoice.total, scale),
        invoice.currency,
        kind="charge",
        category="usage",
        metadata={"invoice_id": str(invoice.id), "number": invoice.title},
    )
    asked = Request(SCOPE, f"invoice:{invoice.id}", (leg,), event="billing.charged")
    [outcome] = await wallets.try_all(db, [asked])
    if cannot_pay(outcome) or isinstance(outcome, BursarError):
        return False
    await settle(db, invoice, {"operation_id": outcome.operation_id})
    return True


async def settle(db: AsyncSession, invoice: Invoice, by: dict[str, Any]) -> None:
    for name, value in by.items():
        setattr(invoice, name, value)
    invoice.status, invoice.paid_at = InvoiceStatus.PAID, func.now()
    await db.flush()
    await events.publish(db, InvoicePaid(invoice_id=invoice.id, user_id=invoice.user_id))


async def begin_payment(db: AsyncSession, providers: Providers, invoice: Invoice) -> UUID | None:
    """By the customer's default method, as often as declined payments are tried again."""
    method = await db.scalar(
        select(PaymentMethod).filter_by(user_id=invoice.user_id, is_default=True)
    )
    usable = method is not None and any(
        (each.name, each.is_test) == (method.provider, method.test_mode)
        for each in providers.known.values()
    )
    if method is None or not usable or await declined(db, invoice, method) > len(DECLINES):
        invoice.next_try_at = datetime.now(UTC) + DECLINES[0]
        return None
    by_paypal = "paypal" in (method.provider, method.kind)
    row = insert(Payment).values(
        user_id=invoice.user_id,
        amount=invoice.total,
        currency=invoice.currency,
        payment_method="paypal" if by_paypal else "stripe",
        purpose=INVOICE,
        invoice_id=invoice.id,
        provider=method.provider,
        test_mode=method.test_mode,
        method_id=method.id,
        automatic=True,
        description=f"Invoice {invoice.title}",
        change_reason="an invoice is due",
        changed_by="system",
    )
    row = row.on_conflict_do_nothing(
        index_elements=["user_id"], index_where=text("automatic and status = 'pending'")
    )
    return await db.scalar(row.returning(Payment.id))


async def declined(db: AsyncSession, invoice: Invoice, method: PaymentMethod) -> int:
    """How often this method has not paid it; another one begins anew."""
    failed = select(func.count(Payment.id)).where(
        Payment.invoice_id == invoice.id,
        Payment.method_id == method.id,
        Payment.automatic,
        Payment.status == Status.FAILED,
    )
    return await db.scalar(failed) or 0


async def payment_came(db: AsyncSession, payment_id: UUID) -> bool:
    """Whether the payment is needed: its invoice is settled by it, or staff have to look at it, for
    it is less than the whole."""
    payment = await payments.payment(db, payment_id)
    if payment.invoice_id is None:
        return True
    invoice = await queries.invoice(db, payment.invoice_id, lock=True)
    if invoice.payment_id == payment.id:
        return True
    if invoice.status != InvoiceStatus.OPEN:
        return False
    if (
        payment.currency == invoice.currency
        and payment.captured - payment.refunded >= invoice.total
    ):
        await settle(db, invoice, {"payment_id": payment.id})
    return True


async def payment_failed(db: AsyncSession, payment_id: UUID) -> None:
    """The saved method did not pay: it is tried again some days later, and then not any more."""
    payment = await payments.payment(db, payment_id)
    if payment.invoice_id is None or not payment.automatic:
        return
    invoice = await queries.invoice(db, payment.invoice_id, lock=True)
    method = await db.get(PaymentMethod, payment.method_id) if payment.method_id else None
    if invoice.status != InvoiceStatus.OPEN or method is None:
        return
    tries = await declined(db, invoice, method)
    invoice.next_try_at = datetime.now(UTC) + DECLINES[min(tries, len(DECLINES)) - 1]
    reason, again = (payment.failure_reason or "")[:200], tries <= len(DECLINES)
    await invoicing.tell(db, invoice, "invoice_declined", reason=reason, again=again)


async def give_back(db: AsyncSession, payment_id: UUID) -> Refund | None:
    """A payment for what was settled otherwise goes back whole: the way it came, or what came as
    cash, check or transfer into the wallet."""
    payment = await payments.payment(db, payment_id, lock=True)
    invoice = await queries.invoice(db, payment.invoice_id) if payment.invoice_id else None
    needed = invoice is None or invoice.payment_id == payment.id
    if needed or payment.refundable <= 0 or payment.disputed:
        return None
    by_hand = payment.provider == MANUAL
    if by_hand and payment.user_id is None:
        return None
    asked, _ = await refunds.request(
        db,
        payment.id,
        payment.refundable,
        destination=Destination.WALLET if by_hand else Destination.PROVIDER,
        reason="The invoice was settled already",
        key="billing:unneeded",
    )
    return asked
