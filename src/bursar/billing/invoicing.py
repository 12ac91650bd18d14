"""A month of usage becomes an invoice: its lines are charges, its total what can be paid of them.

An invoice is paid from the wallet as soon as that has enough, else from the saved method, else by
whatever payment the customer makes for it. A payment for an invoice that is settled goes back.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import User
from bursar.billing import charging
from bursar.billing.charging import Due
from bursar.billing.models import Charging, Invoice, UsageCharge
from bursar.billing.rules import INVOICE_DUE_DAYS
from bursar.billing.service import InvoiceIssued
from bursar.billing.waits import Waiting
from bursar.core import events, money
from bursar.payments import currencies
from bursar.system import queries as system


async def issue(db: AsyncSession, people: Sequence[UUID], month: str) -> list[Waiting]:
    """An invoice for each of them and each currency, where there is something to pay. Answers what
    waits: lines that one invoice cannot say together are for the next ones."""
    owed: dict[tuple[UUID, str], list[Due]] = defaultdict(list)
    found, waiting = await charging.due(db, people, month, Charging.MONTHLY)
    for each in found:
        lines = owed[each.user_id, each.currency]
        if payable([*lines, each], each.currency) < currencies.MOST:
            lines.append(each)
        else:
            waiting.append(Waiting(each.user_id, each.meter, "It is for another invoice."))
    days = await system.value(db, INVOICE_DUE_DAYS)
    due_at = datetime.now(UTC) + timedelta(days=days)
    for (user_id, currency), lines in owed.items():
        total = payable(lines, currency)
        if total:
            facts = {"user_id": user_id, "currency": currency, "total": total, "due_at": due_at}
            making = insert(Invoice).values(month=month, **facts).returning(Invoice)
            invoice = (await db.scalars(making)).one()
            rows = [charging.written(each) | {"invoice_id": invoice.id} for each in lines]
            await db.execute(insert(UsageCharge), rows)
            await events.publish(db, InvoiceIssued(invoice_id=invoice.id, user_id=user_id))
            await tell(db, invoice, "invoice_issued", lines=[said(each) for each in lines])
    return waiting


def payable(lines: Sequence[Due], currency: str) -> Decimal:
    """Their sum, less what is smaller than the currency's smallest coin; that is nobody's."""
    exact = sum((money.decimal(each.amount, each.scale) for each in lines), Decimal(0))
    coin = Decimal(1).scaleb(-currencies.digits(currency))
    return exact.quantize(coin, ROUND_DOWN, context=money.EXACT)


def said(each: Due) -> dict[str, Any]:
    return {
        "what": each.plan,
        "units": each.to_units - each.from_units,
        "amount": f"{money.decimal(each.amount, each.scale):f} {each.currency}",
    }


async def tell(db: AsyncSession, invoice: Invoice, template: str, **more: Any) -> None:
    """A mail about it."""
    owner = await db.get(User, invoice.user_id) if invoice.user_id else None
    await letters.tell(
        db,
        template,
        owner,
        number=invoice.title,
        month=invoice.month,
        total=f"{invoice.to_pay:f} {invoice.currency}",
        due=f"{invoice.due_at:%Y-%m-%d}",
        **more,
    )


async def tell_overdue(db: AsyncSession, invoice: Invoice) -> None:
    invoice.overdue_mailed_at = func.now()
    await tell(db, invoice, "invoice_overdue")
