"""The end of a session: for ever, by who may, and after a month forgotten."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bursar.auth import sessions
from bursar.auth.actor import Kind
from bursar.auth.models import Session
from bursar.auth.sessions import BadRefreshToken
from bursar.auth.tasks import prune_sessions
from bursar.core.database import DOOR, WORKER, Database
from tests.auth.signed_in import AGENT, another, change, id_of, live_ones, opened, refused, row
from tests.conftest import Live
from tests.world import ADAM, CARL, DORA, OLIVIA, SUE


@pytest.fixture
def database(live_db: Live) -> Database:
    return live_db.database


# Ending


async def test_an_ended_session_is_over(database: Database) -> None:
    mine = await opened(database)
    async with database.transaction(DOOR) as db:
        assert not await sessions.end(db, mine.session_id, "signed_out", subject=DORA.id)
        assert await sessions.end(db, mine.session_id, "signed_out", subject=CARL.id)
        assert not await sessions.end(db, mine.session_id, "again")
        assert not await sessions.end(db, uuid4(), "signed_out")
    kept = await row(database, mine.session_id)
    assert kept["end_reason"] == "signed_out"
    assert kept["expires_at"] == kept["ended_at"]
    await refused(database, mine.refresh_token)
    assert (await row(database, mine.session_id))["end_reason"] == "signed_out"


async def test_all_end_but_the_one_at_hand(database: Database) -> None:
    here, *there = [await opened(database) for _ in range(4)]
    hers = await opened(database, DORA)
    async with database.transaction(DOOR) as db:
        ended = await sessions.end_all(
            db, Kind.CUSTOMER, id_of(CARL), "password_changed", except_=here.session_id
        )
        again = await sessions.end_all(db, Kind.STAFF, id_of(CARL), "password_changed")
    assert (ended, again) == (len(there), 0)
    assert await live_ones(database, CARL) == {here.session_id}
    assert await live_ones(database, DORA) == {hers.session_id}


async def test_staff_who_leave_stop_looking_in_too(database: Database) -> None:
    hers = await opened(database, SUE)
    seen = await opened(database, CARL, impersonator=SUE.id)
    mine = await opened(database, CARL)
    async with database.transaction(ADAM.claim) as db:
        assert await sessions.end_all(db, Kind.STAFF, id_of(SUE), "suspended") == 2
    for ended in (hers, seen):
        assert (await row(database, ended.session_id))["end_reason"] == "suspended"
    assert await live_ones(database, CARL) == {mine.session_id}


async def test_endings_that_cross_meet_no_deadlock(live_db: Live) -> None:
    pool = {"database_pool_size": 20, "database_pool_timeout_seconds": 60}
    async with another(live_db, **pool) as database:

        async def end_all() -> int:
            async with database.transaction(DOOR) as db:
                return await sessions.end_all(db, Kind.CUSTOMER, id_of(CARL), "signed_out")

        async def replay(token: str) -> None:
            for _ in range(3):
                with suppress(BadRefreshToken):
                    await sessions.rotate(database, token, Kind.CUSTOMER)

        for replayed in (0, 0, 0, 5, 10):
            mine = [await opened(database) for _ in range(45)]
            ended = await asyncio.gather(
                *(end_all() for _ in range(20)),
                *(replay(each.refresh_token) for each in mine[:replayed]),
            )
            assert len(mine) - replayed <= sum(filter(None, ended)) <= len(mine)
            assert await live_ones(database, CARL) == set()


@pytest.mark.parametrize(
    "undoing",
    [
        "ended_at = null, end_reason = null",
        "ended_at = now() - interval '1 year'",
        "end_reason = 'mine'",
        "expires_at = now() + interval '1 year'",
        "refresh_hash = 'x'",
    ],
)
async def test_an_end_is_for_ever_also_for_the_door(database: Database, undoing: str) -> None:
    mine = await opened(database)
    async with database.transaction(DOOR) as db:
        await sessions.end(db, mine.session_id, "signed_out")
    with pytest.raises(DBAPIError, match=r"stays as it is|ck_sessions_no_refresh"):
        async with database.transaction(DOOR) as db:
            await db.execute(text(f"update sessions set {undoing}"))


async def test_nobody_chooses_when_a_session_ended(database: Database) -> None:
    mine = await opened(database)
    async with database.transaction(CARL.claim) as db:
        await db.execute(text("update sessions set ended_at = '1999-01-01', end_reason = 'x'"))
        age = await db.scalar(text("select clock_timestamp() - ended_at from sessions"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    await refused(database, mine.refresh_token)


# Who may do what in PostgreSQL


async def test_people_see_and_end_their_own_without_the_hash(database: Database) -> None:
    mine, hers, staffs = [await opened(database, each) for each in (CARL, DORA, OLIVIA)]
    for actor, seen in ((CARL, {mine.session_id}), (DORA, {hers.session_id})):
        async with database.transaction(actor.claim) as db:
            assert {each.id for each in await sessions.of(db, Kind.CUSTOMER, id_of(actor))} == seen
            assert set(await db.scalars(text("select id from sessions"))) == seen
    async with database.transaction(CARL.claim) as db:
        assert not await sessions.end(db, hers.session_id, "mine")
        assert not await sessions.end(db, staffs.session_id, "mine")
        assert await sessions.end_all(db, Kind.CUSTOMER, id_of(DORA), "mine") == 0
        assert await sessions.end(db, mine.session_id, "signed_out")
    async with database.transaction(OLIVIA.claim) as db:
        assert len(await sessions.of(db, Kind.CUSTOMER, id_of(DORA))) == 1
        assert await sessions.end(db, hers.session_id, "ended_by_staff")


FORBIDDEN: list[tuple[Any, str]] = [
    (who, what)
    for who in (CARL.claim, OLIVIA.claim, WORKER)
    for what in (
        "select refresh_hash from sessions",
        "select * from sessions",
        "update sessions set refresh_hash = 'x'",
        "update sessions set expires_at = now() + interval '1 year'",
        "update sessions set subject = gen_random_uuid()",
        "update sessions set scope = 'full'",
        "insert into sessions (kind) values ('customer')",
        "truncate sessions",
    )
]
FORBIDDEN += [(who, "delete from sessions") for who in (CARL.claim, OLIVIA.claim, DOOR)]


@pytest.mark.parametrize(("who", "what"), FORBIDDEN)
async def test_nobody_else_touches_a_session(database: Database, who: Any, what: str) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with database.transaction(who) as db:
            await db.execute(text(what))


async def test_the_hash_is_never_loaded_by_accident(database: Database) -> None:
    await opened(database)
    async with database.transaction(DOOR) as db:
        [mine] = await sessions.of(db, Kind.CUSTOMER, id_of(CARL))
        with pytest.raises(Exception, match="raiseload"):
            _ = mine.refresh_hash


# Forgetting


async def test_what_ended_a_month_ago_is_forgotten(live_db: Live) -> None:
    database = live_db.database
    live, ended, expired, kept = [await opened(database) for _ in range(4)]
    async with database.transaction(DOOR) as db:
        for each in (ended, kept):
            await sessions.end(db, each.session_id, "signed_out")
    for each in (ended, expired):
        await change(live_db, each.session_id, "expires_at = now() - interval '31 days'")
    await change(live_db, kept.session_id, "expires_at = now() - interval '29 days'")
    async with database.transaction(WORKER) as db:
        await prune_sessions(db, {})
        left = set(await db.scalars(text("select id from sessions")))
    assert left == {live.session_id, kept.session_id}
    await refused(database, ended.refresh_token)


async def test_the_worker_cannot_forget_what_may_still_be_needed(database: Database) -> None:
    live, ended = await opened(database), await opened(database)
    async with database.transaction(DOOR) as db:
        await sessions.end(db, ended.session_id, "signed_out")
    async with database.transaction(WORKER) as db:
        await db.execute(text("delete from sessions"))
        left = set(await db.scalars(text("select id from sessions")))
    assert left == {live.session_id, ended.session_id}


async def test_somebody_who_goes_is_forgotten_and_signed_out(database: Database) -> None:
    mine, before = [await opened(database, address="::1", user_agent=AGENT) for _ in range(2)]
    hers = await opened(database, DORA, address="::1")
    async with database.transaction(DOOR) as db:
        await sessions.end(db, before.session_id, "signed_out")
    async with database.transaction(WORKER) as db:
        await sessions.forget(db, Kind.CUSTOMER, id_of(CARL))
    for each in (mine, before):
        kept = await row(database, each.session_id)
        assert (kept["address"], kept["user_agent"]) == (None, None)
        assert kept["ended_at"]
    assert (await row(database, hers.session_id))["address"] == "::1"


async def test_of_lists_the_one_used_last_first(database: Database) -> None:
    first, second = await opened(database), await opened(database)
    await sessions.rotate(database, first.refresh_token, Kind.CUSTOMER)
    async with database.transaction(CARL.claim) as db:
        mine: list[Session] = await sessions.of(db, Kind.CUSTOMER, id_of(CARL))
    assert [each.id for each in mine] == [first.session_id, second.session_id]
