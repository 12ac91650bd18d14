"""What cannot be billed as it is: kept with its reason until a look could bill it.

It is looked at with a new plan, with usage that changes (not of a month that is over and invoiced),
and by itself: with the next run, then after as long as it has waited already, at last once an hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing.models import Charging

LONGEST = timedelta(hours=1)
MOST_WAITING = 5_000  # customers of one run, which come after all others

found_total = Counter(
    "bursar_billing_waits_total",
    "Meters of a customer's month that were found not to be billed as they are; each once.",
    ("charging",),
)
for each in Charging:
    found_total.labels(each.value)  # from the start at 0, so that the first one is a change


@dataclass(frozen=True, slots=True)
class Waiting:
    """What cannot be billed as it is, and why: a meter of a customer, alone, or all of them."""

    user_id: UUID
    meter: str | None
    why: str


# Whoever is gone meanwhile waits no more.
KEEP = text("""
  insert into billing_waits as here (charging, month, user_id, meter, waits_because)
  select :charging, :month, users.id, said.meter, said.why
  from unnest(cast(:users as uuid[]), cast(:meters as varchar[]), cast(:reasons as varchar[]))
    as said (user_id, meter, why)
  join users on users.id = said.user_id
  order by users.id, said.meter
  on conflict on constraint uq_billing_waits_meter do update
    set waits_because = excluded.waits_because,
      next_look_at = now() + least(now() - here.since, cast(:longest as interval))
  returning since = now()
""")
FORGET = text("""
  delete from billing_waits as here
  where charging = :charging and month = :month and user_id = any(cast(:people as uuid[]))
    and not exists (
      select from unnest(cast(:users as uuid[]), cast(:meters as varchar[]))
        as said (user_id, meter)
      where said.user_id = here.user_id and said.meter is not distinct from here.meter)
""")
# Customer by customer, as they are billed: where all has failed, that says when.
TO_LOOK_AT = text("""
  select month, user_id from billing_waits where charging = :charging
  group by month, user_id
  having coalesce(max(next_look_at) filter (where meter is null), max(next_look_at)) <= now()
  order by max(next_look_at), month, user_id limit :most
""")


async def write_down(
    db: AsyncSession,
    charging: Charging,
    month: str,
    waiting: Sequence[Waiting],
    *,
    of: Sequence[UUID] = (),
) -> int:
    """What waits; and that nothing else does `of` them, whose month was billed as a whole. How
    many are new."""
    facts = {
        "charging": charging,
        "month": month,
        "users": [each.user_id for each in waiting],
        "meters": [each.meter for each in waiting],
    }
    if of:
        await db.execute(FORGET, {**facts, "people": of})
    if not waiting:
        return 0
    reasons = [each.why for each in waiting]
    kept = await db.scalars(KEEP, {**facts, "reasons": reasons, "longest": LONGEST})
    return sum(kept)


async def to_look_at(db: AsyncSession, charging: Charging) -> list[tuple[str, UUID]]:
    """Months and whose; those that were to be looked at longest ago first."""
    found = await db.execute(TO_LOOK_AT, {"charging": charging, "most": MOST_WAITING})
    return [(month, user_id) for month, user_id in found]
