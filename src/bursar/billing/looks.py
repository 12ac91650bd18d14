"""How far a job has looked for usage that has changed: it goes on there, also after a crash.

Forgetting it costs work and nothing else: what was billed already is not billed again.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import queries
from bursar.billing.charging import Waiting
from bursar.billing.models import Charging
from bursar.billing.rules import CUSTOMERS, MARGIN, TURNS
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
  update billing_looks set after = :after, failed = failed or not :all_billed
  where charging = :charging and month = :month and began = :began returning true
""")
# Where somebody could not be billed, the same is looked at again: nobody is passed over for good.
END = text("""
  update billing_looks set began = null, after = null, failed = false,
    upto = case when failed then upto else began - cast(:margin as interval) end
  where charging = :charging and month = :month and began = :began
""")


@dataclass(frozen=True, slots=True)
class Look:
    """A look at whose usage of a month has changed since the last one."""

    run: Run
    charging: Charging
    month: str

    async def bill(self, bill: Bill) -> None:
        """Bills them, some at a time; in so many turns as one run has."""
        async with self.run.transaction() as db:
            await db.execute(MAKE, self.key)
            row = await db.execute(BEGIN, {**self.key, "first": FIRST})
            since, began, after = row.one()
        for _ in range(TURNS):
            async with self.run.transaction() as db:
                people = await queries.users_of(db, self.month, since, after, CUSTOMERS)
            if not people:
                return await self.end(began)
            all_billed = await one_by_one_if_need_be(self.run, bill, people, self.month)
            after = people[-1]
            async with self.run.transaction() as db:
                facts = {**self.key, "after": after, "began": began, "all_billed": all_billed}
                if not await db.scalar(GO_ON, facts):
                    return None
        return None

    async def end(self, began: datetime) -> None:
        async with self.run.transaction() as db:
            await db.execute(END, {**self.key, "began": began, "margin": MARGIN})

    @property
    def key(self) -> dict[str, str]:
        return {"charging": self.charging, "month": self.month}


async def one_by_one_if_need_be(run: Run, bill: Bill, people: Sequence[UUID], month: str) -> bool:
    """Where one customer cannot be billed, the others are all the same; and where one meter cannot,
    the customer's others. Whether all were."""
    try:
        async with run.transaction() as db:
            waiting = await bill(db, people, month)
    except HoldLost:
        raise
    except Exception as error:
        if len(people) == 1:
            told, where = failures.message(error), failures.where(error)
            log.error("the usage of %s in %s is not billed: %s\n%s", people[0], month, told, where)
            return False
        return all([await one_by_one_if_need_be(run, bill, [each], month) for each in people])
    for each in waiting:
        log.error(
            "the usage of %s in %s at the meter %s is not billed: %s",
            each.user_id, month, each.meter, each.why,
        )  # fmt: skip
    return not waiting
