"""Jobs of metering: months are made ahead and dropped in time, warnings are mailed once."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bursar.accounts import letters
from bursar.accounts.models import User
from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.core.jobs import Run
from bursar.metering import service
from bursar.metering.events import oldest_kept
from bursar.metering.models import QuotaWarning, UsageEventId, UsageHour
from bursar.metering.rules import USAGE_RETENTION_MONTHS
from bursar.system import queries as system

AHEAD = text("""
  select make_usage_partition(
    month_of(date_trunc('month', now(), 'UTC') + month * interval '1 month'))
  from generate_series(0, 2) as month
""")
DROP = text("select drop_usage_partitions(:oldest)")
MOST_MAILS = 500  # of one turn; the rest is the next minute's


@jobs.cron("10 0 * * *", "metering.turn_months")
async def turn_months(db: AsyncSession, _: dict[str, Any]) -> None:
    """Makes the partitions of the months ahead, and has usage dropped that was kept long enough."""
    await jobs.enqueue(db, drop_months, unique_key="one at a time")
    await db.execute(AHEAD)  # last: until the end nobody can change a customer or a key


@jobs.steps("metering.drop_months", added_by={Role.WORKER}, at_once=1)
async def drop_months(run: Run) -> None:
    """Drops usage that was kept long enough, and forgets its ids and hours after that."""
    async with run.transaction() as db:
        months = await system.value(db, USAGE_RETENTION_MONTHS)
        oldest = oldest_kept(datetime.now(UTC), months)
        await db.execute(DROP, {"oldest": f"{oldest:%Y-%m}"})
    # Not before it is refused what these would be needed for, wherever this is interrupted. They
    # may be millions: nobody waits for these transactions.
    async with run.transaction() as db:
        await db.execute(delete(UsageEventId).where(UsageEventId.seen_on < oldest.date()))
    async with run.transaction() as db:
        await db.execute(delete(UsageHour).where(UsageHour.hour < oldest))


@jobs.cron("* * * * *", "metering.mail_warnings")
async def mail_warnings(db: AsyncSession, _: dict[str, Any]) -> None:
    """Tells customers that a month's quota is nearly or wholly used up, once each; of what was
    noticed since the last turn only the last, which says how it stands."""
    waiting = select(QuotaWarning, User).join(User, User.id == QuotaWarning.user_id)
    waiting = waiting.where(QuotaWarning.mailed_at.is_(None), ~outdone())
    waiting = waiting.order_by(QuotaWarning.noticed_at)
    for row, user in (await db.execute(waiting.limit(MOST_MAILS))).all():
        await letters.tell(
            db,
            "quota_warning",
            user,
            percent=row.percent,
            month=row.month,
            used=row.used,
            quota=row.quota,
            is_hard=row.is_hard,
        )
        until_then = (
            QuotaWarning.user_id == row.user_id,
            QuotaWarning.month == row.month,
            QuotaWarning.mailed_at.is_(None),
            QuotaWarning.noticed_at <= row.noticed_at,
        )
        await db.execute(update(QuotaWarning).where(*until_then).values(mailed_at=func.now()))


def outdone() -> ColumnElement[bool]:
    """Another warning waits for the same customer and month, of a higher step or another quota."""
    later = aliased(QuotaWarning)
    return exists().where(
        later.user_id == QuotaWarning.user_id,
        later.month == QuotaWarning.month,
        later.mailed_at.is_(None),
        tuple_(later.noticed_at, later.percent)
        > tuple_(QuotaWarning.noticed_at, QuotaWarning.percent),
    )


@events.on("users.erased", subscriber="metering.erasure", timeout_seconds=300)
async def erase(db: AsyncSession, event: Published) -> None:
    user = await db.get(User, UUID(event.payload["user_id"]))
    if user is not None and user.erased_at is not None:
        await service.forget(db, user.id)
