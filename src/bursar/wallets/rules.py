"""What customers may send each other, as staff have set it."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from bursar.core import money
from bursar.core.errors import BursarError
from bursar.system.catalogue import Setting, setting

TRANSFERS_OPEN = setting(
    "transfers_open", bool, True, "Whether customers may send each other money."
)
TRANSFER_LIMIT = setting(
    "transfer_limit",
    Decimal,
    Decimal(1000),
    "The most that a customer may send at once, in dollars, or in units of another currency.",
    ge=0,
    le=1_000_000_000,
)
TRANSFER_LIMIT_PER_DAY = setting(
    "transfer_limit_per_day",
    Decimal,
    Decimal(5000),
    "The most that a customer may send in one day, counted in UTC, in the units of transfer_limit.",
    ge=0,
    le=1_000_000_000,
)
SETTINGS: tuple[Setting[Any], ...] = (TRANSFERS_OPEN, TRANSFER_LIMIT, TRANSFER_LIMIT_PER_DAY)


class TransfersClosed(BursarError, status=403, code="wallet.transfers_closed"):
    """Customers cannot send each other money here, or not at the moment."""


class TransferTooLarge(BursarError, status=422, code="wallet.transfer_too_large"):
    """More than may be sent at once; `most` says how much that is."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one transfer, in minor units of its currency."""

    open: bool
    at_once: int
    per_day: int

    @classmethod
    def of(cls, stored: Mapping[str, Any], scale: int) -> "Rules":
        """From what staff have set, by key; what they have not has its default."""
        is_open, at_once, per_day = (
            each.default if stored.get(each.key) is None else each.parse(stored[each.key])
            for each in SETTINGS
        )
        return cls(is_open, floor(at_once, scale), floor(per_day, scale))

    def check(self, amount: int, currency: str, scale: int) -> None:
        if not self.open:
            raise TransfersClosed("Customers cannot send each other money here.")
        if amount > self.at_once:
            most = money.decimal(self.at_once, scale)
            raise TransferTooLarge(
                f"At most {most} may be sent at once.", most=most, currency=currency
            )


def floor(limit: Decimal, scale: int) -> int:
    """A limit of more digits than the currency has is none that could be reached."""
    with localcontext(prec=money.DIGITS):
        return min(int(limit.scaleb(scale)), money.MOST_MINOR)
