"""What providers tell by webhook: kept once, dealt with by a job, never dropped.

An event whose signature is right is written down together with the job that reads it
(payments/intake.py); the same event again changes nothing. One that is about something that is not
here yet is parked and tried again, less and less often, for two weeks. Then, or when it cannot be,
it waits for staff, who see it whole and can replay it.
"""

import logging
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.database_errors import state_of, translate
from bursar.core.errors import BursarError
from bursar.core.failures import message
from bursar.core.jobs import Run
from bursar.core.paging import Order, Page, PageQuery, fetch, only
from bursar.core.queue import HoldLost
from bursar.payments import settling
from bursar.payments.applied import DIFFERS, DONE, NOT_HERE, Applied
from bursar.payments.models import EventStatus, PaymentEvent
from bursar.payments.providers.registry import Providers, providers
from bursar.payments.rules import EVENTS_DAYS
from bursar.system import queries as system

log = logging.getLogger(__name__)

EVENTS = Order(
    {"received_at": PaymentEvent.received_at}, key=PaymentEvent.id, default="-received_at"
)
COUNT_TO = 10_000
PATIENCE = "14 days"
IGNORED = "of a type that changes nothing here"
MOST_DOUBLINGS = 10  # of the half minute between two tries; then six hours
RACES = {"40001", "40P01", "55P03"}  # serialization, deadlock, a lock that is held
MOST_STUMBLES = 8  # tries of what breaks our own code


@jobs.steps("payments.read_events", added_by={Role.WORKER, Role.STAFF}, at_once=2)
async def read_events(run: Run) -> None:
    """Gives webhooks' facts their effect, each in one transaction with what became of it."""
    async with run.transaction() as db:
        matter = await pass_over(db, [UUID(name) for name in run.payload["events"]])
    for event_id in matter:
        try:
            async with run.transaction() as db:
                await read(db, event_id)
        except Exception as error:
            if is_passing(error):
                raise  # not this event's fault: the job comes again
            log.warning("the webhook %s cannot be dealt with: %s", event_id, message(error))
            async with run.transaction() as db:
                await stumble(db, event_id, message(error))


async def pass_over(db: AsyncSession, event_ids: list[UUID]) -> list[UUID]:
    """Most of what providers tell changes nothing here: that is settled at once, all of it in one
    statement. Answers the others."""
    known = providers(db.info["settings"])
    query = select(PaymentEvent.id, PaymentEvent.provider, PaymentEvent.payload).where(
        PaymentEvent.id.in_(event_ids), PaymentEvent.status == EventStatus.WAITING
    )
    void = [row.id for row in await db.execute(query) if says_nothing(known, row)]
    settled = {"status": EventStatus.IGNORED, "outcome": IGNORED, "settled_at": func.now()}
    row = update(PaymentEvent).where(
        PaymentEvent.id.in_(void), PaymentEvent.status == EventStatus.WAITING
    )
    if void:
        await db.execute(row.values(attempts=PaymentEvent.attempts + 1, **settled))
    return [each for each in event_ids if each not in set(void)]


def says_nothing(known: Providers, row: Any) -> bool:
    try:
        return not known.of(row.provider).facts(orjson.loads(row.payload))
    except Exception:
        return False  # what is wrong with it is told when it is read by itself


def is_passing(error: Exception) -> bool:
    known = error if isinstance(error, BursarError) else translate(error)
    is_busy = known is not None and known.status == 503
    return is_busy or isinstance(error, HoldLost) or state_of(error) in RACES


async def read(db: AsyncSession, event_id: UUID) -> None:
    event = await unread(db, event_id)
    if event is None:
        return
    applied = await deal_with(db, providers(db.info["settings"]), event)
    for each in applied:
        event.payment_id = each.payment_id or event.payment_id
    event.status = status_of(applied)
    event.outcome = outcome_of(applied)
    if event.status == EventStatus.PARKED:
        await park(db, event)
    else:
        event.settled_at, event.next_try_at = func.now(), None


async def unread(db: AsyncSession, event_id: UUID) -> PaymentEvent | None:
    """Locked, and counted as a try; None when somebody else has dealt with it."""
    event = await db.get(PaymentEvent, event_id, with_for_update={"key_share": True})
    if event is None or event.status not in (EventStatus.WAITING, EventStatus.PARKED):
        return None
    event.attempts += 1
    return event


async def stumble(db: AsyncSession, event_id: UUID, why: str) -> None:
    """What breaks our code is tried a few times, where staff see it, and then left to them."""
    event = await unread(db, event_id)
    if event is None:
        return
    event.outcome = f"it cannot be dealt with: {why}"
    event.status = EventStatus.PARKED
    await park(db, event, over=event.attempts >= MOST_STUMBLES)


async def deal_with(db: AsyncSession, known: Providers, event: PaymentEvent) -> list[Applied]:
    provider = known.of(event.provider)
    try:
        facts = provider.facts(orjson.loads(event.payload))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [Applied(DIFFERS, reason=f"it cannot be read: {type(error).__name__} {error}"[:500])]
    return [await settling.apply(db, fact) for fact in facts]


def status_of(applied: list[Applied]) -> EventStatus:
    effects = {each.what for each in applied}
    if not effects:
        return EventStatus.IGNORED
    if DIFFERS in effects:
        return EventStatus.FAILED
    return EventStatus.PARKED if NOT_HERE in effects else EventStatus.DONE


def outcome_of(applied: list[Applied]) -> str:
    if not applied:
        return IGNORED
    reasons = [each.reason for each in applied if each.reason]
    done = any(each.what == DONE for each in applied)
    return "; ".join(reasons)[:1000] or ("done" if done else "known already")


async def park(db: AsyncSession, event: PaymentEvent, *, over: bool = False) -> None:
    """Again after half a minute, a minute, two, and so on; after two weeks staff look at it."""
    old = select(PaymentEvent.received_at < func.now() - text(f"interval '{PATIENCE}'"))
    if over or await db.scalar(old.where(PaymentEvent.id == event.id)):
        event.status, event.settled_at, event.next_try_at = EventStatus.FAILED, func.now(), None
        return
    seconds = min(30 * 2 ** min(event.attempts - 1, MOST_DOUBLINGS), 6 * 3600)
    event.next_try_at = func.now() + text(f"interval '{seconds} seconds'")


class UnknownEvent(BursarError, status=404, code="payments.unknown_event"):
    """There is no such webhook."""


async def event(db: AsyncSession, event_id: UUID, *, lock: bool = False) -> PaymentEvent:
    given: Any = {"key_share": True} if lock else None
    found = await db.get(PaymentEvent, event_id, with_for_update=given, populate_existing=True)
    if found is None:
        raise UnknownEvent("There is no such webhook.")
    return found


async def events(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: EventStatus | None = None,
    provider: str | None = None,
    type_: str | None = None,
    since: datetime | None = None,
) -> Page[PaymentEvent]:
    wanted = {
        PaymentEvent.status: status,
        PaymentEvent.provider: provider,
        PaymentEvent.type: type_,
    }
    query = only(select(PaymentEvent), wanted)
    if since is not None:
        query = query.where(PaymentEvent.received_at >= since)
    return await fetch(db, query, ask, EVENTS, count_to=COUNT_TO)


async def replay(db: AsyncSession, event_id: UUID) -> PaymentEvent:
    """As the worker, on behalf of staff: it is read once more, as if it had come now."""
    found = await event(db, event_id, lock=True)
    before = {"status": found.status}
    found.status, found.next_try_at, found.settled_at = EventStatus.WAITING, None, None
    await db.flush()
    await jobs.enqueue(db, read_events, {"events": [str(found.id)]})
    after = {"status": EventStatus.WAITING}
    await audit.record(
        db, "payments.event_replayed", "payment_event", found.id, before=before, after=after
    )
    return found


AT_ONCE = 500
DUE = text("""
  select id from payment_events
  where status in ('waiting', 'parked')
    and coalesce(next_try_at, received_at + interval '5 minutes') <= now()
  order by coalesce(next_try_at, received_at) limit :most
""")


@jobs.cron("* * * * *", "payments.retry_events")
async def retry_events(db: AsyncSession, _: dict[str, Any]) -> None:
    """Reads once more what was parked, and what a job has given up."""
    due = [str(event_id) for event_id in await db.scalars(DUE, {"most": AT_ONCE})]
    if due:
        await jobs.enqueue(db, read_events, {"events": due}, unique_key="what is due")


@jobs.cron("47 2 * * *", "payments.prune_events")
async def prune_events(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets webhooks that were dealt with long ago."""
    days = await system.value(db, EVENTS_DAYS)
    old = PaymentEvent.settled_at < func.now() - text(f"interval '{int(days)} days'")
    over = PaymentEvent.status.in_((EventStatus.DONE, EventStatus.IGNORED))
    await db.execute(delete(PaymentEvent).where(over, old))
