"""Amounts of payments: exact, above zero, with no more digits than ISO 4217 gives the currency."""

from decimal import Decimal
from functools import cache

from iso4217 import Currency
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import money
from bursar.core.errors import BursarError
from bursar.wallets.models import Asset

MOST = Decimal(10) ** 12  # as the table says


class UnknownCurrency(BursarError, status=422, code="payments.unknown_currency"):
    """There is no such currency, or nothing can be paid in it here."""


@cache
def digits(code: str) -> int:
    """Behind the decimal point: 2 of USD, 0 of JPY, 3 of KWD."""
    try:
        exponent = Currency(code).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise unknown()
    return int(exponent)


def unknown() -> UnknownCurrency:
    detail = "Nothing can be paid in this currency here."
    error = {"pointer": "/currency", "detail": detail, "code": UnknownCurrency.code}
    return UnknownCurrency(detail, errors=[error])


async def check(
    db: AsyncSession, amount: Decimal, currency: str, *, pointer: str = "/amount"
) -> Decimal:
    """The amount with all digits of its currency, which the ledger must keep accounts in."""
    scale = digits(currency)
    asset = await db.get(Asset, currency)
    if asset is None or asset.kind != "currency":
        raise unknown()
    exact = money.decimal(money.minor(amount, scale, pointer=pointer), scale)
    if exact >= MOST:
        raise money.bad(money.TooLarge, pointer, "This amount is too large.")
    return exact


def exactly(amount: Decimal, currency: str) -> Decimal:
    """With all digits of its currency, as it is shown."""
    return amount.quantize(Decimal(1).scaleb(-digits(currency)))
