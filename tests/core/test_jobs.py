"""Adding jobs, holding them, ending them: what the queue promises without any worker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs, queue, schedule, tasks
from bursar.core.database import WORKER, Claim
from bursar.core.queue import HoldLost
from tests import jobs_world
from tests.workers import CUSTOMER, LEASE, STAFF, Bench, bench

NO_LEASE = timedelta(0)


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Bench]:
    """For tests that leave nothing behind."""
    async with bench() as opened:
        await opened.enqueue(jobs_world.write, {"word": "somebody's"})
        async with opened.database.transaction(WORKER) as db:
            await schedule.register(db)
        yield opened


class TestAdding:
    async def test_a_job_of_a_rolled_back_transaction_never_was(self, here: Bench) -> None:
        async with here.rolled_back() as db:
            await jobs.enqueue(db, jobs_world.write, {"word": "never"})
        assert await here.queue() == []
        assert await here.fetch("select from pgqueuer_log") == []

    async def test_a_job_of_a_committed_transaction_waits(self, here: Bench) -> None:
        async with here.database.transaction(CUSTOMER) as db:
            first = await jobs.enqueue(db, jobs_world.write, {"word": "a"})
            second = await jobs.enqueue(db, jobs_world.write, {"word": "b"})
            assert await here.queue() == []  # nobody else sees them before the commit
        assert await here.queue() == [(first, "queued", 0), (second, "queued", 0)]

    async def test_a_unique_key_lets_one_wait(self, here: Bench) -> None:
        async def add(what: jobs.Function = jobs_world.write, key: str = "k") -> int | None:
            async with here.database.transaction(CUSTOMER) as db:
                return await jobs.enqueue(db, what, unique_key=key)

        assert await add()
        assert await add() is None
        assert await add(key="another")
        assert await add(what=jobs_world.fail)  # the key is the name's own
        (job, *_) = await here.take("test.write")
        assert await add() is None  # it runs
        async with here.database.transaction(WORKER) as db:
            await queue.finish(db, job)
        assert await add()

    async def test_of_many_at_once_with_one_key_one_is_added(self, here: Bench) -> None:
        async def add() -> int | None:
            async with here.database.transaction(CUSTOMER) as db:
                return await jobs.enqueue(db, jobs_world.write, unique_key="k")

        added = await asyncio.gather(*(add() for _ in range(20)))
        assert len([job for job in added if job]) == 1

    async def test_a_job_waits_for_its_time(self, here: Bench) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        await here.enqueue(jobs_world.write, run_at=later)
        assert await here.take("test.write") == []
        async with here.database.transaction(WORKER) as db:
            wait = await queue.seconds_to_next(db, ["test.write"])
        assert wait is not None
        assert 3500 < wait <= 3600

    async def test_what_cannot_be_a_job(self, here: Bench) -> None:
        async with here.database.transaction(CUSTOMER) as db:
            with pytest.raises(LookupError):
                await jobs.enqueue(db, jobs_world.note)
            with pytest.raises(ValueError, match="zone"):
                await jobs.enqueue(db, jobs_world.write, run_at=datetime(2026, 1, 1))
            with pytest.raises(jobs.PayloadTooLarge):
                await jobs.enqueue(db, jobs_world.write, {"word": "x" * jobs.MAX_PAYLOAD_BYTES})
            with pytest.raises(TypeError):
                await jobs.enqueue(db, jobs_world.write, {"amount": Decimal("0.1")})
            with pytest.raises(ValueError, match="unique key"):
                await jobs.enqueue(db, jobs_world.write, unique_key="x" * 201)
        assert await here.queue() == []


class TestWhoAsks:
    """A login role in the wrong hands: what is left to it is to add jobs, and they are watched."""

    @pytest.mark.parametrize("claim", [CUSTOMER, STAFF], ids=lambda claim: claim.role)
    @pytest.mark.parametrize(
        "statement",
        [
            "select id from pgqueuer",
            "select entrypoint, dedupe_key from pgqueuer",
            "insert into pgqueuer (priority, entrypoint, status) values (9, 'x', 'queued')",
            "update pgqueuer set priority = 1",
            "delete from pgqueuer",
            "truncate pgqueuer",
            "select id from pgqueuer_log",
            "insert into pgqueuer_log (job_id, status, entrypoint, priority) "
            "values (1, 'queued', 'x', 0)",
            "select nextval('pgqueuer_id_seq')",
            "select entrypoint from pgqueuer_schedules",
            "delete from workers",
            "select enqueue_job('test.every_second', '{}', 'cron')",
        ],
    )
    async def test_nothing_but_adding_is_left(
        self, shared: Bench, claim: Claim, statement: str
    ) -> None:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with shared.database.transaction(claim) as db:
                await db.execute(text(statement))

    @pytest.mark.parametrize(
        "arguments",
        [
            "'no-name', '{}'",
            "null, '{}'",
            f"'test.{'x' * 100}', '{{}}'",
            "'test.write', null",
            "'test.write', '[]'",
            "'test.write', '{} {}'",
            "'test.write', json_build_object('word', repeat('x', 65536))",
            "'test.write', '{}', ''",
            "'test.write', '{}', repeat('x', 201)",
            "'test.write', '{}', 'k', 'infinity'",
        ],
    )
    async def test_what_no_job_of_ours_looks_like_is_refused(
        self, shared: Bench, arguments: str
    ) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with shared.database.transaction(CUSTOMER) as db:
                await db.execute(text(f"select enqueue_job({arguments})"))
        assert refused.value.orig.sqlstate.startswith("22")  # type: ignore[union-attr]
        assert len(await shared.queue()) == 1

    async def test_who_added_it_is_written_down_and_cannot_be_chosen(self, here: Bench) -> None:
        async with here.database.transaction(STAFF) as db:
            await db.execute(text("set local request.jwt.claim.role = 'worker_user'"))
            await jobs.enqueue(db, jobs_world.write)
        (row,) = await here.fetch("select priority, headers ->> 'added_by' as who from pgqueuer")
        assert tuple(row) == (0, "staff_user")
        assert [job.added_by for job in await here.take("test.write")] == ["staff_user"]

    async def test_adding_is_one_statement(self, here: Bench) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        sent: list[str] = []
        async with here.database.transaction(CUSTOMER) as db:
            raw = (await db.connection()).sync_connection
            listen(raw, "before_cursor_execute", lambda *given: sent.append(given[2]))
            await jobs.enqueue(db, jobs_world.write, unique_key="k", run_at=later)
        assert len(sent) == 1

    async def test_its_functions_look_for_tables_in_one_place_only(self, shared: Bench) -> None:
        found = await shared.fetch(
            "select proname, proconfig from pg_proc where prosecdef and proname = any($1)",
            ["enqueue_job", "publish_event", "settle_restored_events"],
        )
        paths = {row["proname"]: row["proconfig"] for row in found}
        assert len(paths) == 3
        assert all(p == ["search_path=pg_catalog, public, pg_temp"] for p in paths.values())


class TestHolding:
    async def test_one_job_has_one_holder(self, here: Bench) -> None:
        for _ in range(30):
            await here.enqueue(jobs_world.write)
        taken = await asyncio.gather(*(here.take("test.write") for _ in range(6)))
        ids = [job.id for some in taken for job in some]
        assert len(ids) == len(set(ids)) == 30

    async def test_every_start_counts_and_only_the_last_holder_may_end_it(
        self, here: Bench
    ) -> None:
        await here.enqueue(jobs_world.write)
        (first,) = await here.take("test.write")
        assert await here.take("test.write") == []
        (second,) = await here.take("test.write", lease=NO_LEASE)
        assert (first.attempt, second.attempt) == (1, 2)
        for end in (queue.finish, queue.hold):
            with pytest.raises(HoldLost):
                async with here.database.transaction(WORKER) as db:
                    await end(db, first)
        async with here.database.transaction(WORKER) as db:
            await queue.give_up(db, first, "{}")
            await queue.hand_back(db, first)
            await queue.try_again(db, first, timedelta(0), "{}")
            assert await queue.beat(db, [first, second]) == {second.id}
        assert await here.queue() == [(first.id, "picked", 2)]

    async def test_a_job_in_a_transaction_of_its_holder_is_not_taken(self, here: Bench) -> None:
        await here.enqueue(jobs_world.write)
        (job,) = await here.take("test.write")
        async with here.database.transaction(WORKER) as db:
            await queue.hold(db, job)
            assert await here.take("test.write", lease=NO_LEASE) == []
            async with here.database.transaction(WORKER) as beating:
                assert await queue.beat(beating, [job]) == {job.id}  # and the beat does not wait
        assert len(await here.take("test.write", lease=NO_LEASE)) == 1

    async def test_a_bound_on_a_name_holds_for_all_workers(self, here: Bench) -> None:
        for _ in range(5):
            await here.enqueue(jobs_world.write_alone)

        async def some() -> list[queue.Held]:
            async with here.database.transaction(WORKER) as db:
                return await queue.take(db, {"test.write_alone": 2}, limit=10, lease=LEASE)

        taken = [job for held in await asyncio.gather(*(some() for _ in range(5))) for job in held]
        assert 1 <= len(taken) <= 2
        taken += await some()
        assert len(taken) == 2
        async with here.database.transaction(WORKER) as db:
            await queue.try_again(db, taken[0], timedelta(0), "{}")
        assert len(await some()) == 1

    async def test_a_job_that_nobody_here_knows_is_left_alone(self, here: Bench) -> None:
        await here.enqueue(jobs_world.write)
        assert await here.take("test.fail") == []


class TestSchedule:
    async def test_each_time_is_added_once_by_many(self, here: Bench) -> None:
        async def look() -> None:
            async with here.database.transaction(WORKER) as db:
                await schedule.add_due(db)

        async with here.database.transaction(WORKER) as db:
            await schedule.register(db)
        await here.fetch("update pgqueuer_schedules set last_run = now() - interval '3 days'")
        minute = "select date_trunc('minute', clock_timestamp()) as minute"
        before = await here.fetch(minute)
        await asyncio.gather(*(look() for _ in range(6)))
        added = await here.fetch("select entrypoint, count(*) from pgqueuer group by 1")
        turned = await here.fetch(minute) != before  # then those of each minute are due once more
        counted = dict(added)
        assert counted.keys() == {definition.name for definition in jobs.scheduled()}
        del counted["test.every_second"]
        assert set(counted.values()) <= ({1, 2} if turned else {1})

    async def test_a_new_schedule_begins_with_its_next_time(
        self, here: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moment = datetime.now(UTC)

        async def clock(_: AsyncSession) -> datetime:
            return moment

        monkeypatch.setattr(schedule, "clock", clock)  # no minute turns meanwhile
        async with here.database.transaction(WORKER) as db:
            await schedule.register(db)
            wait = await schedule.add_due(db)
        assert wait <= 1
        names = {row["entrypoint"] for row in await here.fetch("select entrypoint from pgqueuer")}
        assert names <= {"test.every_second"}

    @given(st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC)))
    @example(datetime(2032, 12, 6, 3, 0, 1, tzinfo=UTC))
    @example(datetime(2032, 12, 6, 3, 0, 30, tzinfo=UTC))
    @example(datetime(2032, 12, 6, 3, 0, 0, tzinfo=UTC))
    def test_a_time_is_never_due_twice_nor_skipped(self, now: datetime) -> None:
        nightly = jobs.registry[jobs.names_of[tasks.prune_log]]
        definition = replace(nightly, schedule="*/7 3 * * 1")
        found = schedule.times(definition, now)
        assert found["last_run"] <= now < found["next_run"]
        assert schedule.times(definition, found["next_run"])["last_run"] == found["next_run"]
        before = found["next_run"] - timedelta(microseconds=1)
        assert schedule.times(definition, before)["last_run"] == found["last_run"]


async def test_the_schema_is_what_the_library_declares(here: Bench) -> None:
    """A newer PgQueuer with other tables needs a migration of ours: this is where it shows."""
    async with here.database.transaction(WORKER) as db:
        plan = await queue.library(db).plan_upgrade()
    assert [str(statement) for statement in plan.statements] == []


def test_variables_of_the_environment_do_not_rename_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CHANNEL", "TRIGGER", "QUEUE_TABLE", "PGQUEUER_PREFIX", "PGQUEUER_CHANNEL"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("DURABILITY", "volatile")
    names = queue.Names()
    assert (names.channel, names.queue_table) == ("ch_pgqueuer", "pgqueuer")
    assert names.durability.value == "durable"


async def test_a_listener_is_told_of_a_job_at_its_commit(here: Bench) -> None:
    told = asyncio.Event()
    connection = await asyncpg.connect(here.url)
    await connection.add_listener(queue.CHANNEL, lambda *_: told.set())
    async with here.database.transaction(CUSTOMER) as db:
        await jobs.enqueue(db, jobs_world.write)
        assert not told.is_set()
    async with asyncio.timeout(30):
        await told.wait()
    await connection.close()
