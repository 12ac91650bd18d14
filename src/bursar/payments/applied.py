"""What applying a fact has done: something new, nothing new, or nothing yet."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Effect(StrEnum):
    """What has become of a fact."""

    DONE = "done"
    KNOWN = "known"  # it was so before
    NOT_HERE = "not_here"  # what it is about is not here, or not yet: it is tried again
    DIFFERS = "differs"  # it cannot be what was asked for: for staff to look at


DONE, KNOWN, NOT_HERE, DIFFERS = Effect.DONE, Effect.KNOWN, Effect.NOT_HERE, Effect.DIFFERS


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect, on which payment, and why where it needs a reason."""

    what: Effect
    payment_id: UUID | None = None
    reason: str | None = None
