"""Throttles: exactly so many get through, whoever asks where and at the same moment as whom."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from random import sample
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from bursar.auth import tasks, throttle
from bursar.auth.actor import Kind
from bursar.auth.throttle import Limit, TooManyAttempts, network_of
from bursar.core.database import NOBODY, WORKER, Claim, Database, Role
from tests import databases
from tests.conftest import Live

EMAIL, HOME, CAFE = "carl@example.com", "192.0.2.1", "198.51.100.7"


def some(times: int = 3) -> Limit:
    return Limit(f"test {uuid4()}", times, 300)


@asynccontextmanager
async def owner(live: Live) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(databases.raw(live.url))
    try:
        yield connection
    finally:
        await connection.close()


async def time_passes(live: Live, seconds: int) -> None:
    async with owner(live) as connection:
        await connection.execute(
            "update attempts set window_ends = window_ends - make_interval(secs => $1)", seconds
        )


async def rows(live: Live) -> list[Any]:
    async with owner(live) as connection:
        return list(await connection.fetch("select * from attempts order by key"))


async def let_through(attempt: Callable[[], Awaitable[None]], times: int) -> int:
    through = 0
    for _ in range(times):
        try:
            await attempt()
            through += 1
        except TooManyAttempts:
            pass
    return through


async def refused(database: Database, attempts: throttle.Attempts) -> int:
    with pytest.raises(TooManyAttempts) as caught:
        await throttle.count(database, attempts)
    assert (caught.value.status, caught.value.code) == (429, "auth.too_many_attempts")
    return int(caught.value.headers["Retry-After"])


async def test_of_a_thousand_at_once_exactly_so_many_get_through(live_db: Live) -> None:
    """From two processes' pools, in both orders of keys, so that locks could cross."""
    other = Database(live_db.url, live_db.settings)
    tight, wide = some(7), some(500)
    places = asyncio.Semaphore(64)
    outcomes: list[bool] = []

    async def one(number: int) -> None:
        keys = [(tight, "one"), (wide, "all")]
        async with places:
            try:
                database = other if number % 2 else live_db.database
                await throttle.count(database, keys if number % 3 else keys[::-1])
                outcomes.append(True)
            except TooManyAttempts:
                outcomes.append(False)

    try:
        await asyncio.gather(*(one(number) for number in range(1000)))
    finally:
        await other.close()
    assert (len(outcomes), sum(outcomes)) == (1000, 7)
    assert [row["count"] for row in await rows(live_db)] == [7, 7]


async def test_those_who_looked_before_the_last_one_was_taken_are_refused(live_db: Live) -> None:
    """All of them have seen one left, and wait for the row."""
    keys, other = [(some(3), EMAIL)], [(some(3), "another")]
    for _ in range(2):
        await throttle.count(live_db.database, keys)
    both = [*keys, *other]
    warm = [(some(9), "connected before the row is held")]
    await asyncio.gather(*(throttle.count(live_db.database, warm) for _ in range(4)))
    async with owner(live_db) as holder:
        held = holder.transaction()
        await held.start()
        await holder.execute("select * from attempts where count = 2 for update")
        racing = [
            asyncio.create_task(let_through(lambda: throttle.count(live_db.database, both), 1))
            for _ in range(2)
        ]
        async with asyncio.timeout(20):
            while await holder.fetchval(WAITING) < 2:
                await asyncio.sleep(0.01)
        await held.commit()
    assert sum(await asyncio.gather(*racing)) == 1
    assert sorted(row["count"] for row in await rows(live_db)) == [1, 3, 4]


WAITING = """
select count(distinct pid) from pg_locks where not granted and pid in (
  select pid from pg_stat_activity where datname = current_database())"""


async def test_nobody_waits_in_a_circle(live_db: Live) -> None:
    """Many keys in every order from two pools: a deadlock would raise."""
    other = Database(live_db.url, live_db.settings)
    wide = replace(some(100_000), forgiven=True)
    keys = [(wide, str(number)) for number in range(40)]
    places = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        async with places:
            database = other if number % 2 else live_db.database
            await throttle.count(database, sample(keys, 40))
            if number % 10 == 0:
                await throttle.forget(
                    database, [(replace(wide, forgiven=True), k) for _, k in keys]
                )

    try:
        await asyncio.gather(*(one(number) for number in range(300)))
    finally:
        await other.close()


async def test_retry_after_is_the_end_of_the_window_and_refusals_do_not_move_it(
    live_db: Live,
) -> None:
    keys = [(some(2), EMAIL)]
    for _ in range(2):
        await throttle.count(live_db.database, keys)
    assert 290 <= await refused(live_db.database, keys) <= 300
    before = await rows(live_db)
    await time_passes(live_db, 200)
    assert 90 <= await refused(live_db.database, keys) <= 100
    assert [row["count"] for row in await rows(live_db)] == [row["count"] for row in before]
    await time_passes(live_db, 101)
    await throttle.count(live_db.database, keys)
    (row,) = await rows(live_db)
    assert row["count"] == 1
    assert row["window_ends"] > before[0]["window_ends"].replace(microsecond=0)


async def test_attempts_that_get_through_do_not_move_the_window_either(live_db: Live) -> None:
    keys = [(some(3), EMAIL)]
    await throttle.count(live_db.database, keys)
    await time_passes(live_db, 200)
    (before,) = await rows(live_db)
    await throttle.count(live_db.database, keys)
    (after,) = await rows(live_db)
    assert (after["count"], after["window_ends"]) == (2, before["window_ends"])


async def test_what_one_key_refuses_counts_on_no_other(live_db: Live) -> None:
    """Or one address could use up what the account has left, and keep its owner out."""
    tight, wide = some(2), some(100)
    keys = [(tight, HOME), (wide, EMAIL)]
    assert await let_through(lambda: throttle.count(live_db.database, keys), 50) == 2
    assert sorted(row["count"] for row in await rows(live_db)) == [2, 2]
    fresh = [(tight, HOME), (wide, "somebody new")]
    await refused(live_db.database, fresh)
    assert len(await rows(live_db)) == 2  # nor does it leave rows behind


async def test_a_count_stays_when_the_request_fails_afterwards(live_db: Live) -> None:
    keys = [(some(1), EMAIL)]
    with suppress(ZeroDivisionError):
        async with live_db.database.transaction(NOBODY):
            await throttle.count(live_db.database, keys)
            raise ZeroDivisionError
    await refused(live_db.database, keys)


async def test_success_forgets_what_it_forgives_and_nothing_else(live_db: Live) -> None:
    mine = throttle.login(Kind.CUSTOMER, EMAIL, HOME)
    for _ in range(10):
        await throttle.count(live_db.database, mine)
    await refused(live_db.database, mine)
    await throttle.forget(live_db.database, mine)
    await throttle.count(live_db.database, mine)
    counts = [row["count"] for row in await rows(live_db)]
    assert max(counts) == 11  # of the address


async def test_ten_logins_from_an_address_and_a_hundred_from_everywhere(live_db: Live) -> None:
    database = live_db.database

    def login(address: str) -> Callable[[], Awaitable[None]]:
        return lambda: throttle.count(database, throttle.login(Kind.CUSTOMER, EMAIL, address))

    assert await let_through(login(HOME), 12) == 10
    through = [await let_through(login(f"198.51.100.{last}"), 11) for last in range(10)]
    assert through == [10] * 9 + [0]
    staff = throttle.login(Kind.STAFF, EMAIL.upper(), HOME)  # somebody else of the same address
    await throttle.count(database, staff)


async def test_letter_case_and_another_address_of_the_same_network_buy_nothing(
    live_db: Live,
) -> None:
    spellings = ["carl@example.com", "CARL@example.com", " Carl@Example.COM "]
    addresses = ["2001:db8::1", "2001:DB8::ffff", "2001:db8:0:0:1:2:3:4"]
    through = 0
    for number in range(15):
        keys = throttle.login(Kind.CUSTOMER, spellings[number % 3], addresses[number % 3])
        through += await let_through(lambda keys=keys: throttle.count(live_db.database, keys), 1)
    assert through == 10


@pytest.mark.parametrize(
    ("attempts", "times"),
    [
        (throttle.second_factor(uuid4()), 5),
        (throttle.proof(uuid4()), 10),
        (throttle.mails(Kind.CUSTOMER, EMAIL, HOME), 3),
        (throttle.mails(Kind.CUSTOMER, EMAIL, HOME)[1:], 20),
        (throttle.sign_up(HOME), 20),
        (throttle.links(None), 20),
    ],
)
async def test_every_other_limit_holds(
    live_db: Live, attempts: throttle.Attempts, times: int
) -> None:
    got = await let_through(lambda: throttle.count(live_db.database, attempts), times + 3)
    assert got == times


async def test_nothing_that_can_be_read_or_guessed_is_kept(live_db: Live) -> None:
    await throttle.count(live_db.database, throttle.login(Kind.CUSTOMER, EMAIL, HOME))
    async with owner(live_db) as connection:
        dump = await connection.fetchval("select string_agg(attempts::text, ' ') from attempts")
    assert EMAIL not in dump
    assert EMAIL.encode().hex() not in dump
    other = Database(live_db.url, databases.test_settings(secret_key="another key " * 3))
    limit = throttle.LOGIN_TO
    assert throttle.digest(other, limit, EMAIL) != throttle.digest(live_db.database, limit, EMAIL)


async def test_the_worker_forgets_only_windows_that_are_over(live_db: Live) -> None:
    await throttle.count(live_db.database, [(some(), "old")])
    await time_passes(live_db, 301)
    await throttle.count(live_db.database, [(some(), "new")])
    async with live_db.database.transaction(WORKER) as db:
        await tasks.prune_attempts(db, {})
    assert len(await rows(live_db)) == 1


CALLS = {
    "select * from attempts": set[Role](),
    "delete from attempts": set[Role](),
    "select count_attempts(array['x'::bytea], array[1], array[1])": {Role.DOOR},
    "select forget_attempts(array['x'::bytea])": {Role.DOOR},
    "select prune_attempts()": {Role.WORKER},
}


@pytest.mark.parametrize("sql", CALLS)
@pytest.mark.parametrize("role", Role)
async def test_only_sign_in_counts_and_nobody_reads(live_db: Live, role: Role, sql: str) -> None:
    async def call() -> None:
        async with live_db.database.transaction(Claim(role, str(uuid4()))) as db:
            await db.execute(text(sql))

    if role in CALLS[sql]:
        await call()
        return
    with pytest.raises(Exception, match="permission denied"):
        await call()


async def test_one_attempt_counts_once_on_each_key(live_db: Live) -> None:
    limit = some()
    with pytest.raises(ValueError, match="once"):
        await throttle.count(live_db.database, [(limit, "x"), (limit, "x")])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        (None, "unknown"),
        ("", "unknown"),
        ("/run/bursar.sock", "unknown"),
        ("192.0.2.1, 10.0.0.1", "unknown"),
        ("1.2.3.4:80", "unknown"),
        ("\ud800", "unknown"),
    ],
)
def test_an_ipv6_address_counts_by_its_network(address: str | None, network: str) -> None:
    assert network_of(address) == network


@given(st.text())
def test_no_address_is_too_strange(address: str) -> None:
    assert network_of(address)
