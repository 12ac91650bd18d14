"""Nothing that is kept or logged of an error holds a secret, a parameter or a row."""

import asyncio
import logging
from dataclasses import replace

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, failures, jobs, relay
from bursar.core.database import WORKER
from bursar.worker import Pace, Worker
from tests import databases
from tests.jobs_world import Happened
from tests.workers import CUSTOMER, QUICK, Bench, until

# Without row-level security on the table, PostgreSQL's DETAIL is the whole row.
INSERT = text("insert into notes (who, word) values (:who, null)")
ROW = {"who": "zebra"}
SAID = "null value in column"


class TestMessage:
    @pytest.mark.parametrize(
        "said",
        [
            "postgresql://me:hunter2-secret@db/x refused",
            "Authorization: Bearer hunter2-secret",
            "login with password='hunter2-secret' failed",
            'the key {"api_key": "hunter2-secret"} is bad',
            "no such key: sk_live_hunter2-secret",
        ],
    )
    def test_no_secret_is_kept(self, said: str) -> None:
        assert "hunter2" not in failures.report(1, ValueError(said))

    def test_it_is_bounded_and_one_line(self) -> None:
        assert len(failures.message(ValueError("x" * 10_000))) == failures.MAX_MESSAGE
        assert failures.message(ValueError("one\ntwo")) == "ValueError: one"

    async def test_a_database_error_keeps_its_values_to_itself(self, here: Bench) -> None:
        async with here.rolled_back(WORKER) as db:
            with pytest.raises(IntegrityError) as caught:
                await db.execute(INSERT, ROW)
        said = failures.message(caught.value)
        assert "zebra" in str(caught.value.orig.__cause__)  # so that the next lines prove something
        assert said.startswith(f"NotNullViolationError: {SAID}")
        assert "zebra" not in said

    @pytest.mark.parametrize(
        ("statement", "value", "said"),
        [
            ("select cast(cast(:x as text) as uuid)", "zebra", "a value was refused (22P02)"),
            ("select cast(cast(:x as text) as json)", "zebra", "a value was refused (22P02)"),
            ("select cast(:x as timestamptz)", b"zebra", "a value was refused (22000)"),
        ],
    )
    async def test_a_value_that_was_refused_is_not_told(
        self, shared: Bench, statement: str, value: object, said: str
    ) -> None:
        with pytest.raises(DBAPIError) as caught:
            async with shared.database.transaction(WORKER) as db:
                await db.execute(text(statement), {"x": value})
        assert said in failures.message(caught.value)
        assert "zebra" not in failures.report(1, caught.value)

    async def test_an_error_of_the_driver_itself_is_told_the_same_way(self, shared: Bench) -> None:
        with pytest.raises(asyncpg.DataError) as caught:
            await shared.database.fetch_one(WORKER, "select $2::uuid as id", "zebra")
        assert failures.message(caught.value) == "DataError: a value was refused (22000)"

    @given(st.integers(1, 10_000))
    def test_the_delay_grows_to_an_hour_and_is_spread(self, attempt: int) -> None:
        definition = jobs.registry["test.write"]
        doubled = min(5 * 2 ** (attempt - 1), 3600)
        seconds = jobs.delay_before(definition, attempt).total_seconds()
        assert doubled * 0.75 <= seconds <= doubled * 1.25


class TestLogs:
    async def test_a_failing_subscriber_shows_no_row(
        self, here: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def clumsy(db: AsyncSession, event: events.Published) -> None:
            await db.execute(INSERT, ROW)

        subscriber = replace(events.subscribers["test.scribe"], handle=clumsy)
        await relay.register(here.database, [subscriber])
        async with here.database.transaction(CUSTOMER) as db:
            await events.publish(db, Happened(word="hello"))
        caplog.set_level(logging.DEBUG, "bursar")

        async def failed() -> bool:
            await relay.deliver(here.database, subscriber)
            return bool(await here.fetch("select from event_positions where failures > 0"))

        await until(failed)
        (row,) = await here.fetch("select last_error from event_positions")
        assert SAID in row["last_error"]
        assert SAID in caplog.text
        assert "in clumsy" in caplog.text
        assert "zebra" not in caplog.text + row["last_error"]

    async def test_a_turn_of_the_worker_that_fails_shows_no_row(
        self, here: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def turn() -> float:
            try:
                async with here.database.transaction(WORKER) as db:
                    await db.execute(INSERT, ROW)
            except IntegrityError as error:
                raise RuntimeError("a defect") from error
            return 0

        worker = Worker(here.database, databases.test_settings(), Pace(**QUICK))
        turning = asyncio.create_task(worker.forever(turn))

        async def told() -> bool:
            return "RuntimeError: a defect" in caplog.text

        await until(told)
        turning.cancel()
        assert "in turn" in caplog.text
        assert "zebra" not in caplog.text
