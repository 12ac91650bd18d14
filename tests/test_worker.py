"""Real worker processes that are killed, frozen, stopped and cut off: no job is lost or doubled."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from bursar.core import dead_letters, jobs, queue
from bursar.core.database import WORKER, Database
from bursar.core.migrate import migrate
from bursar.worker import CannotSignIn, Pace, Worker
from tests import databases, jobs_world
from tests.clusters import cluster
from tests.workers import BRIEF, QUICK, Bench, bench, ended, stopping, until


@pytest.fixture
async def here() -> AsyncIterator[Bench]:
    async with bench() as opened:
        yield opened


async def test_jobs_run_and_leave_the_queue(here: Bench) -> None:
    words = [str(number) for number in range(60)]
    for word in words[:30]:
        await here.enqueue(jobs_world.write, {"word": word})
    here.worker()
    for word in words[30:]:
        await here.enqueue(jobs_world.write, {"word": word})
    await here.until_noted("write", *words)
    assert sorted(await here.notes("write")) == sorted(words)
    await here.until_queue()


async def test_a_job_starts_as_soon_as_it_is_committed(here: Bench) -> None:
    here.worker(pace={"poll_seconds": 600})  # it never polls within this test: it is told
    await here.enqueue(jobs_world.write, {"word": "warm"})
    await here.until_noted("write", "warm")
    await here.enqueue(jobs_world.write, {"word": "now"})
    await here.until_noted("write", "now")


async def test_a_killed_workers_job_runs_again_after_the_lease(here: Bench) -> None:
    first = here.worker(pace=BRIEF)
    await here.enqueue(jobs_world.wait, {"word": "w"})
    await here.until_noted("begun", "w 1")
    first.kill()
    here.worker(pace=BRIEF)
    await here.until_noted("begun", "w 2")
    await here.say("operator", "go w")
    await here.until_queue()
    assert await here.notes("done") == ["w"]


async def test_a_job_of_one_transaction_has_its_effect_once(here: Bench) -> None:
    """Its worker is killed after the effect, before the commit."""
    job = await here.enqueue(jobs_world.die_once, {"word": "paid"})
    assert await ended(here.worker(pace=BRIEF)) == -signal.SIGKILL
    assert await here.notes("die_once") == []
    await here.until_queue((job, "picked", 1))
    await here.say("operator", "live")
    here.worker(pace=BRIEF)
    await here.until_queue()
    assert await here.notes("die_once") == ["paid"]


async def test_a_job_that_kills_its_worker_each_time_is_given_up(here: Bench) -> None:
    job = await here.enqueue(jobs_world.die)
    for _ in range(2):
        assert await ended(here.worker(pace=BRIEF)) == -signal.SIGKILL
    here.worker(pace=BRIEF)
    await here.until_queue((job, "failed", 3))
    async with here.database.transaction(WORKER) as db:
        shown = await dead_letters.show(db, job)
    assert shown.error == "WorkerDied: the worker died in each of 2 attempts"


async def test_a_frozen_worker_loses_its_job_and_its_say(here: Bench) -> None:
    frozen = here.worker(pace=BRIEF)
    await here.enqueue(jobs_world.wait, {"word": "w"})
    await here.until_noted("begun", "w 1")
    await freeze(here, frozen)
    second = here.worker(pace=BRIEF)
    await here.until_noted("begun", "w 2")
    frozen.send_signal(signal.SIGCONT)
    await here.say("operator", "go w")
    await here.until_queue()
    assert await here.notes("done") == ["w"]
    for process in (frozen, second):
        process.terminate()
        assert await ended(process) == 0


async def freeze(here: Bench, process: "subprocess.Popen[bytes]") -> None:
    """Between two of its transactions: out of one it is thrown only after a time-out."""
    at_work = (
        "select from pg_locks join pg_stat_activity using (pid) "
        "where datname = current_database() and usename = 'worker_user'"
    )

    async def between() -> bool:
        process.send_signal(signal.SIGSTOP)
        if not await here.fetch(at_work):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    await until(between)


async def test_a_long_transaction_outlives_the_lease_with_its_job(here: Bench) -> None:
    for _ in range(2):
        here.worker(pace=BRIEF)
    await here.enqueue(jobs_world.hold, {"word": "long", "seconds": 4})  # lease: 1.5 s
    await here.until_noted("hold", "long")
    await here.until_queue()
    assert await here.notes("hold") == ["long"]


async def test_a_failing_job_becomes_a_dead_letter_that_an_operator_retries(here: Bench) -> None:
    here.worker()
    job = await here.enqueue(jobs_world.fail)
    await here.until_queue((job, "failed", 2))
    assert await here.notes("fail") == []  # rolled back, both times
    async with here.database.transaction(WORKER) as db:
        shown = await dead_letters.show(db, job)
    assert shown.error
    assert "refuses" in shown.error
    assert "hunter2" not in str(shown)
    assert "abcdef" not in str(shown)
    await here.say("operator", "all is well")
    async with here.database.transaction(WORKER) as db:
        await dead_letters.retry(db, job)
    await here.until_queue()
    assert await here.notes("fail") == ["tried"]


async def test_a_job_ends_at_its_time_limit(here: Bench) -> None:
    here.worker()
    job = await here.enqueue(jobs_world.hang)
    await here.until_queue((job, "failed", 1))
    async with here.database.transaction(WORKER) as db:
        shown = await dead_letters.show(db, job)
    assert shown.error == "OutOfTime: it ran for longer than 0.3 s"
    assert await here.notes("hang") == []


async def test_a_job_that_cannot_be_read_harms_no_other(here: Bench) -> None:
    deep = await here.enqueue(jobs_world.write)
    torn = await here.enqueue(jobs_world.write)
    update = "update pgqueuer set payload = $2 where id = $1"
    await here.fetch(update, deep, b'{"word": ' + b"[" * 3000 + b"]" * 3000 + b"}")
    await here.fetch(update, torn, b'{"word": "secret')
    await here.enqueue(jobs_world.write, {"word": "well"})
    here.worker()
    await here.until_noted("write", "well")
    await here.until_queue((deep, "failed", 1), (torn, "failed", 1))
    async with here.database.transaction(WORKER) as db:
        shown = await dead_letters.show(db, torn)
    assert shown.error == "NotAnObject: the payload cannot be read as JSON"


async def test_a_job_of_one_who_may_not_ask_for_it_is_not_done(here: Bench) -> None:
    job = await here.enqueue(jobs_world.promote, {"word": "me"})
    async with here.database.transaction(WORKER) as db:
        await jobs.enqueue(db, jobs_world.promote, {"word": "them"})
    here.worker()
    await here.until_queue((job, "failed", 1))
    assert await here.notes("promote") == ["them"]


async def test_two_workers_add_a_cron_job_once_for_each_time(here: Bench) -> None:
    for _ in range(2):
        here.worker(cron=True)

    async def some() -> bool:
        return len(await here.notes("every_second")) >= 4

    await until(some)
    times = await here.notes("every_second")
    assert len(times) == len(set(times))


async def test_a_stopping_worker_ends_what_it_can_and_hands_back_the_rest(here: Bench) -> None:
    worker = here.worker(shutdown_seconds=10, pace={"poll_seconds": 5})
    short = await here.enqueue(jobs_world.wait, {"word": "short"})
    long = await here.enqueue(jobs_world.wait, {"word": "long"})
    await here.until_noted("begun", "short 1", "long 1")
    await stopping(worker)
    late = await here.enqueue(jobs_world.write, {"word": "late"})
    await here.say("operator", "go short")
    assert await ended(worker) == 0
    assert await here.notes("done") == ["short"]
    assert await here.queue() == [(long, "queued", 0), (late, "queued", 0)]
    assert short < long
    assert await here.fetch("select from workers") == []
    here.worker()
    await here.until_noted("begun", "long 1")  # at once, without waiting for a lease


async def test_a_worker_outlives_its_database(here: Bench) -> None:
    """Every connection dies and none is let in for a while: what a restart looks like from here."""
    worker = here.worker()
    await here.enqueue(jobs_world.wait, {"word": "w"})
    await here.until_noted("begun", "w 1")
    await cut_off(here, seconds=1.0)
    await here.say("operator", "go w")
    await here.until_noted("done", "w")
    job = await here.enqueue(jobs_world.write, {"word": "after"})
    await here.until_noted("write", "after")
    assert worker.poll() is None
    assert job
    worker.terminate()
    assert await ended(worker) == 0


async def cut_off(here: Bench, *, seconds: float) -> None:
    name = here.database.url.database
    kick = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        f"where datname = '{name}' and pid <> pg_backend_pid()"
    )
    await databases.administer(f"alter database {name} allow_connections false", kick)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await databases.administer(kick)
        await asyncio.sleep(0.1)
    await databases.administer(f"alter database {name} allow_connections true")
    await here.database.close()  # this test's own pools are of before


async def test_a_worker_stops_also_when_the_database_does_not_answer(here: Bench) -> None:
    name = here.database.url.database
    for limit in ("lock_timeout", "statement_timeout"):
        await databases.administer(f"alter role worker_user in database {name} set {limit} = 0")
    worker = here.worker(shutdown_seconds=1)
    await here.enqueue(jobs_world.wait, {"word": "w"})
    await here.until_noted("begun", "w 1")
    owner = await asyncpg.connect(databases.raw(here.url))
    try:
        await owner.execute("begin; lock table pgqueuer in access exclusive mode")
        await until(lambda: at_least(here, 3, WAITING))  # taking, beating, and the job itself
        worker.terminate()
        assert await ended(worker) == 0
    finally:
        await owner.close()


# Of this database: in every clone of one template the table has the same number.
WAITING = """
  select from pg_locks join pg_database on pg_database.oid = database
  where not granted and relation = 'pgqueuer'::regclass and datname = current_database()
"""


async def at_least(here: Bench, count: int, sql: str) -> bool:
    return len(await here.fetch(sql)) >= count


async def test_a_worker_with_another_secret_key_says_so_and_ends() -> None:
    with cluster() as server:
        url = await server.make_database("shop")
        await migrate(url, databases.test_settings(), lambda _: None)
        other = databases.test_settings(secret_key="the secret key of another installation")
        database = Database(url, other)
        with pytest.raises(CannotSignIn, match="differs from the one that `bursar migrate` used"):
            async with asyncio.timeout(20):
                await Worker(database, other, Pace(**QUICK)).run(asyncio.Event())
        await database.close()


async def test_a_database_that_is_not_there_yet_is_waited_for() -> None:
    settings, stop = databases.test_settings(), asyncio.Event()
    worker = Worker(Database("postgresql://nobody@127.0.0.1:1/none", settings), settings)
    task = asyncio.create_task(worker.run(stop))
    await asyncio.sleep(0.5)
    assert not task.done()
    stop.set()
    await asyncio.wait_for(task, 30)


async def test_ready_sees_a_worker_until_it_is_silent(here: Bench) -> None:
    async def alive() -> bool:
        async with here.database.transaction(WORKER) as db:
            return await queue.worker_alive(db)

    assert not await alive()
    worker = here.worker()
    await until(alive)
    worker.kill()
    await here.fetch("update workers set seen_at = now() - interval '31 seconds'")
    assert not await alive()


async def test_it_runs_as_a_task_beside_other_work(here: Bench) -> None:
    stop = asyncio.Event()
    worker = Worker(here.database, databases.test_settings(), Pace(**{**QUICK, "poll_seconds": 5}))
    task = asyncio.create_task(worker.run(stop))
    await here.enqueue(jobs_world.write, {"word": "inside"})
    await here.until_noted("write", "inside")
    stop.set()
    await asyncio.wait_for(task, 120)
    assert await here.fetch("select from workers") == []
