"""Reads of usage: each as its caller, so that row-level security has the last word.

Sums are read from sums: what they cost does not depend on how much there is behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.core import paging
from bursar.core.paging import Order, Page, PageQuery
from bursar.metering import rules
from bursar.metering.models import MonthlyUsage, Usage, UsageGrant

COUNTED = 10_000  # beyond that a list says "more than"
MOST_PARTS = 1000

USAGE = Order({"timestamp": Usage.timestamp}, key=Usage.id, default="-timestamp")
MONTHS = Order({"month": MonthlyUsage.month}, key=MonthlyUsage.user_id, default="-month")
GRANTS = Order({"created_at": UsageGrant.created_at}, key=UsageGrant.id, default="-created_at")

By = Literal["endpoint", "key", "status", "day", "hour"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls somebody wants; None takes all. `until` is the first moment not wanted."""

    endpoint: str | None = None
    api_key_id: UUID | None = None
    status_code: int | None = None
    failed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, call: Any = Usage) -> list[Any]:
        """On the calls of a query."""
        found: list[Any] = []
        if self.endpoint is not None:
            found.append(call.endpoint == self.endpoint)
        if self.api_key_id is not None:
            found.append(call.api_key_id == self.api_key_id)
        if self.status_code is not None:
            found.append(call.status_code == self.status_code)
        if self.failed is not None:
            has_failed = func.coalesce(call.status_code, 0) >= 400
            found.append(has_failed if self.failed else ~has_failed)
        return found

    def bounds(self) -> list[Any]:
        """Those of time."""
        found: list[Any] = []
        if self.since is not None:
            found.append(Usage.timestamp >= self.since)
        if self.until is not None:
            found.append(Usage.timestamp < self.until)
        return found


async def usage(db: AsyncSession, user_id: UUID, ask: PageQuery, filters: Filters) -> Page[Usage]:
    """A customer's calls, the newest first."""
    query = select(Usage).where(Usage.user_id == user_id, *filters.bounds(), *filters.conditions())
    return await paging.fetch(db, query, ask, USAGE, count_to=COUNTED)


async def summary(
    db: AsyncSession, user_id: UUID, ask: PageQuery, *, month: str | None = None
) -> Page[MonthlyUsage]:
    """Month by month."""
    query = select(MonthlyUsage).where(MonthlyUsage.user_id == user_id)
    if month:
        query = query.where(MonthlyUsage.month == month)
    return await paging.fetch(db, query, ask, MONTHS)


@dataclass(frozen=True, slots=True)
class Quota:
    """What somebody may use in this month, and has used."""

    tier: str
    month: str
    quota: int | None
    granted: int
    used: int
    is_hard: bool
    resets_at: datetime
    rate_per_second: int | None
    rate_per_minute: int | None

    @property
    def remaining(self) -> int | None:
        return None if self.quota is None else max(0, self.quota - self.used)


async def quota(db: AsyncSession, user_id: UUID) -> Quota:
    user = await accounts.user(db, user_id)
    now = datetime.now(UTC)
    month = f"{now:%Y-%m}"
    terms = await rules.terms(db)
    months = select(MonthlyUsage.units).where(
        MonthlyUsage.user_id == user_id, MonthlyUsage.month == month
    )
    grants = select(func.coalesce(func.sum(UsageGrant.units), 0)).where(
        UsageGrant.user_id == user_id, UsageGrant.month == month
    )
    tier_has: int = terms[f"quota_{user.tier}"]
    granted = int(await db.scalar(grants) or 0)
    return Quota(
        tier=user.tier,
        month=month,
        quota=tier_has + granted if tier_has else None,
        granted=granted,
        used=await db.scalar(months) or 0,
        is_hard=terms[f"quota_hard_{user.tier}"],
        resets_at=next_month(now),
        rate_per_second=terms[f"rate_per_second_{user.tier}"] or None,
        rate_per_minute=terms[f"rate_per_minute_{user.tier}"] or None,
    )


def next_month(now: datetime) -> datetime:
    number = now.year * 12 + now.month
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Part:
    """Calls that have one thing in common, with how their response times lay."""

    part: str | None
    requests: int
    failed_requests: int
    units: int
    timed: int
    total_response_time_ms: int
    latencies: Sequence[int]
    parts: int  # how many it is itself: of the rest more than one


PARTS: dict[By, tuple[str, str]] = {  # what it is called in which table
    "endpoint": ("endpoint", "usage_days"),
    "key": ("nullif(api_key_id, '00000000-0000-0000-0000-000000000000')::text", "usage_days"),
    "status": ("nullif(status_code, 0)::text", "usage_days"),
    "day": ("day::text", "usage_days"),
    "hour": (
        """to_char(hour at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"')""",
        "usage_hours",
    ),
}
BREAKDOWN = """
  with parts as (
    select {part} as part, sum(requests)::bigint as requests,
      coalesce(sum(requests) filter (where status_code >= 400), 0)::bigint as failed,
      sum(units)::bigint as units, sum(timed)::bigint as timed,
      sum(total_response_time_ms)::bigint as ms, sum_latencies(latencies) as latencies
    from {table}
    where user_id = :user_id and {since} >= :since and {since} < :until
    group by 1
  ), placed as (
    select *, least(row_number() over (order by {order}), :most + 1) as place from parts
  )
  select min(part), sum(requests)::bigint, sum(failed)::bigint, sum(units)::bigint,
    sum(timed)::bigint, sum(ms)::bigint, sum_latencies(latencies), count(*)
  from placed group by place order by place
"""


async def breakdown(
    db: AsyncSession, user_id: UUID, by: By, since: date, until: date
) -> tuple[list[Part], Part | None]:
    """The largest parts first, and the rest of them together; days and hours in their order."""
    part, table = PARTS[by]
    column = "hour" if by == "hour" else "day"
    order = "part" if by in ("day", "hour") else "requests desc, part"
    sql = BREAKDOWN.format(part=part, table=table, since=column, order=order)  # our own words
    facts: dict[str, Any] = {"user_id": user_id, "most": MOST_PARTS}
    facts |= {"since": since, "until": until}
    if by == "hour":
        facts |= {"since": midnight(since), "until": midnight(until)}
    parts = [Part(*row) for row in await db.execute(text(sql), facts)]
    return parts[:MOST_PARTS], parts[MOST_PARTS] if len(parts) > MOST_PARTS else None


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def grants(db: AsyncSession, user_id: UUID, ask: PageQuery) -> Page[UsageGrant]:
    await accounts.user(db, user_id)
    query = select(UsageGrant).where(UsageGrant.user_id == user_id)
    return await paging.fetch(db, query, ask, GRANTS)


@accounts.keeps_personal_data("usage")
async def personal_data(db: AsyncSession, user_id: UUID) -> dict[str, Any]:
    """What each month adds up to, and the newest calls."""
    months = select(MonthlyUsage).where(MonthlyUsage.user_id == user_id)
    calls = select(Usage).where(Usage.user_id == user_id)
    calls = calls.order_by(Usage.timestamp.desc(), Usage.id.desc()).limit(COUNTED)
    kept = ("timestamp", "endpoint", "status_code", "response_time_ms", "ip_address", "user_agent")
    return {
        "months": [
            {"month": row.month, "requests": row.total_requests, "units": row.units}
            for row in await db.scalars(months.order_by(MonthlyUsage.month))
        ],
        "calls": [{name: getattr(row, name) for name in kept} for row in await db.scalars(calls)],
    }
