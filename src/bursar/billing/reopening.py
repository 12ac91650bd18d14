"""An invoice whose money is gone is open again: paid anew, or at last overdue, as any other one."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.billing import invoicing, queries, ways
from bursar.billing.models import Invoice, InvoiceStatus
from bursar.billing.rules import DECLINES, INVOICE_REOPENED_DAYS
from bursar.billing.service import InvoiceReopened, closed, still_paid
from bursar.core import etag, events
from bursar.payments import queries as payments
from bursar.payments.providers.registry import providers
from bursar.system import queries as system


async def reopen(
    db: AsyncSession, invoice_id: UUID, *, reason: str, if_match: str | None = None
) -> Invoice:
    """By staff, after they have given all of its money back; or where a part of it was taken since
    it was paid, and that has not opened it. Again, it changes nothing."""
    row = await queries.invoice(db, invoice_id, lock=True)
    etag.check(if_match, row.version)
    if row.status == InvoiceStatus.OPEN:
        audit.nothing_changed(db)
        return row
    if row.status == InvoiceStatus.VOID:
        raise closed(row)
    if row.kept and not await was_taken(db, row):
        raise still_paid(row, row.kept)
    await open_again(db, row, reason)
    await tell(db, row)
    await audit.record(db, "billing.invoice_reopened", "invoice", row.id, after={"reason": reason})
    return row


async def reopen_if_taken(db: AsyncSession, invoice: Invoice) -> bool:
    """Where more was taken of its payment than was known, and less than the whole stays. What staff
    have given back leaves it paid, until they say otherwise, also where something was taken before.
    Whatever was told, when and how often: what counts is how much was taken by now."""
    if invoice.payment_id is None:
        return False
    much, how = await payments.taken(db, invoice.payment_id)
    if much <= invoice.taken_known:
        return False
    if (await payments.payment(db, invoice.payment_id)).stays >= invoice.to_pay:
        invoice.taken_known = much  # a trigger looks whether that is so
        await db.flush()
        return False
    await open_again(db, invoice, f"Its payment was {how}.")
    return True


async def was_taken(db: AsyncSession, invoice: Invoice) -> bool:
    """Whether something was taken of its payment since it was enough, and it is so no more."""
    if invoice.payment_id is None:
        return False
    much, _ = await payments.taken(db, invoice.payment_id)
    row = await payments.payment(db, invoice.payment_id)
    return much > invoice.taken_before and row.stays < invoice.to_pay


async def open_again(db: AsyncSession, invoice: Invoice, reason: str) -> None:
    """What had paid it, a trigger takes off it. The customer is told before a method is tried."""
    now = datetime.now(UTC)
    days = await system.value(db, INVOICE_REOPENED_DAYS)
    invoice.status, invoice.reopen_reason = InvoiceStatus.OPEN, reason
    invoice.due_at = max(invoice.due_at, now + timedelta(days=days))
    invoice.next_try_at = now + DECLINES[0]
    await db.flush()
    await db.refresh(invoice)
    await events.publish(db, InvoiceReopened(invoice_id=invoice.id, user_id=invoice.user_id))


async def tell(db: AsyncSession, invoice: Invoice) -> None:
    """What will really happen: while money for it is here or on its way, nothing else is taken."""
    known = providers(db.info["settings"])
    came = await ways.payments_with_money(db, invoice)
    method = await ways.method_to_try(db, known, invoice)
    await invoicing.tell(
        db,
        invoice,
        "invoice_reopened",
        reason=invoice.reopen_reason,
        has_part=bool(came),
        is_being_paid=await ways.is_being_paid(db, invoice),
        tried_on=f"{invoice.next_try_at:%Y-%m-%d}" if method else None,
    )
