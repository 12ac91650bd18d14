"""A receipt goes out once when the money has come, with the PDF, and again when staff say so."""

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import User
from bursar.audit import service as audit
from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.errors import BursarError
from bursar.core.events import Published
from bursar.core.mail_outbox import Attachment
from bursar.payments import queries, receipts
from bursar.payments.models import Payment
from bursar.payments.receipt_pdf import pdf
from bursar.payments.rules import RECEIPTS_MAILED
from bursar.system import queries as system

LONGEST_SUBJECT = 200  # of what it was for


@events.on("payments.completed", subscriber="payments.receipts")
async def number_and_mail(db: AsyncSession, event: Published) -> None:
    """In the order of the events, so nobody waits for the number before."""
    payment_id = UUID(event.payload["payment_id"])
    await receipts.issue(db, payment_id)
    if await system.value(db, RECEIPTS_MAILED):
        await enqueue(db, payment_id)


async def enqueue(db: AsyncSession, payment_id: UUID) -> int | None:
    key = str(payment_id)
    return await jobs.enqueue(db, mail_receipt, {"payment": key}, unique_key=key)


@jobs.job("payments.mail_receipt", added_by={Role.WORKER, Role.STAFF})
async def mail_receipt(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Mails a receipt to whoever paid, with the PDF; to nobody where the account is erased."""
    payment_id = UUID(payload["payment"])
    await receipts.issue(db, payment_id)
    payment = await queries.payment(db, payment_id)
    owner = await owner_of(db, payment)
    document = await receipts.document(db, payment_id)
    if owner is None or document is None:
        return
    font = db.info["settings"].receipt_font
    content = await asyncio.to_thread(pdf, document, font)
    await letters.tell(
        db,
        "receipt",
        owner,
        attachment=Attachment.of(f"receipt-{document.number}.pdf", "application/pdf", content),
        number=document.number,
        amount=document.amount,
        what_for=document.what_for[:LONGEST_SUBJECT],
        support=document.support,
        is_test=document.is_test,
        company=document.company,
    )


async def owner_of(db: AsyncSession, payment: Payment) -> User | None:
    """The one who paid, where a mail can reach them."""
    owner = await db.get(User, payment.user_id) if payment.user_id else None
    return owner if owner is not None and letters.can_be_told(owner) else None


class NobodyToMail(BursarError, status=409, code="payments.nobody_to_mail"):
    """Whoever paid has no account here any more, or no address that a mail can be sent to."""


async def send_again(db: AsyncSession, payment_id: UUID) -> None:
    """Staff want the customer to have it once more; while one is on its way, that is the one."""
    payment = await queries.payment(db, payment_id)
    if not payment.captured:
        raise receipts.NothingReceived("No money has come for this payment: there is no receipt.")
    if await owner_of(db, payment) is None:
        raise NobodyToMail("There is no address that this receipt could be mailed to.")
    await enqueue(db, payment_id)
    await audit.record(db, "payments.receipt_mailed", "payment", payment_id)
