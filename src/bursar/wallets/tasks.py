"""What wallets do by themselves: spending is added up, and holds end when their time has passed.

What one transaction does is bounded: as long as it lasts, PostgreSQL keeps every old version of a
busy wallet, and a hold's wallet stays locked. A job in steps goes on where more was waiting.
"""

import logging
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.errors import BursarError
from bursar.core.jobs import Run
from bursar.wallets import followers, ledger, spending
from bursar.wallets import service as wallets
from bursar.wallets.ledger import HoldClosed, Request
from bursar.wallets.models import Hold, HoldState

log = logging.getLogger(__name__)

MOST_TURNS = 50  # of one job; what is left then has its turn a minute later
MOST_READ = 20_000  # of one turn: to find a few takes as long as to find many
MOST_EXPIRED = 200  # of one transaction


@jobs.cron("* * * * *", "wallets.follow_spending")
async def follow_spending(db: AsyncSession, _: dict[str, Any]) -> None:
    """Adds up what wallets spent in each day, once a minute."""
    if await spending.add_up(db) == followers.MOST:
        await jobs.enqueue(db, follow_more_spending, unique_key="one at a time")


@jobs.steps("wallets.follow_more_spending", added_by={Role.WORKER})
async def follow_more_spending(run: Run) -> None:
    """Goes on while there is more than one transaction should read."""
    for _ in range(MOST_TURNS):
        async with run.transaction() as db:
            read = await spending.add_up(db, most=MOST_READ)
        if read < MOST_READ:
            return


@jobs.cron("* * * * *", "wallets.expire_holds")
async def expire_holds(db: AsyncSession, _: dict[str, Any]) -> None:
    """Gives back what holds have set aside for longer than they may, once a minute."""
    if await expire_some(db):
        await jobs.enqueue(db, expire_more_holds, unique_key="one at a time")


@jobs.steps("wallets.expire_more_holds", added_by={Role.WORKER})
async def expire_more_holds(run: Run) -> None:
    """Goes on while there are more than one transaction should end."""
    for _ in range(MOST_TURNS):
        async with run.transaction() as db:
            more = await expire_some(db)
        if not more:
            return


async def expire_some(db: AsyncSession) -> bool:
    """Ends the oldest of them by one posting; answers whether more may be waiting.

    Whoever captured or voided one since it was seen was first: that is no error here.
    """
    due = select(Hold.id).where(Hold.state == HoldState.OPEN, Hold.expires_at <= func.now())
    holds = (await db.scalars(due.order_by(Hold.expires_at).limit(MOST_EXPIRED))).all()
    if not holds:
        return False
    requests = [Request("wallets", f"expire:{hold}", (ledger.expire(hold),)) for hold in holds]
    refused = 0
    for hold, told in zip(holds, await wallets.try_all(db, requests), strict=True):
        if isinstance(told, BursarError) and not isinstance(told, HoldClosed):
            refused += 1
            log.error("the hold %s cannot be ended: %s", hold, told.code)
    return refused < len(holds) == MOST_EXPIRED
