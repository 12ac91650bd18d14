"""Who is cut off before the answer is told that it may have happened; who never asked, that not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bursar.app import create_app
from bursar.core.database import Database
from bursar.core.database_errors import DatabaseUnavailable
from bursar.keys import secret
from bursar.metering.desk import Desk, Question
from tests.accounts.people import rows
from tests.between import Cutter
from tests.conftest import Live
from tests.keys.keyholders import USAGE, VERIFY, assert_sums_hold, key_of, service_key
from tests.keys.test_outages import closed_to_all
from tests.metering.test_idempotency import is_replay, question, send
from tests.metering.test_ingest import EVENTS, counted, event
from tests.metering.test_outcomes import OUTCOMES, outcome
from tests.wallets.purses import move_in, refused

MARK = "the-marked-one"


@asynccontextmanager
async def cut_off(live: Live, cuts: int = 1) -> AsyncIterator[Live]:
    """The application, on a line to PostgreSQL that is cut after what has the mark in it."""
    async with Cutter(live.url, MARK.encode(), cuts).listening() as cutter:
        cut = Live(cutter.url, live.settings, create_app(live.settings, cutter.url))
        yield cut
        await cut.app.state.till.close()
        await cut.database.close()
    assert cutter.cuts == cuts


BODIES: dict[str, dict[str, Any]] = {
    VERIFY: {"endpoint": MARK},
    USAGE: event(endpoint=MARK),
    EVENTS: {"events": [event(endpoint=MARK), event(8)]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_may_have_been_counted_is_not_denied(live_db: Live, path: str) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    body = {"key": carl.key, "event_id": "e", **BODIES[path]} if path == VERIFY else BODIES[path]
    much = 2 if path == EVENTS else 1
    async with cut_off(live_db) as cut:
        lost = await send(cut, shop, path, body, None)
        assert refused(lost) == (503, "database.outcome_unknown")
        assert lost.headers["retry-after"] == "2"
        assert await counted(live_db) == much
        assert (await send(cut, shop, path, body, None)).is_success
    assert await counted(live_db) == much  # by its id
    await assert_sums_hold(live_db)


async def test_a_question_with_a_key_is_known_again(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    asked = question(carl, endpoint=MARK)
    async with cut_off(live_db, cuts=3) as cut:
        told = [await send(cut, shop, VERIFY, asked) for _ in range(4)]
    assert [refused(each) for each in told[:3]] == [(503, "database.outcome_unknown")] * 3
    assert (told[3].json()["code"], is_replay(told[3])) == ("VALID", True)
    assert await counted(live_db) == 1


async def test_an_outcome_that_may_be_recorded_is_not_denied(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    verdict = (await send(live_db, shop, VERIFY, question(carl), None)).json()
    body = {"outcomes": [outcome(verdict, error_message=MARK)]}
    async with cut_off(live_db) as cut:
        lost = await send(cut, shop, OUTCOMES, body, None)
        assert refused(lost) == (503, "database.outcome_unknown")
        [row] = await rows(live_db, "select error_message from usage")
        assert row["error_message"] == MARK
        assert (await send(cut, shop, OUTCOMES, body, None)).json()["duplicates"] == 1


async def test_what_was_never_asked_has_not_happened(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    nowhere = Database("postgresql://bursar@127.0.0.1:1/bursar", live_db.settings)
    closed = Database(live_db.url, live_db.settings)
    async with closed_to_all(live_db):
        for database in (nowhere, closed):
            with pytest.raises(DatabaseUnavailable):
                await Desk(database).ask(Question(secret.digest(carl.key), {"units": 1}))
            await database.close()
