"""How far a job has looked for usage that has changed: it goes on there, also after a crash.

Forgetting it costs work and nothing else: what was billed already is not billed again.
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import queries, waits
from bursar.billing.models import Charging
from bursar.billing.rules import CUSTOMERS, MARGIN, TURNS
from bursar.billing.waits import Waiting
from bursar.core import failures
from bursar.core.jobs import Run
from bursar.core.queue import HoldLost

log = logging.getLogger(__name__)

FIRST = UUID(int=0)
Bill = Callable[[AsyncSession, Sequence[UUID], str], Awaitable[list[Waiting]]]

MAKE = text("""
  insert into billing_looks (charging, month) values (:charging, :month) on conflict do nothing
""")
BEGIN = text("""
  update billing_looks set began = coalesce(began, clock_timestamp()),
    after = coalesce(after, cast(:first as uuid))
  where charging = :charging and month = :month returning upto, began, after
""")
# A new plan has deleted the row meanwhile: then the look begins anew, with the next run.
GO_ON = text("""
  update billing_looks set after = :after
  where charging = :charging and month = :month and began = :began returning true
""")
END = text("""
  update billing_looks set began = null, after = null,
    upto = began - cast(:margin as interval)
  where charging = :charging and month = :month and began = :began
""")


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the usage of a month, which bills it."""

    run: Run
    charging: Charging
    month: str
    bill: Bill

    async def at_changes(self) -> None:
        """At whose usage has changed since the last one; in so many turns as one run has."""
        async with self.run.transaction() as db:
            await db.execute(MAKE, self.key)
            row = await db.execute(BEGIN, {**self.key, "first": FIRST})
            since, began, after = row.one()
        for _ in range(TURNS):
            async with self.run.transaction() as db:
                people = await queries.users_of(db, self.month, since, after, CUSTOMERS)
            if not people:
                return await self.end(began)
            await self.at(people)
            after = people[-1]
            async with self.run.transaction() as db:
                if not await db.scalar(GO_ON, {**self.key, "after": after, "began": began}):
                    return None
        return None

    async def end(self, began: datetime) -> None:
        async with self.run.transaction() as db:
            await db.execute(END, {**self.key, "began": began, "margin": MARGIN})

    async def at(self, people: Sequence[UUID]) -> None:
        """Where one customer cannot be billed, the others are all the same; and where one meter
        cannot, the customer's others. What waits is kept: nobody is passed over for good."""
        try:
            async with self.run.transaction() as db:
                waiting = await self.bill(db, people, self.month)
                new = await waits.write_down(db, self.charging, self.month, waiting, of=people)
        except HoldLost:
            raise
        except Exception as error:
            if len(people) == 1:
                return await self.failed(people[0], error)
            for each in people:
                await self.at([each])
            return None
        return self.tell(waiting, new)

    async def failed(self, user_id: UUID, error: Exception) -> None:
        waiting = [Waiting(user_id, None, failures.message(error))]
        async with self.run.transaction() as db:
            new = await waits.write_down(db, self.charging, self.month, waiting)
        self.tell(waiting, new, failures.where(error))

    def tell(self, waiting: Sequence[Waiting], new: int, where: str = "") -> None:
        waits.found_total.labels(self.charging).inc(new)
        for each in waiting:
            meter = f" at the meter {each.meter}" if each.meter else ""
            log.error(
                "the usage of %s in %s%s is not billed: %s%s",
                each.user_id, self.month, meter, each.why, where and f"\n{where}",
            )  # fmt: skip

    @property
    def key(self) -> dict[str, str]:
        return {"charging": self.charging, "month": self.month}


async def at_some(
    run: Run, charging: Charging, bill: Bill, wanted: Iterable[tuple[str, UUID]]
) -> None:
    """At months of some customers, some at a time."""
    months: dict[str, list[UUID]] = defaultdict(list)
    for month, user_id in wanted:
        months[month].append(user_id)
    for month, people in sorted(months.items()):
        for first in range(0, len(people), CUSTOMERS):
            await Look(run, charging, month, bill).at(people[first : first + CUSTOMERS])
