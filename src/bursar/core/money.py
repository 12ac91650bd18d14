"""Amounts: whole numbers of the smallest unit inside, exact decimals at the edge, no floats."""

from decimal import Context, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from bursar.core.errors import BursarError

MOST_MINOR = 2**63 - 1  # what a BIGINT holds
DIGITS = 60  # of the arithmetic: far more than any amount has, so nothing is ever rounded
EXACT = Context(prec=DIGITS)


def plain_number(value: Any) -> Any:
    """True would pass for 1, and Decimal takes the digits of any script, and underscores."""
    is_odd = isinstance(value, str) and not (value.isascii() and "_" not in value)
    if isinstance(value, bool) or is_odd:
        raise ValueError("This is a number.")
    return value


NUMBER = BeforeValidator(
    plain_number
)  # after the limits: pydantic writes those before it as JSON Schema

SCHEMA = {  # of the documents: a number, or its digits as a text
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^[1-9][0-9]{0,8}(\.[0-9]{1,2})?$"},
    ]
}
Amount = Annotated[
    Decimal, Field(allow_inf_nan=False), NUMBER, WithJsonSchema(SCHEMA, mode="validation")
]
"""An amount on the wire. That it is above zero and has no more digits than its asset, says minor():
each of these has a code of its own."""


class NotPositive(BursarError, status=422, code="money.not_positive"):
    """The amount is zero or below."""


class TooManyDigits(BursarError, status=422, code="money.too_many_digits"):
    """The amount has more digits behind the decimal point than its asset; nothing is rounded."""


class TooLarge(BursarError, status=422, code="money.too_large"):
    """The amount is larger than any that can be kept."""


BAD_AMOUNTS = (NotPositive, TooManyDigits, TooLarge)


def bad(kind: type[BursarError], pointer: str, detail: str) -> BursarError:
    return kind(detail, errors=[{"pointer": pointer, "detail": detail, "code": kind.code}])


def minor(amount: Decimal, scale: int, *, pointer: str = "/amount") -> int:
    """The positive amount in the asset's smallest unit, or why there is none."""
    whole = signed_minor(amount, scale, pointer=pointer)
    if whole <= 0:
        raise bad(NotPositive, pointer, "An amount is more than zero.")
    return whole


def signed_minor(amount: Decimal, scale: int, *, pointer: str = "/amount") -> int:
    """The same for an amount that may be zero or below."""
    whole = 0
    if amount:
        if not amount.is_finite() or amount.adjusted() > DIGITS // 2:
            raise bad(TooLarge, pointer, "This amount is too large.")
        exact = exactly(amount, scale)
        if exact is None:
            raise bad(TooManyDigits, pointer, f"An amount here has at most {scale} decimal places.")
        whole = exact
    if abs(whole) > MOST_MINOR:
        raise bad(TooLarge, pointer, "This amount is too large.")
    return whole


def exactly(amount: Decimal, scale: int) -> int | None:
    """In the smallest unit; None where that would have to be rounded."""
    if len(amount.as_tuple().digits) > DIGITS or amount.adjusted() < -DIGITS:
        return None
    scaled = EXACT.scaleb(amount, scale)
    return int(scaled) if scaled == scaled.to_integral_value(context=EXACT) else None


def decimal(amount: int, scale: int) -> Decimal:
    """The exact amount with all the digits of its asset: 1500000 of scale 6 is 1.500000."""
    return EXACT.scaleb(amount, -scale)
