"""How an invoice is paid: from the wallet, from the saved method, or by a payment that names it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import invoicing, queries, reopening, ways
from bursar.billing.charging import SCOPE, WALLET_SAYS_NO
from bursar.billing.models import Invoice, InvoiceStatus
from bursar.billing.rules import DECLINES
from bursar.billing.service import InvoicePaid, closed
from bursar.core import events, money
from bursar.core.errors import BursarError
from bursar.payments import methods, refunds
from bursar.payments import queries as payments
from bursar.payments.models import (
    Payment,
    PaymentMethod,
    Refund,
)
from bursar.payments.providers.registry import Providers
from bursar.payments.purposes import Due, purpose
from bursar.wallets import assets, ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Request
from bursar.wallets.models import Account, AccountStatus, Asset

INVOICE = "invoice"


@purpose(INVOICE, column="invoice_id")
async def invoice_due(db: AsyncSession, invoice_id: UUID, user_id: UUID) -> Due:
    """All that is to be paid of it."""
    row = await queries.invoice(db, invoice_id, user_id=user_id)
    if row.status != InvoiceStatus.OPEN:
        raise closed(row)
    return Due(row.to_pay, row.currency, f"Invoice {row.title}")


async def to_collect(db: AsyncSession, most: int) -> list[UUID]:
    """Open invoices whose time has come, or for which there is enough in the wallet. Those that are
    under way have their time too: what comes of that may have been told to nobody."""
    unit = func.power(text("10::numeric"), Asset.scale)
    has_enough = (
        select(Account.id)
        .join(Asset, Asset.code == Account.asset)
        .where(
            Account.owner_id == Invoice.user_id,
            Account.asset == Invoice.currency,
            Account.status == AccountStatus.OPEN,
            Account.posted - Account.held + Account.overdraft
            >= (Invoice.total - Invoice.forgiven) * unit,
        )
        .exists()
    )
    overdue = Invoice.overdue_mailed_at.is_(None) & (Invoice.due_at < func.now())
    query = select(Invoice.id).where(
        Invoice.status == InvoiceStatus.OPEN,
        Invoice.user_id.is_not(None),
        or_(Invoice.next_try_at <= func.now(), overdue, and_(has_enough, ~ways.under_way())),
    )
    return list(await db.scalars(query.order_by(Invoice.next_try_at, Invoice.id).limit(most)))


async def collect(db: AsyncSession, providers: Providers, invoice_id: UUID) -> UUID | None:
    """From the wallet, or else a payment by the saved method is begun, which is answered: its
    provider has to be asked, after the commit."""
    invoice = await queries.invoice(db, invoice_id, lock=True)
    if invoice.status != InvoiceStatus.OPEN or invoice.user_id is None:
        return None
    came = await ways.payments_with_money(db, invoice)
    if await settle_by_payment(db, invoice, came):
        return None  # it was on its way back, and could not be given
    under_way = bool(came) or await ways.is_being_paid(db, invoice)  # a part waits for staff
    if not under_way and await take_from_wallet(db, invoice, invoice.user_id):
        return None
    if invoice.due_at < datetime.now(UTC) and invoice.overdue_mailed_at is None:
        await invoicing.tell_overdue(db, invoice)
    if under_way:
        look_later(invoice)
        return None
    if invoice.next_try_at > datetime.now(UTC):
        return None
    return await begin_payment(db, providers, invoice)


def look_later(invoice: Invoice) -> None:
    """Or it would stand before all others each time: a run has time for so many."""
    invoice.next_try_at = max(invoice.next_try_at, datetime.now(UTC) + ways.OPEN_PAGE)


async def take_from_wallet(db: AsyncSession, invoice: Invoice, owner: UUID) -> bool:
    scale = (await assets.asset(db, invoice.currency)).scale
    leg = ledger.transfer(
        ledger.user(owner),
        "revenue",
        money.minor(invoice.to_pay, scale),
        invoice.currency,
        kind="charge",
        category="usage",
        metadata={"invoice_id": str(invoice.id), "number": invoice.title},
    )
    key = f"invoice:{invoice.id}:{invoice.version}"  # each time that it is open is another one
    asked = Request(SCOPE, key, (leg,), event="billing.charged")
    [outcome] = await wallets.try_all(db, [asked])
    if isinstance(outcome, WALLET_SAYS_NO):
        return False
    if isinstance(outcome, BursarError):
        raise outcome
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
    method = await ways.method_to_try(db, providers, invoice)
    if method is None:
        invoice.next_try_at = datetime.now(UTC) + DECLINES[0]
        return None
    wanted = methods.payment_by(
        method,
        amount=invoice.to_pay,
        currency=invoice.currency,
        purpose=INVOICE,
        invoice_id=invoice.id,
        description=f"Invoice {invoice.title}",
        change_reason="an invoice is due",
    )
    begun = await methods.begin_payments(db, [wanted])
    if not begun:
        look_later(invoice)  # the method is asked for something else just now
    return next(iter(begun), None)


async def heed(db: AsyncSession, payment_id: UUID) -> list[UUID]:
    """Makes an invoice say what is so of all payments for it, whichever was told of. Answers
    those of which something is not needed."""
    payment = await payments.payment(db, payment_id)
    if payment.invoice_id is None:
        return []
    invoice = await queries.invoice(db, payment.invoice_id, lock=True)
    was_taken = await reopening.reopen_if_taken(db, invoice)
    came = await ways.payments_with_money(db, invoice)
    if invoice.status == InvoiceStatus.OPEN:
        is_settled = await settle_by_payment(db, invoice, came)
        if was_taken and not is_settled:
            await reopening.tell(db, invoice)
    return surplus(invoice, came)


def surplus(invoice: Invoice, came: Sequence[Payment]) -> list[UUID]:
    """Those of which something is not needed."""
    return [each.id for each in came if not_needed(invoice, each) > 0]


def not_needed(invoice: Invoice, payment: Payment) -> Decimal:
    """What of a payment for it goes back: all, where it was settled otherwise; or what is more than
    it asks for, by a page that was opened before it asked for less. While it is open, what brings
    less than the whole waits for staff, or another one; and what is contested for the decision."""
    if invoice.status == InvoiceStatus.OPEN or payment.disputed:
        return Decimal(0)
    return payment.refundable - (invoice.to_pay if invoice.payment_id == payment.id else 0)


async def settle_by_payment(db: AsyncSession, invoice: Invoice, came: Sequence[Payment]) -> bool:
    """By the first one of which the whole is here and stays."""
    for each in came:
        if each.stays >= invoice.to_pay:
            await settle(db, invoice, {"payment_id": each.id})
            return True
    return False


async def payment_failed(db: AsyncSession, payment_id: UUID) -> None:
    """The saved method did not pay: it is tried again some days later, and then not any more."""
    payment = await payments.payment(db, payment_id)
    if payment.invoice_id is None or not payment.automatic:
        return
    invoice = await queries.invoice(db, payment.invoice_id, lock=True)
    method = await db.get(PaymentMethod, payment.method_id) if payment.method_id else None
    if invoice.status != InvoiceStatus.OPEN or method is None:
        return
    tries = max(1, await ways.declined(db, invoice, method))  # it may have begun before a reopening
    invoice.next_try_at = datetime.now(UTC) + DECLINES[min(tries, len(DECLINES)) - 1]
    reason, again = (payment.failure_reason or "")[:200], tries <= len(DECLINES)
    await invoicing.tell(db, invoice, "invoice_declined", reason=reason, again=again)


async def to_give_back(db: AsyncSession, invoice_id: UUID) -> list[UUID]:
    """The payments for it of which something is not needed."""
    invoice = await queries.invoice(db, invoice_id)
    return surplus(invoice, await ways.payments_with_money(db, invoice))


async def give_back(db: AsyncSession, payment_id: UUID) -> Refund | None:
    """What an invoice does not need goes back, once: what is on its way back is not counted again,
    and a provider that has refused is not asked again, but the wallet has it.
    The invoice is locked, before the payment: it may be open again, and need it."""
    payment = await payments.payment(db, payment_id)
    if payment.invoice_id is None:
        return None
    invoice = await queries.invoice(db, payment.invoice_id, lock=True)
    payment = await payments.payment(db, payment_id, lock=True)
    much = not_needed(invoice, payment)
    if much <= 0:
        return None
    is_its = invoice.payment_id == payment.id
    why = "It is more than the invoice asks for" if is_its else "The invoice was settled already"
    return await refunds.give_back(db, payment.id, much, reason=why)
