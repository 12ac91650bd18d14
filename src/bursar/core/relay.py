"""Each subscriber gets every committed event once and in order, whatever the others do.

The order is that of (transaction id, event id), behind a watermark: an event is handed on only when
every transaction (of the whole server) that began before its own has ended, so none can appear
behind a position that has passed it. Never max(id): ids are given at the insert, and commits come
in another order.

The position moves in the transaction of the subscriber's own writes. A crash between the two does
not exist; a call to the outside does not belong in a subscriber, it enqueues a job for that.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import failures
from bursar.core.database import WORKER, Database
from bursar.core.errors import BursarError
from bursar.core.events import CHANNEL, Published, Subscriber, registry
from bursar.core.jobs import NotAnObject, from_json

log = logging.getLogger(__name__)

BATCH = 50
LONGEST_DELAY_SECONDS = 300

SETTLE = text("select settle_restored_events()")
REGISTER = text("""
  insert into event_positions (subscriber, names) values (:subscriber, :names)
  on conflict (subscriber) do update set names = excluded.names, seen_at = now()
""")


async def register(database: Database, subscribers: list[Subscriber]) -> None:
    """A new subscriber begins at the watermark of this moment; one that is known goes on."""
    async with database.transaction(WORKER) as db:
        if await db.scalar(SETTLE):
            log.warning("events came from another server: their order was kept, their ids rebased")
        for subscriber in sorted(subscribers, key=lambda one: one.name):
            key = {"subscriber": subscriber.name, "names": list(subscriber.names)}
            await db.execute(REGISTER, key)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one turn did, and when the next one is worth it."""

    events: int
    next_in_seconds: float | None


IDLE = Delivery(0, None)
SOON = 0.05  # an older transaction is still open: no notification will tell when it ends


async def deliver(database: Database, subscriber: Subscriber) -> Delivery:
    """One batch in one transaction; if that fails, one event, so that only the bad one waits."""
    try:
        return await deliver_batch(database, subscriber, BATCH)
    except Exception as error:
        told = failures.message(error)
        log.info("%s failed on a batch (%s), trying one event", subscriber.name, told)
    try:
        return await deliver_batch(database, subscriber, 1)
    except Exception as error:
        told, where = failures.message(error), failures.where(error)
        log.error("%s failed on an event, tried again later: %s\n%s", subscriber.name, told, where)
        return await postpone(database, subscriber, error)


async def deliver_batch(database: Database, subscriber: Subscriber, limit: int) -> Delivery:
    async with database.transaction(WORKER) as db:
        failed = await db.scalar(LOCK, {"subscriber": subscriber.name})
        if failed is None:
            return IDLE  # another worker is at it, or it waits after a failure
        if events := await ready(db, subscriber.name, limit):
            told = await tell(db, subscriber, events)
            await move(db, subscriber.name, events[told - 1])
            return Delivery(told, 0)
        if await db.scalar(HELD_BACK, {"subscriber": subscriber.name}):
            return Delivery(0, SOON)
        if failed:
            await db.execute(RECOVER, {"subscriber": subscriber.name})  # it was no event's fault
        return IDLE


async def tell(db: AsyncSession, subscriber: Subscriber, events: Sequence[RowMapping]) -> int:
    """Stops in the middle of its time rather than running out of it: what is done is kept."""
    begun = time.monotonic()
    async with asyncio.timeout(subscriber.timeout_seconds):
        for told, event in enumerate(events, start=1):
            if published := as_published(event):
                await subscriber.handle(db, published)
            if time.monotonic() - begun > subscriber.timeout_seconds / 2:
                return told
    return len(events)


def as_published(row: RowMapping) -> Published | None:
    """None for what no code of ours has published, but somebody with SQL in hand may have."""
    if row["published_by"] not in registry[row["name"]].published_by:
        log.warning("event %(id)d is passed over: %(published_by)s may not publish %(name)s", row)
        return None
    try:
        return Published(**{**row, "payload": from_json(row["payload"])})
    except NotAnObject as error:
        log.warning("event %d is passed over: %s", row["id"], error)
        return None


LOCK = text("""
  select failures from event_positions
  where subscriber = :subscriber and retry_at <= clock_timestamp()
  for no key update skip locked
""")

RECOVER = text("""
  update event_positions set failures = 0, failing_since = null, last_error = null
  where subscriber = :subscriber
""")

# One index scan per name, so that a quiet name does not read through the events of a busy one.
READY = text("""
  select event.id, event.name, event.payload::text, event.published_by, event.actor,
    event.occurred_at
  from event_positions as position
  cross join unnest(position.names) as listened (name)
  cross join lateral (
    select * from events as next
    where next.name = listened.name
      and (next.xid, next.id) > (position.xid, position.event_id)
      and next.xid < pg_snapshot_xmin(pg_current_snapshot())
    order by next.xid, next.id limit :limit
  ) as event
  where position.subscriber = :subscriber
  order by event.xid, event.id limit :limit
""")


async def ready(db: AsyncSession, subscriber: str, limit: int) -> Sequence[RowMapping]:
    rows = await db.execute(READY, {"subscriber": subscriber, "limit": limit})
    return rows.mappings().all()


MOVE = text("""
  update event_positions as position
  set xid = event.xid, event_id = event.id, retry_at = clock_timestamp(),
    failures = 0, failing_since = null, last_error = null
  from events as event
  where position.subscriber = :subscriber and event.id = :event_id
""")


async def move(db: AsyncSession, subscriber: str, event: RowMapping) -> None:
    await db.execute(MOVE, {"subscriber": subscriber, "event_id": event["id"]})


HELD_BACK = text("""
  select exists (
    select from event_positions as position
    join events as event on event.name = any(position.names)
      and (event.xid, event.id) > (position.xid, position.event_id)
    where position.subscriber = :subscriber
  )
""")
POSTPONE = text("""
  update event_positions set failures = failures + 1, last_error = :error,
    failing_since = coalesce(failing_since, clock_timestamp()), retry_at = clock_timestamp()
      + least(power(2, least(failures, 20)), :longest) * interval '1 second'
  where subscriber = :subscriber
  returning extract(epoch from retry_at - clock_timestamp())::float8
""")


async def postpone(database: Database, subscriber: Subscriber, error: Exception) -> Delivery:
    """The subscriber rests, a little longer after each failure; its events wait for it."""
    key = {
        "subscriber": subscriber.name,
        "error": failures.message(error),
        "longest": LONGEST_DELAY_SECONDS,
    }
    async with database.transaction(WORKER) as db:
        return Delivery(0, await db.scalar(POSTPONE, key))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a subscriber has come, for health and operators."""

    subscriber: str
    names: list[str]
    event_id: int | None  # the last one it was told of; unknown after a restore
    waiting: int
    oldest_at: datetime | None
    failures: int
    failing_since: datetime | None
    last_error: str | None


POSITIONS = text("""
  select position.subscriber, position.names, position.failures, position.failing_since,
    position.last_error, nullif(position.event_id, 9223372036854775807) as event_id,
    count(event.id) as waiting, min(event.occurred_at) as oldest_at
  from event_positions as position
  left join events as event on event.name = any(position.names)
    and (event.xid, event.id) > (position.xid, position.event_id)
  group by position.subscriber order by position.subscriber
""")


async def positions(db: AsyncSession) -> list[Position]:
    return [Position(**row) for row in (await db.execute(POSITIONS)).mappings()]


STUCK_AFTER = timedelta(minutes=5)
STUCK = text("""
  select subscriber from event_positions
  where failing_since < clock_timestamp() - cast(:longer_than as interval) order by subscriber
""")


async def stuck(db: AsyncSession, longer_than: timedelta = STUCK_AFTER) -> list[str]:
    """The subscribers that have done nothing but fail for so long: their events wait."""
    return list(await db.scalars(STUCK, {"longer_than": longer_than}))


class NoSubscriber(BursarError, status=404, code="events.no_subscriber"):
    """Nobody of this name was ever told of an event here; `bursar events list` has the names."""


class NotFailing(BursarError, status=409, code="events.not_failing"):
    """Only an event on which its subscriber fails can be skipped; the others will be told."""


FAILING = text("""
  select failures from event_positions where subscriber = :subscriber for no key update
""")
WAKE = text(f"notify {CHANNEL}")


async def skip(db: AsyncSession, subscriber: str) -> RowMapping:
    """Passes over the one event on which the subscriber fails, and answers which one that is."""
    failed = await db.scalar(FAILING, {"subscriber": subscriber})
    if failed is None:
        raise NoSubscriber(f"There is no subscriber {subscriber}.")
    waiting = await ready(db, subscriber, 1) if failed else []
    if not waiting:
        raise NotFailing(f"{subscriber} fails on no event, so there is none to skip.")
    await move(db, subscriber, waiting[0])
    await db.execute(WAKE)  # for those behind it
    return waiting[0]


# No worker has begun with it for so long, and this one does not know it: it left the code.
FORGET = text("""
  delete from event_positions
  where seen_at < now() - cast(:unseen as interval) and subscriber <> all(:known)
  returning subscriber
""")
PRUNE = text("""
  delete from events as event
  where event.occurred_at < now() - cast(:age as interval)
    and event.xid < pg_snapshot_xmin(pg_current_snapshot())
    and not exists (
      select from event_positions as position
      where event.name = any(position.names)
        and (position.xid, position.event_id) < (event.xid, event.id)
    )
""")
