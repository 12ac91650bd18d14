"""Demo data of metering: keys of some customers, and five weeks of calls with them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.accounts.models import Status, User
from bursar.auth.actor import Actor, Kind
from bursar.auth.scopes import KeyScope
from bursar.core.database import WORKER, Database
from bursar.keys import service as keys
from bursar.keys.models import ApiKey
from bursar.metering import events
from bursar.metering.events import Event
from bursar.metering.models import MonthlyUsage

SERVICE = "Order API"
HOLDERS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    # whose, the key's name, what it may do, calls on an ordinary day
    ("carl@example.com", "Espresso timer", {"scopes": ["usage:read"]}, 14),
    ("carl@example.com", "Spreadsheet", {"per_minute": 60}, 3),
    ("dora@example.com", "Home automation", {"per_month": 600}, 9),
    ("jun@example.com", "Price watch", {"scopes": ["usage:read", "balance:read"]}, 11),
    ("buyer@harbourcafe.example", "Till", {"allowed_addresses": ["203.0.113.0/24"]}, 34),
    ("orders@nightowl.example", "Web shop", {"per_second": 20}, 21),
    ("kitchen@saltmarsh.example", "Stock list", {}, 6),
)
REPLACED = ("orders@nightowl.example", "Web shop of last year")
ENDPOINTS = (  # route, how often of a hundred, what it takes in milliseconds
    ("/v1/beans", 40, 18),
    ("/v1/beans/{bean_id}", 30, 9),
    ("/v1/orders", 20, 85),
    ("/v1/orders/{order_id}", 10, 30),
)
STATUSES = (200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 201, 201, 304, 404, 429, 500)
AGENTS = ("python-httpx/0.28", "axios/1.9", "okhttp/5.1", "curl/8.14")
DAYS, AT_ONCE = 35, 1000


async def add_keys(db: AsyncSession) -> int:
    """All of them or none, so that a second time finds them there; whoever has left gets none."""
    if await db.scalar(select(ApiKey.id).where(ApiKey.name == SERVICE)) is None:
        scopes = [KeyScope.KEYS_VERIFY.value, KeyScope.USAGE_INGEST.value]
        await keys.make_service(db, {"name": SERVICE, "scopes": scopes})
        for email, name, facts, _ in HOLDERS:
            await add_key(db, email, {"name": name, **facts})
        if old := await add_key(db, REPLACED[0], {"name": REPLACED[1]}):
            await keys.revoke(db, old.row.id, reason="replaced")
    return len(HOLDERS) + 2


async def add_key(db: AsyncSession, email: str, facts: dict[str, Any]) -> keys.Made | None:
    user = await accounts.by_email(db, Kind.CUSTOMER, email)
    if user is None or user.status != Status.ACTIVE:
        return None
    return await keys.make(db, user.id, facts)


Held = dict[tuple[str, str], tuple[UUID, UUID]]  # address and name: the customer, the key


async def report(database: Database) -> None:
    """As the service would have; what a crash has cut off is sent again, and counted once."""
    async with database.transaction(WORKER) as db:
        service_id = await db.scalar(select(ApiKey.id).where(ApiKey.name == SERVICE))
        query = select(User.email, ApiKey.name, User.id, ApiKey.id).join_from(
            ApiKey, User, User.id == ApiKey.user_id
        )
        found = await db.execute(query.where(User.email.in_([email for email, *_ in HOLDERS])))
        held: Held = {(email, name): (user, key) for email, name, user, key in found}
        last = held.get(HOLDERS[-1][:2])
        known = last and await db.scalar(
            select(MonthlyUsage.month).where(MonthlyUsage.user_id == last[0])
        )
    if service_id is None or last is None or known is not None:
        return
    service = Actor(Kind.KEY, service_id, key_scopes=frozenset({KeyScope.USAGE_INGEST}))
    made = list(calls(held, datetime.now(UTC)))
    for first in range(0, len(made), AT_ONCE):
        await events.report(database, service, made[first : first + AT_ONCE])


def calls(held: Held, now: datetime) -> Iterator[Event]:
    """Fewer on Sundays, more of late, and in daytime; the same ones whenever they are made."""
    chance = Random(35)  # noqa: S311 - nobody has to be unable to guess it
    routes = [endpoint for endpoint in ENDPOINTS for _ in range(endpoint[1])]
    for email, name, _, a_day in HOLDERS:
        holder = held.get((email, name))
        for days_ago in range(DAYS, -1, -1):
            day = (now - timedelta(days=days_ago)).replace(hour=0, minute=0, second=0)
            trend = 1.2 - days_ago / 100
            number = round(a_day * trend * (0.3 if day.weekday() == 6 else 1))
            for n in range(number):
                endpoint, _, usual_ms = chance.choice(routes)
                moment = day + timedelta(minutes=chance.triangular(300, 1430, 660))
                facts = {
                    "endpoint": endpoint,
                    "status_code": chance.choice(STATUSES),
                    "response_time_ms": round(usual_ms * chance.lognormvariate(0, 0.5)),
                    "user_agent": AGENTS[len(name) % len(AGENTS)],
                    "units": 1,
                    "timestamp": moment,
                }
                if moment < now and holder:
                    yield Event(facts, f"demo {name} {days_ago} {n}", *holder)
