"""Health: each part says what it is, and what to do where it fails."""

import asyncio

import asyncpg

from bursar.core import queue
from bursar.core.database import WORKER, Database
from bursar.worker import Worker
from tests.conftest import Live
from tests.world import ANNA, MARK

HEALTH = "/api/v1/admin/health"


async def test_all_is_well_with_a_worker_at_work(live_db: Live) -> None:
    stop = asyncio.Event()
    worker = asyncio.create_task(Worker(live_db.database, live_db.settings).run(stop))
    async with asyncio.timeout(30):
        while not await alive(live_db):
            pass
    async with live_db.api(ANNA) as staff, live_db.api() as anybody:
        health = (await staff.get(HEALTH)).json()
        ready = await anybody.get("/ready")
    stop.set()
    await worker
    assert health["status"] == "healthy"
    assert set(health["parts"]) == {"database", "migrations", "worker", "jobs", "events", "audit"}
    assert health["uptimeSeconds"] >= 0
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


async def alive(live: Live) -> bool:
    async with live.database.transaction(WORKER) as db:
        return await queue.worker_alive(db)


async def test_without_a_worker_it_is_not_ready_and_says_what_to_start(live_db: Live) -> None:
    async with live_db.api(ANNA) as api:
        ready = await api.get("/ready")
        health = (await api.get(HEALTH)).json()
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert "bursar worker" in ready.json()["parts"]["worker"]["detail"]
    assert (health["status"], health["parts"]["database"]["status"]) == ("failing", "healthy")


async def test_an_older_database_is_not_ready(live_db: Live) -> None:
    connection = await asyncpg.connect(live_db.url)
    await connection.execute("update applied_sql set sha256 = 'old'")
    await connection.close()
    async with live_db.api() as api:
        ready = (await api.get("/ready")).json()
    assert ready["parts"]["migrations"]["status"] == "failing"
    assert "bursar migrate" in ready["parts"]["migrations"]["detail"]


async def test_a_stopping_process_takes_no_new_traffic(live_db: Live) -> None:
    live_db.app.state.stopping.set()
    async with live_db.api() as api:
        ready = await api.get("/ready")
        alive = await api.get("/health")
    assert (ready.status_code, alive.status_code) == (503, 200)
    assert ready.json()["parts"]["process"]["detail"] == "stopping"


async def test_a_database_that_does_not_answer_is_told_and_no_crash(live_db: Live) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none", live_db.settings)
    live_db.app.state.database, before = nowhere, live_db.database
    async with live_db.api() as api:
        ready = await api.get("/ready")
    live_db.app.state.database = before
    assert ready.status_code == 503
    assert {part["status"] for part in ready.json()["parts"].values()} == {"failing"}


async def test_who_may_look(live_db: Live) -> None:
    async with live_db.api(MARK) as marketer, live_db.api() as nobody:
        assert (await marketer.get(HEALTH)).status_code == 403
        assert (await nobody.get(HEALTH)).status_code == 401


async def test_dead_letters_want_somebody(live_db: Live) -> None:
    owner = await asyncpg.connect(live_db.url)
    await owner.execute(
        """insert into pgqueuer (priority, entrypoint, status, execute_after)
           values (0, 'system.prune_idempotency_keys', 'failed', now())"""
    )
    await owner.close()
    async with live_db.api(ANNA) as api:
        parts = (await api.get(HEALTH)).json()["parts"]
    assert parts["jobs"] == {"status": "failing", "detail": "1 gave up: see `bursar jobs list`."}
