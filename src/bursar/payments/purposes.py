"""What a payment may be for: the wallet itself, and what rooms above this one declare.

    @purposes.purpose("appointment", column="appointment_id")
    async def due(db: AsyncSession, subject_id: UUID, user_id: UUID) -> Due: ...

The function answers what is owed, or raises why nothing can be paid. It is asked again by whoever
listens to `payments.completed`: what was captured is in the payment, and only that counts.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.errors import BursarError, InvalidInput

TOP_UP = "top_up"
COLUMNS = ("service_id", "appointment_id", "training_id", "invoice_id")


@dataclass(frozen=True, slots=True)
class Due:
    """What is owed for something."""

    amount: Decimal
    currency: str
    description: str


Ask = Callable[[AsyncSession, UUID, UUID], Awaitable[Due]]


@dataclass(frozen=True, slots=True)
class Purpose:
    """One kind of thing that is paid for, and the column that names which."""

    name: str
    column: str
    due: Ask


registry: dict[str, Purpose] = {}


def purpose(name: str, *, column: str) -> Callable[[Ask], Ask]:
    """Declares one; its function says what is owed."""
    if name in registry or name == TOP_UP:
        raise ValueError(f"two purposes share the name {name}")
    if column not in COLUMNS:
        raise ValueError(f"payments have no column {column}")

    def register(function: Ask) -> Ask:
        registry[name] = Purpose(name, column, function)
        return function

    return register


class WrongAmount(BursarError, status=422, code="payments.wrong_amount"):
    """The amount is not what is owed; `due` says what is."""


async def check(
    db: AsyncSession,
    subjects: Mapping[str, UUID],
    user_id: UUID,
    amount: Decimal | None,
    currency: str | None,
) -> tuple[str, Due | None]:
    """The purpose of a payment by what it names, and what is due; None for a top-up."""
    if not subjects:
        return TOP_UP, None
    if len(subjects) > 1:
        raise InvalidInput.at("", "A payment is for one thing; send several.", "one_subject")
    [(column, subject_id)] = subjects.items()
    known = next((each for each in registry.values() if each.column == column), None)
    if known is None:
        raise InvalidInput.at(f"/{column}", "Nothing of this kind is sold here.", "unknown_purpose")
    due = await known.due(db, subject_id, user_id)
    if (amount is not None and amount != due.amount) or currency not in (None, due.currency):
        raise WrongAmount(
            f"What is owed is {due.amount} {due.currency}.", due=due.amount, currency=due.currency
        )
    return known.name, due
