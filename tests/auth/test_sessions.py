"""Sessions: a refresh token is good once, a used one ends the family, and an end is for ever."""

import asyncio
import base64
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth import sessions
from bursar.auth.actor import Actor, Kind, Origin, Scope
from bursar.auth.sessions import BadRefreshToken, Lifetime, Opened
from bursar.auth.tokens import LIFETIME_SECONDS, Tokens
from bursar.core.database import DOOR, Database
from bursar.core.database_errors import OutcomeUnknown
from tests import databases
from tests.auth.signed_in import AGENT, another, change, live_ones, opened, refused, row
from tests.conftest import Live
from tests.world import CARL, DORA, OLIVIA, SUE

RACERS = 1000


@pytest.fixture
def database(live_db: Live) -> Database:
    return live_db.database


# Opening


async def test_a_session_keeps_who_where_and_no_token(database: Database) -> None:
    mine = await opened(database, address="192.0.2.7", user_agent=AGENT)
    kept = await row(database, mine.session_id)
    assert (kept["kind"], kept["subject"], kept["scope"]) == ("customer", CARL.id, "full")
    assert (kept["address"], kept["user_agent"], kept["method"]) == ("192.0.2.7", AGENT, "password")
    assert kept["expires_at"] - kept["created_at"] == timedelta(days=30)
    assert kept["renewable_until"] - kept["created_at"] == timedelta(days=90)
    assert len(mine.refresh_token) == 112 <= 200
    assert len(kept["refresh_hash"]) == 32
    secret = base64.urlsafe_b64decode(mine.refresh_token.removeprefix("brt_"))[17:49]
    assert secret not in kept.values()
    assert mine.actor() == Actor(Kind.CUSTOMER, CARL.id, session=mine.session_id)
    assert mine.access_seconds == LIFETIME_SECONDS


async def test_staff_have_a_working_day(database: Database) -> None:
    mine = await opened(database, OLIVIA, scope=Scope.ENROL)
    kept = await row(database, mine.session_id)
    assert kept["renewable_until"] == kept["expires_at"]
    assert kept["expires_at"] - kept["created_at"] == timedelta(hours=12)
    actor = mine.actor(OLIVIA.role)
    assert actor == Actor(
        Kind.STAFF, OLIVIA.id, OLIVIA.role, session=mine.session_id, scope=Scope.ENROL
    )


async def test_impersonation_is_an_hour_that_cannot_be_renewed(database: Database) -> None:
    seen = await opened(database, CARL, impersonator=SUE.id, scope=Scope.READ, method="support")
    assert seen.refresh_token == ""
    assert 3590 <= seen.access_seconds <= 3600 <= sessions.LONGEST_ACCESS_SECONDS
    assert seen.actor().impersonator == SUE.id
    assert (await row(database, seen.session_id))["refresh_hash"] is None
    made = sessions.refresh_token(
        database.settings.secret_keys, seen.session_id, b"as if there were a token: 32 byt"
    )
    await refused(database, made)
    assert (await row(database, seen.session_id))["ended_at"] is None


async def test_nobody_looks_in_as_staff(database: Database) -> None:
    with pytest.raises(DBAPIError, match="ck_sessions_impersonation"):
        await opened(database, OLIVIA, impersonator=SUE.id)


@pytest.mark.parametrize("kind", [Kind.KEY, Kind.SYSTEM, Kind.NOBODY])
async def test_only_people_have_sessions(database: Database, kind: Kind) -> None:
    with pytest.raises(KeyError):
        await opened(database, Actor(kind, uuid4()))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (None, None),
        ("", None),
        ("\x00\x07\n", None),
        ("a\x00b\r\nc\x1b[31m", "abc[31m"),
        ("x" * 100_000, "x" * 300),
        ("é" * 400, "é" * 300),
        ("\u202eevil\ud800", "evil"),
    ],
)
async def test_what_a_browser_says_of_itself_is_made_fit(
    database: Database, sent: str | None, kept: str | None
) -> None:
    mine = await opened(database, user_agent=sent, address=sent)
    found = await row(database, mine.session_id)
    assert found["user_agent"] == kept
    assert found["address"] == (kept and kept[:100])


async def test_nobody_is_signed_in_without_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_AT_ONCE", 3)
    dora = await opened(database, DORA)
    looking = await opened(database, CARL, impersonator=SUE.id)
    first, second, third = [await opened(database) for _ in range(3)]
    first = await sessions.rotate(database, first.refresh_token, Kind.CUSTOMER)  # used last
    fourth = await opened(database)
    live = await live_ones(database, CARL)
    assert live == {each.session_id for each in (first, third, fourth, looking)}
    assert (await row(database, second.session_id))["end_reason"] == "too_many"
    assert await live_ones(database, DORA) == {dora.session_id}


async def test_many_sign_ins_at_once_leave_the_bound_and_no_deadlock(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_AT_ONCE", 5)
    async with another(
        live_db, database_pool_size=20, database_pool_timeout_seconds=60
    ) as database:
        await asyncio.gather(*(opened(database) for _ in range(100)))
        await opened(database)
        assert len(await live_ones(database, CARL)) == 5


# Renewing


async def test_each_token_is_good_once(database: Database) -> None:
    mine = await opened(database, address="192.0.2.1")
    token, before = mine.refresh_token, await row(database, mine.session_id)
    origin = Origin(CARL, "192.0.2.99")
    for generation in range(1, 6):
        renewed = await sessions.rotate(database, token, Kind.CUSTOMER, origin=origin)
        assert renewed.refresh_token != token
        token = renewed.refresh_token
        assert (await row(database, mine.session_id))["generation"] == generation
    after = await row(database, mine.session_id)
    assert after["last_used_at"] > before["last_used_at"]
    assert after["expires_at"] > before["expires_at"]
    assert after["renewable_until"] == before["renewable_until"]
    assert after["address"] == "192.0.2.99"
    assert (renewed.session_id, renewed.subject, renewed.method) == (
        mine.session_id,
        CARL.id,
        "password",
    )


async def test_a_used_token_ends_the_session_for_everybody(database: Database) -> None:
    told: list[UUID] = []

    async def tell(_: AsyncSession, replayed: Opened) -> None:
        told.append(replayed.session_id)

    first = await opened(database)
    other = await opened(database)
    second = await sessions.rotate(database, first.refresh_token, Kind.CUSTOMER)
    third = await sessions.rotate(database, second.refresh_token, Kind.CUSTOMER)
    with pytest.raises(BadRefreshToken):
        await sessions.rotate(database, first.refresh_token, Kind.CUSTOMER, on_replay=tell)
    kept = await row(database, first.session_id)
    assert (kept["end_reason"], kept["refresh_hash"]) == ("replayed", None)
    for dead in (first, second, third):
        await refused(database, dead.refresh_token)
    assert told == [first.session_id]
    assert await live_ones(database, CARL) == {other.session_id}
    await sessions.rotate(database, other.refresh_token, Kind.CUSTOMER)


async def test_a_thousand_race_with_one_token_and_then_all_is_dead(live_db: Live) -> None:
    """At most one is answered, the second ends the session, and exactly one is told of it."""
    told: list[UUID] = []

    async def tell(_: AsyncSession, replayed: Opened) -> None:
        told.append(replayed.session_id)

    async def attempt(database: Database, token: str) -> Opened | None:
        try:
            return await sessions.rotate(database, token, Kind.CUSTOMER, on_replay=tell)
        except BadRefreshToken:
            return None

    pool = {"database_pool_size": 30, "database_pool_timeout_seconds": 60}
    async with another(live_db, **pool) as one, another(live_db, **pool) as two:
        mine = await opened(one)
        racing = [attempt((one, two)[n % 2], mine.refresh_token) for n in range(RACERS)]
        winners = [each for each in await asyncio.gather(*racing) if each]
    assert len(winners) == 1
    assert told == [mine.session_id]
    await refused(live_db.database, winners[0].refresh_token)
    await refused(live_db.database, mine.refresh_token)
    kept = await row(live_db.database, mine.session_id)
    assert (kept["end_reason"], kept["generation"]) == ("replayed", 2)


async def test_a_chain_that_is_raced_at_every_link_ends_at_the_first(live_db: Live) -> None:
    """The winner's token is raced on while the losers are still at it: nothing of it survives."""
    async with another(
        live_db, database_pool_size=30, database_pool_timeout_seconds=60
    ) as database:
        mine = await opened(database)

        async def climb(token: str) -> None:
            while True:
                try:
                    renewed = await sessions.rotate(database, token, Kind.CUSTOMER)
                except BadRefreshToken:
                    return
                token = renewed.refresh_token

        await asyncio.wait_for(asyncio.gather(*(climb(mine.refresh_token) for _ in range(100))), 60)
    assert await live_ones(live_db.database, CARL) == set()


async def test_sliding_expiry_stops_at_the_absolute_one(live_db: Live) -> None:
    database = live_db.database
    mine = await opened(database)
    await change(live_db, mine.session_id, "renewable_until = now() + interval '5 minutes'")
    renewed = await sessions.rotate(database, mine.refresh_token, Kind.CUSTOMER)
    kept = await row(database, mine.session_id)
    assert kept["expires_at"] == kept["renewable_until"] == renewed.expires_at
    assert 250 < renewed.access_seconds <= 300


async def test_an_expired_session_is_not_renewed(live_db: Live) -> None:
    database = live_db.database
    idle = await opened(database)
    await change(live_db, idle.session_id, "expires_at = now() - interval '1 second'")
    await refused(database, idle.refresh_token)
    assert await live_ones(database, CARL) == set()
    brief = await opened(database, lifetime=Lifetime(timedelta(0), timedelta(0)))
    await refused(database, brief.refresh_token)
    assert brief.access_seconds == 1


async def test_a_session_is_renewed_only_where_it_belongs(database: Database) -> None:
    mine, hers = await opened(database, CARL), await opened(database, OLIVIA)
    await refused(database, mine.refresh_token, Kind.STAFF)
    await refused(database, hers.refresh_token, Kind.CUSTOMER)
    await sessions.rotate(database, mine.refresh_token, Kind.CUSTOMER)
    await sessions.rotate(database, hers.refresh_token, Kind.STAFF)


async def test_what_is_not_ours_never_reaches_the_database(live_db: Live) -> None:
    """Pools that cannot be opened: forgeries are refused all the same, and with one sentence."""
    good = (await opened(live_db.database)).refresh_token
    raw = base64.urlsafe_b64decode(good.removeprefix("brt_"))
    flipped = [raw[:n] + bytes([raw[n] ^ 1]) + raw[n + 1 :] for n in range(len(raw))]
    foreign = sessions.refresh_token(["another installation's key, 32 ch"], uuid4(), raw[17:49])
    bad = ["", "x", "brt_", "ключ", good[:-1], good + "A", good + "\n", good.upper(), good[4:]]
    bad += [f" {good}", "brt_" + "A" * 108, "brt_" + "=" * 108, "brt_" + "é" * 108, "\x00" * 112]
    bad += ["x" * 1_000_000, foreign]
    bad += ["brt_" + base64.urlsafe_b64encode(each).decode() for each in flipped]
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing", live_db.settings)
    assert {await refused(nowhere, token) for token in bad} == {
        "The refresh token is not good any more; sign in again."
    }
    await sessions.rotate(live_db.database, good, Kind.CUSTOMER)


async def test_a_change_of_keys_signs_nobody_out(live_db: Live) -> None:
    """Every key verifies, the newest marks; the last one stays the database's own."""
    old, new = databases.SECRET, "a new secret key of 32 characters"
    mine = await opened(live_db.database)
    async with another(live_db, secret_key=f"{new},{old}") as during:
        renewed = await sessions.rotate(during, mine.refresh_token, Kind.CUSTOMER)
        assert sessions.read_refresh_token([new], renewed.refresh_token)[0] == mine.session_id
        with pytest.raises(BadRefreshToken):
            sessions.read_refresh_token([old], renewed.refresh_token)
    with pytest.raises(BadRefreshToken):
        sessions.read_refresh_token([new], mine.refresh_token)


async def test_no_kind_of_token_passes_for_another(live_db: Live) -> None:
    mine = await opened(live_db.database)
    await refused(live_db.database, Tokens(live_db.settings.secret_keys).sign(CARL))
    async with live_db.api(Authorization=f"Bearer {mine.refresh_token}") as api:
        answer = await api.get("/api/v1/admin/settings")
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.bad_token")


async def test_a_crash_before_the_commit_changes_nothing(live_db: Live) -> None:
    """The connection is cut while the new token is written: the old one is still the good one."""
    database = live_db.database
    mine = await opened(database)
    _, secret = sessions.read_refresh_token([databases.SECRET], mine.refresh_token)
    values = {"id": mine.session_id, "kind": "customer", "successor": b"x", "address": None}

    async def crash() -> None:
        async with database.transaction(DOOR) as db:
            await db.execute(sessions.ROTATE, {**values, "presented": sessions.digest(secret)})
            backend = await db.scalar(text("select pg_backend_pid()"))
            await databases.administer(f"select pg_terminate_backend({backend})")

    with pytest.raises((DBAPIError, OutcomeUnknown)):
        await crash()
    assert (await row(database, mine.session_id))["ended_at"] is None
    await sessions.rotate(database, mine.refresh_token, Kind.CUSTOMER)
