"""What people do about usage: grant more of it, and forget whose it was."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.audit import service as audit
from bursar.core.errors import InvalidInput
from bursar.metering.models import UsageGrant

FORGET = text("select forget_usage(:user_id)")


async def grant(
    db: AsyncSession, user_id: UUID, units: int, *, month: str | None, reason: str
) -> UsageGrant:
    """More than the tier has, in one month; at once, in every process."""
    await accounts.user(db, user_id)
    this_month = f"{datetime.now(UTC):%Y-%m}"
    month = month or this_month
    if month < this_month:
        raise InvalidInput.at("/month", "This month is over; nothing can be used in it any more.")
    given = {"month": month, "units": units, "reason": reason}
    making = insert(UsageGrant).values(given | {"user_id": user_id}).returning(UsageGrant)
    row = (await db.scalars(making)).one()
    await audit.record(db, "usage.granted", "user", user_id, after=given)
    return row


async def forget(db: AsyncSession, user_id: UUID) -> None:
    """The keys and raw calls of an erased account go; sums, which name nobody, stay."""
    await db.execute(FORGET, {"user_id": user_id})
