"""A desk for tests: providers who work all day, what they give, and customers who book it.

ana = await provider(live)                    # works from midnight to midnight, UTC
cut = await service(live, ana, price="20.00")
booked = await book(live, CARL, cut, at(2, 10))   # the day after tomorrow, at ten
"""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx2

from bursar.auth.actor import Actor
from bursar.core.database import WORKER
from tests.accounts import people
from tests.accounts.people import rows
from tests.conftest import Live
from tests.databases import raw
from tests.wallets.purses import move_in, refused
from tests.world import CARL, OLIVIA

API = "/api/v1"
ADMIN = "/api/v1/admin"
ALWAYS = [(day, "00:00", "24:00") for day in range(1, 8)]

Json = dict[str, Any]
__all__ = ["move_in", "refused"]


def at(days: int, hour: int = 10, minute: int = 0) -> datetime:
    """A time so many days from today, in UTC."""
    day = datetime.now(UTC).date() + timedelta(days=days)
    return datetime.combine(day, time(hour, minute), tzinfo=UTC)


def said(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def made(live: Live, path: str, body: Json) -> Json:
    """As the owner makes it, by the route."""
    async with live.api(OLIVIA) as api:
        answer = await api.post(f"{ADMIN}/{path}", json=body)
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


async def provider(
    live: Live,
    name: str = "Ana",
    zone: str = "UTC",
    hours: list[tuple[int, str, str]] = ALWAYS,
) -> str:
    """Somebody who works at these hours: weekday, from, to."""
    found = await made(live, "providers", {"name": name, "timeZone": zone})
    week = [{"weekday": day, "starts": starts, "ends": ends} for day, starts, ends in hours]
    async with live.api(OLIVIA) as api:
        path = f"{ADMIN}/providers/{found['id']}/working-hours"
        answer = await api.put(path, json={"hours": week})
    assert answer.status_code == 200, answer.text
    return str(found["id"])


async def service(live: Live, *providers: str, **given: Any) -> str:
    body = {
        "name": "Haircut",
        "price": "20.00",
        "durationMinutes": 30,
        "providerIds": list(providers),
        **given,
    }
    return str((await made(live, "services", body))["id"])


async def training(live: Live, its_provider: str, starts_at: datetime, **given: Any) -> str:
    body = {
        "title": "First aid",
        "providerId": its_provider,
        "startsAt": said(starts_at),
        "endsAt": said(starts_at + timedelta(hours=2)),
        "capacity": 10,
        "price": "50.00",
        **given,
    }
    return str((await made(live, "trainings", body))["id"])


async def ask_to_book(
    live: Live, who: Actor, its_service: str, starts_at: datetime, **given: Any
) -> httpx2.Response:
    body = {"service_id": its_service, "starts_at": said(starts_at), **given}
    async with live.api(who) as api:
        return await api.post(f"{API}/appointments", json=body)


async def book(live: Live, who: Actor, its_service: str, starts_at: datetime, **given: Any) -> Json:
    answer = await ask_to_book(live, who, its_service, starts_at, **given)
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


async def enrol(
    live: Live, who: Actor, its_training: str, *, wait: bool = False
) -> httpx2.Response:
    async with live.api(who) as api:
        return await api.post(f"{API}/trainings/{its_training}/enrolments", json={"wait": wait})


async def post(live: Live, who: Actor, path: str, body: Json | None = None) -> httpx2.Response:
    async with live.api(who) as api:
        return await api.post(path, json=body or {})


async def put(live: Live, who: Actor, path: str, body: Json, **headers: str) -> httpx2.Response:
    async with live.api(who) as api:
        return await api.put(path, json=body, headers=headers)


async def get(live: Live, who: Actor, path: str) -> Json:
    async with live.api(who) as api:
        answer = await api.get(path)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def free(
    live: Live, its_service: str, begins: datetime, ends: datetime, who: Actor = CARL
) -> list[str]:
    """When the availability says that it can be booked."""
    path = f"{API}/services/{its_service}/availability?from={said(begins)}&to={said(ends)}"
    return [slot["starts_at"] for slot in (await get(live, who, path))["slots"]]


async def near(live: Live, table: str, row_id: str, hours: float) -> None:
    """As though it began so many hours from now, whatever the hour is."""
    [row] = await rows(live, f"select starts_at - now() as off from {table} where id = '{row_id}'")
    await shift(live, table, row_id, (row["off"] - timedelta(hours=hours)) / timedelta(days=1))


async def shift(live: Live, table: str, row_id: str, days: float) -> None:
    """As though it had been booked and were earlier: only the owner of the database can do that,
    with the guards taken off."""
    sql = f"""
      update {table} set starts_at = starts_at - $2::interval, ends_at = ends_at - $2::interval,
        created_at = created_at - $2::interval
        {", enrol_until = enrol_until - $2::interval" if table == "trainings" else ""}
      where id = $1
    """
    connection = await asyncpg.connect(raw(live.url))
    try:
        async with connection.transaction():
            await connection.execute(f"alter table {table} disable trigger user")
            await connection.execute(sql, UUID(row_id), timedelta(days=days))
            await connection.execute(f"alter table {table} enable trigger user")
    finally:
        await connection.close()


async def crowd(live: Live, number: int) -> list[UUID]:
    """So many customers."""
    sql = """
      insert into users (email, name) select 'crowd' || n || '@example.com', 'Customer ' || n
      from generate_series(1, $1) n returning id
    """
    return [row["id"] for row in await rows(live, sql, number)]


async def do(live: Live, task: Any) -> None:
    """A job of the schedule, now."""
    async with live.database.transaction(WORKER) as db:
        await task(db, {})


OURS = ("booking.free_what_was_booked", "booking.forget_words")


async def listen(live: Live, *names: str) -> None:
    """From now on these subscribers hear what happens."""
    await people.listen(live, *(names or OURS))


async def tell(live: Live, *names: str) -> None:
    """They are told of all that has happened since."""
    await people.tell(live, *(names or OURS))
