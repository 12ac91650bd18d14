"""One-time tokens: once, for one purpose, in time, and never two winners."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from bursar.auth import one_time, tasks
from bursar.auth.one_time import BadOneTimeToken, Purpose, Used
from bursar.core.database import DOOR, WORKER, Claim, Role
from tests import databases
from tests.conftest import Live

SOMEBODY, ANOTHER = uuid4(), uuid4()
HOUR = timedelta(hours=1)
PAYLOAD = {"email": "carl@example.com"}


async def make(
    live: Live,
    purpose: Purpose = Purpose.RESET,
    subject: UUID = SOMEBODY,
    claim: Claim = DOOR,
) -> str:
    async with live.database.transaction(claim) as db:
        return await one_time.make(db, purpose, subject, HOUR, PAYLOAD)


async def use(live: Live, token: str, purpose: Purpose = Purpose.RESET) -> Used:
    async with live.database.transaction(DOOR) as db:
        return await one_time.use(db, purpose, token)


async def refused(live: Live, token: str, purpose: Purpose = Purpose.RESET) -> None:
    with pytest.raises(BadOneTimeToken) as caught:
        await use(live, token, purpose)
    assert caught.value.detail == "This link is not valid any more; ask for a new one."
    assert caught.value.status == 422


@asynccontextmanager
async def owner(live: Live) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(databases.raw(live.url))
    try:
        yield connection
    finally:
        await connection.close()


async def everything_expires(live: Live) -> None:
    async with owner(live) as connection:
        await connection.execute("update one_time_tokens set expires_at = now()")


async def test_it_works_once_and_says_what_for(live_db: Live) -> None:
    token = await make(live_db)
    assert await use(live_db, token) == Used(SOMEBODY, PAYLOAD)
    await refused(live_db, token)


async def test_a_token_without_a_payload_has_an_empty_one(live_db: Live) -> None:
    async with live_db.database.transaction(DOOR) as db:
        token = await one_time.make(db, Purpose.FIRST_RUN, SOMEBODY, HOUR)
    assert await use(live_db, token, Purpose.FIRST_RUN) == Used(SOMEBODY, {})


async def test_of_twenty_at_once_one_wins(live_db: Live) -> None:
    token = await make(live_db)
    outcomes = await asyncio.gather(
        *(use(live_db, token) for _ in range(20)), return_exceptions=True
    )
    assert [each for each in outcomes if isinstance(each, Used)] == [Used(SOMEBODY, PAYLOAD)]
    assert sum(isinstance(each, BadOneTimeToken) for each in outcomes) == 19


async def test_a_use_that_is_rolled_back_was_none(live_db: Live) -> None:
    token = await make(live_db)
    with suppress(ZeroDivisionError):
        async with live_db.database.transaction(DOOR) as db:
            await one_time.use(db, Purpose.RESET, token)
            raise ZeroDivisionError
    assert await use(live_db, token)


async def test_every_reason_to_refuse_has_the_same_answer(live_db: Live) -> None:
    token = await make(live_db)
    strange = ["", "x", token[:-1], token + "A", token.swapcase(), "\0" * 43, "\ud800" * 43]
    for each in [*strange, "é" * 43, "A" * 43, "x" * 100_000, f" {token[:-1]}"]:
        await refused(live_db, each)
    for purpose in set(Purpose) - {Purpose.RESET}:
        await refused(live_db, token, purpose)
    await everything_expires(live_db)
    await refused(live_db, token)


async def test_a_new_one_takes_the_place_of_the_one_before(live_db: Live) -> None:
    old, other = await make(live_db), await make(live_db, subject=ANOTHER)
    verification = await make(live_db, Purpose.VERIFY_EMAIL)
    new = await make(live_db)
    await refused(live_db, old)
    assert (await use(live_db, new)).subject == SOMEBODY
    assert (await use(live_db, other)).subject == ANOTHER
    assert await use(live_db, verification, Purpose.VERIFY_EMAIL)


async def test_of_many_made_at_once_one_is_good(live_db: Live) -> None:
    made = await asyncio.gather(*(make(live_db) for _ in range(10)))
    outcomes = [await asyncio.gather(use(live_db, each), return_exceptions=True) for each in made]
    assert sum(isinstance(each[0], Used) for each in outcomes) == 1


async def test_what_is_taken_back_is_good_no_more(live_db: Live) -> None:
    reset, verification = await make(live_db), await make(live_db, Purpose.VERIFY_EMAIL)
    other = await make(live_db, subject=ANOTHER)
    async with live_db.database.transaction(Claim(Role.STAFF)) as db:
        await one_time.forget(db, SOMEBODY, Purpose.RESET)
    await refused(live_db, reset)
    async with live_db.database.transaction(WORKER) as db:
        await one_time.forget(db, SOMEBODY)
    await refused(live_db, verification, Purpose.VERIFY_EMAIL)
    assert await use(live_db, other)


async def test_a_customer_takes_back_only_their_own(live_db: Live) -> None:
    mine, other = await make(live_db), await make(live_db, subject=ANOTHER)
    async with live_db.database.transaction(Claim(Role.CUSTOMER, str(SOMEBODY))) as db:
        await one_time.forget(db, SOMEBODY)
        await one_time.forget(db, ANOTHER)
    await refused(live_db, mine)
    assert await use(live_db, other)
    still = await make(live_db)
    async with live_db.database.transaction(Claim(Role.CUSTOMER)) as db:
        await one_time.forget(db, SOMEBODY)
    assert await use(live_db, still)


MAKES = {
    Role.DOOR: set(Purpose),
    Role.STAFF: {Purpose.INVITATION, Purpose.VERIFY_EMAIL},
    Role.WORKER: {Purpose.RESET, Purpose.STAFF_RESET, Purpose.VERIFY_EMAIL},
}


@pytest.mark.parametrize("role", MAKES)
async def test_who_may_make_which(live_db: Live, role: Role) -> None:
    for purpose in Purpose:
        if purpose in MAKES[role]:
            token = await make(live_db, purpose, claim=Claim(role))
            assert await use(live_db, token, purpose)
        else:
            with pytest.raises(Exception, match="makes no token for this purpose"):
                await make(live_db, purpose, claim=Claim(role))


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.ANALYTICS])
async def test_who_may_not(live_db: Live, role: Role) -> None:
    with pytest.raises(Exception, match="permission denied"):
        await make(live_db, claim=Claim(role, str(SOMEBODY)))


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.DOOR])
@pytest.mark.parametrize(
    "sql",
    [
        "select expires_at from one_time_tokens",
        "delete from one_time_tokens",
        "update one_time_tokens set expires_at = 'infinity'",
        "insert into one_time_tokens values ('', 'reset', uuid7(), '{}', now(), now())",
    ],
)
async def test_nobody_else_reads_or_writes_the_table(live_db: Live, role: Role, sql: str) -> None:
    with pytest.raises(Exception, match="permission denied"):
        async with live_db.database.transaction(Claim(role, str(SOMEBODY))) as db:
            await db.execute(text(sql))


async def test_only_a_hash_is_kept(live_db: Live) -> None:
    token = await make(live_db)
    async with owner(live_db) as connection:
        row = await connection.fetchrow("select *, t::text as dump from one_time_tokens t")
    assert row["hash"] == hashlib.sha256(token.encode()).digest()
    assert token not in row["dump"]
    assert token.encode().hex() not in row["dump"]


async def test_the_worker_prunes_what_has_expired(live_db: Live) -> None:
    await make(live_db)
    await everything_expires(live_db)
    good = await make(live_db, subject=ANOTHER)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.prune_one_time_tokens(db, {})
    async with owner(live_db) as connection:
        assert await connection.fetchval("select count(*) from one_time_tokens") == 1
    assert await use(live_db, good)


async def test_a_token_lives_for_some_time(live_db: Live) -> None:
    async with live_db.database.transaction(DOOR) as db:
        with pytest.raises(ValueError, match="lives"):
            await one_time.make(db, Purpose.RESET, SOMEBODY, timedelta(0))
    async with live_db.database.transaction(DOOR) as db:
        assert await one_time.make(db, Purpose.RESET, SOMEBODY, timedelta(days=8))
    with pytest.raises(Exception, match="8 days at most"):
        async with live_db.database.transaction(DOOR) as db:
            await one_time.make(db, Purpose.RESET, SOMEBODY, timedelta(days=8, seconds=1))
