"""Many at once: one gets the time, as many get a place as there are, nobody waits in a circle."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from bursar.auth.actor import Actor, Kind, Origin
from bursar.booking import service as appointments
from bursar.booking import trainings
from bursar.core.database import Database
from bursar.core.errors import BursarError
from tests import databases
from tests.accounts.people import rows
from tests.booking.desk import (
    ADMIN,
    API,
    at,
    book,
    crowd,
    enrol,
    move_in,
    post,
    provider,
    put,
    said,
    service,
    training,
)
from tests.booking.test_trainings import as_staff_wrote
from tests.conftest import Live
from tests.world import ADAM, CARL, DORA

CONNECTIONS = 20


async def at_once(live: Live, people: Sequence[UUID], verb: Any) -> Counter[str]:
    """Each in a transaction of their own, as a customer: what became of it, counted."""

    database = Database(live.url, databases.test_settings(database_pool_size=CONNECTIONS))

    async def one(user_id: UUID) -> str:
        actor = Actor(Kind.CUSTOMER, user_id)
        try:
            async with database.transaction(actor.claim, origin=Origin(actor)) as db:
                return str((await verb(db, user_id)).status)
        except BursarError as error:
            return error.code

    gate = asyncio.Semaphore(CONNECTIONS)

    async def in_turn(user_id: UUID) -> str:
        async with gate:
            return await one(user_id)

    try:
        return Counter(await asyncio.gather(*map(in_turn, people)))
    finally:
        await database.close()


async def test_two_hundred_for_ten_places_who_would_wait(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=10)
    people = await crowd(live_db, 200)
    done = await at_once(
        live_db, people, lambda db, who: trainings.enrol(db, UUID(aid), who, wait=True)
    )
    assert done == {"enrolled": 10, "waiting": 190}
    [row] = await rows(live_db, "select enrolled, waiting from trainings")
    assert tuple(row) == (10, 190)
    query = """
      select waiting_position(training_id, number) as position from training_enrolments
      where status = 'waiting' order by number
    """
    positions = [row["position"] for row in await rows(live_db, query)]
    assert positions == list(range(1, 191))


async def test_two_hundred_for_ten_places_who_would_not(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=10)
    people = await crowd(live_db, 200)
    done = await at_once(
        live_db, people, lambda db, who: trainings.enrol(db, UUID(aid), who, wait=False)
    )
    assert done == {"enrolled": 10, "booking.full": 190}


async def test_fifty_for_one_time(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, durationMinutes=60)
    people = await crowd(live_db, 50)

    async def verb(db: Any, who: UUID) -> Any:
        minute = 15 * (people.index(who) % 4)  # they overlap, and are not the same
        facts = {
            "service_id": UUID(cut),
            "provider_id": UUID(ana),
            "starts_at": at(2, 10, minute),
            "note": None,
        }
        return await appointments.book(db, who, facts)

    done = await at_once(live_db, people, verb)
    assert done == {"booked": 1, "booking.slot_taken": 49}
    assert len(await rows(live_db, "select from appointments")) == 1


async def test_one_customer_at_many_times_at_once(live_db: Live) -> None:
    """The number of open ones holds, whoever is faster."""
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    async with live_db.api(CARL) as api:
        answers = await asyncio.gather(
            *(
                api.post(
                    f"{API}/appointments", json={"service_id": cut, "starts_at": said(at(2, hour))}
                )
                for hour in range(8, 18)
            )
        )
    assert Counter(answer.status_code for answer in answers) == {201: 3, 409: 7}


async def test_moving_against_booking(live_db: Live) -> None:
    """Round after round, somebody has the time and somebody not, and both rows say so."""
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, price="0")
    mine = await book(live_db, CARL, cut, at(2, 8))
    for hour in range(9, 19):
        async with live_db.api(DORA) as dora, live_db.api(CARL) as carl:
            body = {"service_id": cut, "starts_at": said(at(2, hour))}
            booked, moved = await asyncio.gather(
                dora.post(f"{API}/appointments", json=body),
                carl.put(f"{API}/appointments/{mine['id']}", json=body),
            )
        assert {booked.status_code, moved.status_code} in ({201, 409}, {200, 409})
        loser = booked if booked.status_code == 409 else moved
        assert loser.json()["code"] == "booking.slot_taken"
    taken = await rows(live_db, "select starts_at from appointments")
    assert len({row["starts_at"] for row in taken}) == len(taken)


async def test_enrolling_against_leaving_and_capacity_against_both(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    aid = await training(live_db, ana, at(3), capacity=3)
    people = [Actor(Kind.CUSTOMER, each) for each in await crowd(live_db, 24)]
    ids = [(await enrol(live_db, who, aid, wait=True)).json()["id"] for who in people[:12]]
    path = f"{ADMIN}/trainings/{aid}"
    tasks = [
        *(
            post(live_db, who, f"{API}/enrolments/{its}/cancellation")
            for who, its in zip(people[:8], ids, strict=False)
        ),
        *(enrol(live_db, who, aid, wait=True) for who in people[12:]),
        *(put(live_db, ADAM, path, as_staff_wrote(ana, capacity=n)) for n in (4, 2, 6, 3, 5)),
    ]
    gate = asyncio.Semaphore(8)

    async def in_turn(task: Any) -> Any:
        async with gate:
            return await task

    answers = await asyncio.gather(*map(in_turn, tasks))
    codes = {answer.json().get("code") for answer in answers if answer.status_code >= 400}
    assert codes <= {"booking.below_enrolled"}
    [row] = await rows(
        live_db,
        """
        select capacity, enrolled, waiting,
          (select count(*) from training_enrolments where status = 'enrolled') as really,
          (select count(*) from training_enrolments where status = 'waiting') as wait
        from trainings
        """,
    )
    assert (row["enrolled"], row["waiting"]) == (row["really"], row["wait"])
    assert row["really"] + row["wait"] == 16
    assert row["enrolled"] == row["capacity"]
    sql = """
      select max(number) filter (where status = 'enrolled') < min(number) filter (
        where status = 'waiting') as in_order from training_enrolments
    """
    [order] = await rows(live_db, sql)
    assert order["in_order"]


async def test_a_training_and_an_appointment_at_once(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, price="0")
    for day in range(2, 8):
        body = as_staff_wrote(ana, startsAt=said(at(day)), endsAt=said(at(day, 12)))
        booking = {"service_id": cut, "starts_at": said(at(day, 11))}
        held, booked = await asyncio.gather(
            post(live_db, ADAM, f"{ADMIN}/trainings", body),
            post(live_db, CARL, f"{API}/appointments", booking),
        )
        assert sorted([held.status_code, booked.status_code]) == [201, 409]
