"""Prices that can be paid: in a currency of the ledger, with the digits that ISO 4217 gives it."""

from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import money
from bursar.core.errors import BursarError
from bursar.payments import currencies


class NegativePrice(BursarError, status=422, code="booking.negative_price"):
    """A price is zero or more."""


async def in_currency(db: AsyncSession, price: Decimal, currency: str) -> Decimal:
    """The exact price: 20 dollars are 20.00, 20 yen are 20; nothing is rounded."""
    if price < 0:
        raise money.bad(NegativePrice, "/price", "A price is zero or more.")
    if price == 0:
        return money.decimal(0, currencies.digits(currency))
    return await currencies.check(db, price, currency, pointer="/price")


def share(amount: Decimal, percent: int, currency: str) -> Decimal:
    """So many percent of an amount, rounded down to the currency's digits."""
    digits = currencies.digits(currency)
    return money.decimal(money.signed_minor(amount, digits) * percent // 100, digits)
