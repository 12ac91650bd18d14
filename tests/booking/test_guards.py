"""With SQL in hand: what the database's owner cannot break, what a customer's role cannot do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bursar.auth.actor import Actor
from bursar.core.database import Role, role_url
from tests.accounts.people import rows
from tests.booking.desk import (
    at,
    book,
    crowd,
    enrol,
    move_in,
    provider,
    service,
    shift,
    training,
)
from tests.conftest import Live
from tests.databases import raw
from tests.world import ADAM, CARL, DORA


@asynccontextmanager
async def signed_in(live: Live, role: Role, who: Actor | None) -> AsyncIterator[asyncpg.Connection]:
    """On the login role of an API process, with its claim; whatever is done is rolled back."""
    url = role_url(live.database.url, role, live.settings)
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(False))
    try:
        transaction = connection.transaction()
        await transaction.start()
        claim = str(who.id) if who else ""
        await connection.execute("select set_config('request.jwt.claim.sub', $1, true)", claim)
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


async def refused_sql(connection: Any, sql: str, *arguments: Any) -> str:
    """The state, or the code of Bursar's own, with which PostgreSQL refuses it."""
    point = connection.transaction()
    await point.start()
    try:
        status = await connection.execute(sql, *arguments)
    except asyncpg.PostgresError as error:
        await point.rollback()
        return str(error) if error.sqlstate == "BK000" else str(error.sqlstate)
    await point.rollback()
    raise AssertionError(f"it was not refused: {status}")


INSERT = """
insert into appointments (service_id, provider_id, user_id, starts_at) values ($1, $2, $3, $4)
"""


def with_column(name: str, value: str) -> str:
    return INSERT.replace("starts_at)", f"starts_at, {name})").replace("$4)", f"$4, {value})")


DENIED, FOREIGN, CHECKED, STAYS, TAKEN = "42501", "42501", "23514", "23001", "23P01"


@pytest.fixture
async def owner(live_db: Live) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(raw(live_db.url))
    yield connection
    await connection.close()


async def test_the_owner_cannot_book_one_provider_twice(
    live_db: Live, owner: asyncpg.Connection
) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, bufferAfterMinutes=30)
    first = await book(live_db, CARL, cut, at(2))
    second = await book(live_db, DORA, cut, at(3))
    aid = await training(live_db, ana, at(4))
    assert await refused_sql(owner, INSERT, cut, ana, CARL.id, at(2, 10, 45)) == TAKEN
    move = "update appointments set starts_at = $2 where id = $1"
    assert await refused_sql(owner, move, second["id"], at(2, 10, 15)) == TAKEN
    assert await refused_sql(owner, move, second["id"], at(4, 11)) == TAKEN
    move = "update trainings set starts_at = $2, enrol_until = $2, ends_at = $3 where id = $1"
    assert await refused_sql(owner, move, aid, at(3, 9), at(3, 11)) == TAKEN
    revive = "update appointments set status = 'booked', cancelled_at = null where id = $1"
    await owner.execute("update appointments set status = 'cancelled' where id = $1", first["id"])
    assert await refused_sql(owner, revive, first["id"]) == "booking.closed"
    for sql in (
        "delete from provider_times",
        "update provider_times set during = 'empty'",
        "truncate provider_times",
    ):
        assert await refused_sql(owner, sql) == STAYS, sql


async def test_the_owner_cannot_overfill_a_training(
    live_db: Live, owner: asyncpg.Connection
) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=1)
    await enrol(live_db, CARL, aid)
    await enrol(live_db, DORA, aid, wait=True)
    [somebody] = await crowd(live_db, 1)
    add = (
        "insert into training_enrolments (training_id, user_id, status) values ($1, $2, 'enrolled')"
    )
    assert await refused_sql(owner, add, aid, somebody) == "booking.full"
    move = "update training_enrolments set status = 'enrolled' where status = 'waiting'"
    assert await refused_sql(owner, move) == CHECKED
    forge = "update trainings set enrolled = 0, waiting = 77"
    await owner.execute(forge)
    [row] = await rows(live_db, "select enrolled, waiting from trainings")
    assert (row["enrolled"], row["waiting"]) == (1, 1)
    assert await refused_sql(owner, add, aid, somebody) == "booking.full"
    other = await training(live_db, await provider(live_db), at(3), capacity=1)
    swap = "update training_enrolments set training_id = $1"
    assert await refused_sql(owner, swap, other) == STAYS
    await owner.execute("delete from training_enrolments where status = 'enrolled'")
    [row] = await rows(live_db, "select enrolled, waiting from trainings where id = $1", aid)
    assert (row["enrolled"], row["waiting"]) == (1, 0)  # who waited has got the place


WAYS = {
    ("booked", "confirmed"), ("booked", "completed"), ("booked", "cancelled"),
    ("booked", "no_show"), ("confirmed", "completed"), ("confirmed", "cancelled"),
    ("confirmed", "no_show"),
}  # fmt: skip
STATUSES = ("booked", "confirmed", "completed", "cancelled", "no_show")
FIRST_STEPS: dict[str, tuple[str, ...]] = {"booked": (), **{s: (s,) for s in STATUSES[1:]}}


async def test_the_state_machine_has_no_other_ways(
    live_db: Live, owner: asyncpg.Connection
) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    booked = await book(live_db, CARL, cut, at(2))
    await shift(live_db, "appointments", booked["id"], 3)
    step = "update appointments set status = $2 where id = $1"
    for status in STATUSES:
        for wanted in STATUSES:
            if status == wanted:
                continue
            transaction = owner.transaction()
            await transaction.start()
            for first in FIRST_STEPS[status]:
                await owner.execute(step, booked["id"], first)
            if (status, wanted) in WAYS:
                await owner.execute(step, booked["id"], wanted)
            else:
                code = await refused_sql(owner, step, booked["id"], wanted)
                assert code == "booking.closed", (status, wanted)
            await transaction.rollback()


async def test_what_was_agreed_is_for_good(live_db: Live, owner: asyncpg.Connection) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    aid = await training(live_db, ana, at(3))
    booked = await book(live_db, CARL, cut, at(2))
    await enrol(live_db, CARL, aid)
    for column, value in (("price", 1), ("currency", "EUR"), ("service_name", "x")):
        sql = f"update appointments set {column} = $2 where id = $1"
        assert await refused_sql(owner, sql, booked["id"], value) == STAYS
    sql = "update appointments set user_id = $2 where id = $1"
    assert await refused_sql(owner, sql, booked["id"], DORA.id) == STAYS
    assert await refused_sql(owner, "update training_enrolments set price = 1") == STAYS
    sql = "update appointments set status = 'completed'"
    assert await refused_sql(owner, sql) == "booking.too_early"
    sql = "update trainings set status = 'completed'"
    assert await refused_sql(owner, sql) == "booking.too_early"
    forged = with_column("status", "'completed'")
    assert await refused_sql(owner, forged, cut, ana, CARL.id, at(-9)) == "23000"
    zone = "update providers set time_zone = 'Mars/Olympus'"
    assert await refused_sql(owner, zone) == "booking.unknown_time_zone"


async def furnished(live: Live) -> tuple[str, str, str, str]:
    """Ana and what she gives; Carl and Dora have an appointment each, and Dora the one place."""
    await move_in(live)
    ana = await provider(live, hours=[(day, "09:00", "17:00") for day in range(1, 8)])
    cut = await service(live, ana, paymentInAdvance=True)
    aid = await training(live, ana, at(3), capacity=1)
    mine = await book(live, CARL, cut, at(2))
    await book(live, DORA, cut, at(2, 12))
    await enrol(live, DORA, aid)
    return ana, cut, aid, str(mine["id"])


OUTCOMES = (
    "price", "currency", "status", "ends_at", "payment_status", "payment_id", "pay_by",
    "refund_percent", "service_name", "letter", "id",
)  # fmt: skip


async def test_a_customers_login_role_books_no_more_than_the_api(live_db: Live) -> None:
    """With SQL in hand the same codes come back, or there is no right at all."""
    ana, cut, aid, _ = await furnished(live_db)
    async with signed_in(live_db, Role.CUSTOMER, CARL) as sql:
        for code, when in (
            ("booking.past", at(-1)),
            ("booking.too_far", at(100)),
            ("booking.outside_hours", at(2, 3)),
            (TAKEN, at(2)),
        ):
            assert await refused_sql(sql, INSERT, cut, ana, CARL.id, when) == code
        for whose in (DORA.id, None):
            assert await refused_sql(sql, INSERT, cut, ana, whose, at(4)) in (FOREIGN, "23000")
        for column in OUTCOMES:
            extra = with_column(column, "default")
            assert await refused_sql(sql, extra, cut, ana, CARL.id, at(4)) == DENIED, column
        add = "insert into training_enrolments (training_id, user_id, may_wait) values ($1, $2, $3)"
        assert await refused_sql(sql, add, aid, CARL.id, False) == "booking.full"
        assert await refused_sql(sql, add, aid, DORA.id, True) in (FOREIGN, "23505")
        assert await refused_sql(sql, add, uuid4(), CARL.id, True) == "booking.unknown_training"
        await sql.execute(add, aid, CARL.id, True)
        jump = "update training_enrolments set status = 'enrolled'"
        assert await refused_sql(sql, jump) == "booking.closed"


async def test_a_customers_login_role_changes_no_more_than_the_api(live_db: Live) -> None:
    ana, _, _, mine = await furnished(live_db)
    async with signed_in(live_db, Role.CUSTOMER, CARL) as sql:
        for change, code in (
            ("status = 'confirmed'", "booking.closed"),
            ("status = 'completed'", "booking.too_early"),
            ("status = 'no_show'", "booking.too_early"),
            ("price = 0", DENIED),
            ("payment_status = 'paid'", DENIED),
            ("refund_percent = 100", DENIED),
            ("pay_by = null", DENIED),
            ("user_id = null", DENIED),
            (f"starts_at = '{at(2, 3)}'", "booking.outside_hours"),
            (f"starts_at = '{at(-1)}'", "booking.past"),
        ):
            own = f"update appointments set {change} where id = $1"
            assert await refused_sql(sql, own, mine) == code, change
        foreign = "update appointments set status = 'cancelled' where id <> $1"
        assert await sql.execute(foreign, mine) == "UPDATE 0"
        for forbidden in (
            "delete from appointments",
            "delete from training_enrolments",
            "update trainings set capacity = 100",
            "update services set price = 0",
            "insert into providers (name) values ('Eve')",
            "select email from providers",
            "select * from provider_times",
            "select * from working_hours",
            "select * from availability_exceptions",
            "select move_up(gen_random_uuid())",
            "select cancel_bookings_of(gen_random_uuid())",
            f"select * from openings('{ana}', now(), now())",
        ):
            assert await refused_sql(sql, forbidden) == DENIED, forbidden


async def test_who_sees_what(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    await service(live_db, ana, active=False)
    aid = await training(live_db, ana, at(3))
    for who, hour in ((CARL, 10), (DORA, 12)):
        await book(live_db, who, cut, at(2, hour))
        await enrol(live_db, who, aid)
    tables = ("services", "trainings", "appointments", "training_enrolments", "service_providers")
    expected: list[tuple[Role, Actor | None, list[int]]] = [
        (Role.CUSTOMER, CARL, [1, 1, 1, 1, 2]),
        (Role.CUSTOMER, None, [0, 0, 0, 0, 0]),
        (Role.STAFF, ADAM, [2, 1, 2, 2, 2]),
        (Role.STAFF, None, [0, 0, 0, 0, 0]),
        (Role.WORKER, None, [2, 1, 2, 2, 2]),
    ]
    for role, who, numbers in expected:
        async with signed_in(live_db, role, who) as sql:
            seen = [await sql.fetchval(f"select count(*) from {each}") for each in tables]
        assert seen == numbers, (role, who)
    async with signed_in(live_db, Role.CUSTOMER, CARL) as sql:
        owners = await sql.fetch("select user_id from appointments")
        assert [UUID(str(row["user_id"])) for row in owners] == [CARL.id]
    async with signed_in(live_db, Role.ANALYTICS, None) as sql:
        assert await refused_sql(sql, "select * from appointments") == DENIED


async def test_a_row_that_goes_frees_what_is_ahead_and_leaves_what_is_over(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    aid = await training(live_db, ana, at(3), capacity=1)
    over, ahead = [await book(live_db, CARL, cut, at(day)) for day in (2, 4)]
    await shift(live_db, "appointments", over["id"], 5)
    await enrol(live_db, CARL, aid)
    await enrol(live_db, DORA, aid, wait=True)
    await rows(live_db, "delete from users where id = $1", CARL.id)
    found = await rows(live_db, "select id, user_id, status from appointments order by starts_at")
    assert [(str(row["id"]), row["user_id"], row["status"]) for row in found] == [
        (over["id"], None, "booked"),
        (ahead["id"], None, "cancelled"),
    ]
    found = await rows(live_db, "select user_id, status from training_enrolments order by number")
    assert [tuple(row) for row in found] == [(None, "cancelled"), (DORA.id, "enrolled")]
