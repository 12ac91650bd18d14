"""Prices with the digits of their currency, neither more nor fewer."""

from decimal import Decimal

from iso4217 import Currency

from bursar.core import money
from bursar.core.errors import BursarError

DIGITS: dict[str, int] = {
    each.code: each.exponent for each in Currency if each.exponent is not None
}


class UnknownCurrency(BursarError, status=422, code="booking.unknown_currency"):
    """A currency is one of ISO 4217 that has a smallest unit, such as USD or JPY."""


def in_currency(amount: Decimal, currency: str) -> Decimal:
    """The exact price: 20 dollars are 20.00, 20 yen are 20; nothing is rounded."""
    if currency not in DIGITS:
        detail = "There is no such currency; take a code of ISO 4217 such as USD."
        raise money.bad(UnknownCurrency, "/currency", detail)
    digits = DIGITS[currency]
    return money.decimal(money.signed_minor(amount, digits, pointer="/price"), digits)


def share(price: Decimal, percent: int, currency: str) -> Decimal:
    """So many percent of a price, rounded down to the currency's digits."""
    whole = int(price.scaleb(DIGITS[currency]))
    return money.decimal(whole * percent // 100, DIGITS[currency])
