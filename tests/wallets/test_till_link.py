"""Whatever becomes of its connection, the till says only what it knows, and charges once."""

import asyncio
import os
from uuid import UUID

import pytest
from sqlalchemy.engine import make_url

from bursar.core.database import Database
from bursar.core.database_errors import Conflict, DatabaseUnavailable, OutcomeUnknown
from bursar.wallets import till
from bursar.wallets.ledger import Outcome
from bursar.wallets.till import Till
from tests.conftest import Live
from tests.databases import ADMIN
from tests.databases import test_settings as settings_of_tests
from tests.wallets.till_world import (
    CONNECTED,
    add_customer,
    balance,
    blocked,
    charge,
    fetch,
    locked,
)


async def test_a_backend_that_dies_is_replaced(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 100)
    async with locked(live_db.url, carl):
        slow = asyncio.create_task(desk.post_all([charge(carl), charge(carl, 2)]))
        killed = await blocked(live_db.url)
        await fetch(os.environ[ADMIN], "select pg_terminate_backend($1, 5000)", killed)
        assert await blocked(live_db.url) != killed
    assert [type(each) for each in await slow] == [Outcome, Outcome]
    assert await balance(live_db.url, carl) == 97


async def test_a_batch_that_lost_its_connection_cannot_happen_later(
    live_db: Live, desk: Till
) -> None:
    await limit_locks(live_db.url, "60s")  # the old backend does not end by itself
    carl = await add_customer(live_db.url, 100)
    async with locked(live_db.url, carl):
        slow = asyncio.create_task(desk.post(charge(carl)))
        left_behind = await blocked(live_db.url)
        lane = desk._lane(charge(carl))
        lane._link._connection.terminate()  # type: ignore[union-attr]
        async with asyncio.timeout(20):
            while left_behind in await pids(live_db.url) or len(await pids(live_db.url)) != 1:
                await asyncio.sleep(0.01)
    assert not (await slow).replayed
    assert await balance(live_db.url, carl) == 99


async def pids(url: str) -> list[int]:
    return [row["pid"] for row in await fetch(url, CONNECTED)]


async def test_without_a_database_nothing_is_promised(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 0.5)
    nowhere = Database("postgresql://bursar@127.0.0.1:1/bursar", live_db.settings)
    desk = Till(nowhere)
    with pytest.raises(DatabaseUnavailable):
        await desk.post(charge(CARL_ID))
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 3600)  # it is known to be away: one try is enough
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(desk.post(charge(CARL_ID)), 60)
    await desk.close()


CARL_ID = UUID("00000000-0000-7000-8000-0000000000c1")


async def test_what_was_sent_and_never_answered_is_unknown(
    live_db: Live, desk: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 4)
    carl = await add_customer(live_db.url, 100)
    async with locked(live_db.url, carl):
        slow = asyncio.create_task(desk.post(charge(carl)))
        await blocked(live_db.url)
        waits = asyncio.create_task(desk.post(charge(carl)))
        with pytest.raises(OutcomeUnknown):
            await slow
        with pytest.raises(DatabaseUnavailable):
            await waits
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 60)
    assert (await desk.post(charge(carl, 1, "later"))).legs[0].balance in (99, 98)


async def limit_locks(url: str, time_limit: str) -> None:
    """How long the till's next connections wait for a lock, in this database alone."""
    place = f"alter role worker_user in database {make_url(url).database}"
    await fetch(url, f"{place} set lock_timeout = '{time_limit}'")


async def test_a_lock_that_is_never_given_ends_in_a_conflict(live_db: Live, desk: Till) -> None:
    await limit_locks(live_db.url, "100ms")
    carl = await add_customer(live_db.url, 100)
    dora = await add_customer(live_db.url, 100)
    async with locked(live_db.url, carl):
        batch = [charge(carl), *(charge(dora) for _ in range(7))]
        refused, *neighbours = await desk.post_all(batch)
    assert isinstance(refused, Conflict)
    assert [type(each) for each in neighbours] == [Outcome] * 7


async def test_through_an_old_pooler(live_db: Live) -> None:
    settings = settings_of_tests(
        database_unnamed_statements=True, secret_key=live_db.settings.secret_key
    )
    database = Database(live_db.url, settings)
    desk = Till(database)
    carl = await add_customer(live_db.url, 100)
    request = charge(carl)
    assert (await desk.post(request)).legs[0].balance == 99
    desk._lane(request)._link._connection.terminate()  # type: ignore[union-attr]
    assert (await desk.post(request)).replayed
    await desk.close()
