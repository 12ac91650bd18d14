"""An event of usage as the SQL functions read it: whose it is, and by what it is known again.

The same id with the same words and key is the same event, whichever way it comes: by keys/verify,
alone, in a batch, or as a CloudEvent.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bursar.auth.actor import Actor, Kind
from bursar.auth.scopes import KeyScope
from bursar.core.database import WORKER, Database, Within
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.wire import as_json
from bursar.metering.rules import DEFAULTS, USAGE_RETENTION_MONTHS

AHEAD = timedelta(minutes=5)  # by which clocks may disagree
TERMS = as_json(DEFAULTS).decode()
OWN = "own\0"  # no id has a NUL in it
SAID = ("endpoint", "location", "state", "date_from", "date_to", "response_time_ms", "status_code",
        "error_message", "ip_address", "user_agent", "units")  # fmt: skip


def marks(
    event_id: str | None, facts: dict[str, Any], *, is_own: bool = False
) -> dict[str, str | None]:
    """By what an event is known again: half a SHA-256 of its id, and one of all that it says. What
    customers report themselves has ids of its own: they could take those of a service's events."""
    if event_id is None:
        return {"event": None, "content": None, "event_id": None}
    said = as_json({name: facts.get(name) for name in (*SAID, "timestamp")})
    return {
        "event": hashlib.sha256((OWN + event_id if is_own else event_id).encode()).hexdigest()[:32],
        "content": hashlib.sha256(said).hexdigest()[:32],
        "event_id": event_id,
    }


@dataclass(frozen=True, slots=True)
class Event:
    """What somebody reports: `facts` in the words of SAID, and `timestamp`."""

    facts: dict[str, Any]
    event_id: str | None = None
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    is_own: bool = False  # reported by the customer, not by a service


class InTheFuture(BursarError, status=422, code="usage.in_the_future"):
    """An event that has not happened yet cannot be counted; clocks may differ by five minutes."""


class BeforeRetention(BursarError, status=422, code="usage.before_retention"):
    """The event is older than raw usage is kept here; it cannot be counted any more."""


class UnknownCustomer(BursarError, status=422, code="usage.unknown_customer"):
    """No customer has this id, or the event names neither a customer nor a key of one."""


class UnknownKey(BursarError, status=422, code="usage.unknown_key"):
    """The customer has no API key with this id."""


class EventConflict(BursarError, status=409, code="usage.event_conflict"):
    """An event with this id was counted before, and said something else; take a new id."""


# All that a report is checked against, in one round trip: how old it may be, whose keys it names.
KNOWN = """
  select (select value #>> '{}' from settings where key = 'usage_retention_months') as months,
    (select since from usage_kept) as since,
    array(select id from users where id = any ($2) and erased_at is null union
      select user_id from api_keys where id = any ($3) and user_id is not null) as users,
    array(select array[id, user_id, line_id] from api_keys
      where id = any ($3) and user_id is not null) as keys
"""
INGEST = "select ingest_usage($2::text::json, $3, $4, $5::text::jsonb) as outcomes"

Outcome = str | BursarError  # 'counted', 'duplicate', or why not


async def report(
    database: Database | Within, actor: Actor, events: Sequence[Event | BursarError]
) -> list[Outcome]:
    """Counts each event once, and answers what became of each, in their order."""
    asked = [owned(event, actor) if isinstance(event, Event) else event for event in events]
    bounds = await look_up(database, [event for event in asked if isinstance(event, Event)])
    now = datetime.now(UTC)
    checked = [bounds.check(each, now) if isinstance(each, Event) else each for each in asked]
    rows = [each for each in checked if isinstance(each, dict)]
    told = iter(await ingest(database, rows))
    return [said(next(told)) if isinstance(each, dict) else each for each in checked]


def said(outcome: str) -> Outcome:
    if outcome == "conflict":
        return EventConflict("An event with this id was counted before, and said something else.")
    return outcome


def owned(event: Event, actor: Actor) -> Event:
    """Whoever is no service reports their own usage, whatever they say; a key its own calls."""
    if actor.kind is Kind.KEY and KeyScope.USAGE_INGEST in actor.key_scopes:
        return event
    key = event.api_key_id or (actor.id if actor.kind is Kind.KEY else None)
    return Event(event.facts, event.event_id, actor.customer, key, is_own=True)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What events have to keep within."""

    oldest: datetime
    users: frozenset[UUID]
    keys: dict[UUID, tuple[UUID, UUID]]  # whose each is, and of which line

    def check(self, event: Event, now: datetime) -> dict[str, Any] | BursarError:
        """The event as it is counted, or what is wrong with it."""
        known = self.keys.get(event.api_key_id) if event.api_key_id else None
        owner, line = known or (None, None)
        user_id = event.user_id or owner
        if event.api_key_id and (owner is None or owner != user_id):
            return UnknownKey("The customer has no API key with this id.")
        if user_id not in self.users:
            return UnknownCustomer("No customer has this id.")
        moment = event.facts.get("timestamp") or now
        if moment > now + AHEAD:
            return InTheFuture("This lies in the future.")
        if moment < self.oldest:
            return BeforeRetention(f"Usage is kept here from {self.oldest:%Y-%m-%d} on.")
        return {
            **event.facts,
            **marks(event.event_id, event.facts, is_own=event.is_own),
            "user_id": user_id,
            "api_key_id": event.api_key_id,
            "line_id": line,
            "timestamp": moment.astimezone(UTC).isoformat(),
        }


async def look_up(database: Database | Within, events: Sequence[Event]) -> Bounds:
    users = {event.user_id for event in events if event.user_id}
    keys = {event.api_key_id for event in events if event.api_key_id}
    row = await database.fetch_one(WORKER, KNOWN, [*users], [*keys])
    assert row is not None  # noqa: S101 - a select without a table has one row
    months = int(row["months"] or USAGE_RETENTION_MONTHS.default)
    return Bounds(
        max(oldest_kept(datetime.now(UTC), months), first_moment(row["since"])),
        frozenset(map(plain, row["users"])),
        {key: (owner, line) for key, owner, line in (map(plain, each) for each in row["keys"])},
    )


def plain(found: UUID) -> UUID:
    """Not of the driver's own kind, which JSON is slower to write."""
    return UUID(bytes=found.bytes)


def oldest_kept(now: datetime, months: int) -> datetime:
    """The first moment of the oldest month that is kept."""
    number = now.year * 12 + now.month - 1 - months
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def first_moment(month: str) -> datetime:
    return datetime.fromisoformat(f"{month}-01T00:00:00+00:00")


async def ingest(database: Database | Within, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    try:
        payload = as_json([{"n": n, **row} for n, row in enumerate(rows)]).decode()
    except (TypeError, UnicodeEncodeError):
        raise InvalidInput("A value is out of range or cannot be stored.") from None
    people = [*{row["user_id"] for row in rows}]
    months = [*{row["timestamp"][:7] for row in rows}]
    found = await database.write_one(WORKER, INGEST, payload, people, months, TERMS)
    assert found is not None  # noqa: S101 - a function answers one row
    return list(found["outcomes"])
