"""What the queue and the outboxes keep for a while and then forget, each night."""

import logging
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, jobs, mail, relay

log = logging.getLogger(__name__)

KEPT_LOG = timedelta(days=14)
KEPT_EVENTS = timedelta(days=30)
KEPT_SUBSCRIBERS = timedelta(days=14)

PRUNE_LOG = text("""
  delete from pgqueuer_log as log
  where created < now() - cast(:age as interval)
    and not exists (select from pgqueuer as job where job.id = log.job_id)
""")
PRUNE_WORKERS = text("delete from workers where seen_at < now() - interval '1 day'")


@jobs.cron("17 2 * * *", "jobs.prune_log")
async def prune_log(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets what happened to jobs that ended two weeks ago, and workers that died."""
    await db.execute(PRUNE_LOG, {"age": KEPT_LOG})
    await db.execute(PRUNE_WORKERS)


@jobs.cron("27 2 * * *", "events.prune")
async def prune_events(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets events of last month that every subscriber has passed."""
    known = list(events.subscribers)
    for name in await db.scalars(relay.FORGET, {"unseen": KEPT_SUBSCRIBERS, "known": known}):
        log.warning("the subscriber %s is gone for two weeks: its position is forgotten", name)
    await db.execute(relay.PRUNE, {"age": KEPT_EVENTS})


@jobs.cron("37 2 * * *", "mail.prune")
async def prune_mails(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets mails that were sent 90 days ago, and those not sent after 30 days."""
    await mail.prune(db)
