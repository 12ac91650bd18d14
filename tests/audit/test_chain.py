"""Fifty writers and a sealer leave one unbroken chain with every row in it exactly once."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from bursar.audit import chain, service, tasks
from bursar.auth.actor import Origin
from bursar.core import jobs
from bursar.core.database import WORKER, Role, plain_dsn, role_url
from tests.audit.trail import Trail
from tests.databases import SECRET, raw
from tests.workers import until, worker_process
from tests.world import CARL, OLIVIA

ROOT = Path(__file__).parents[2]
WRITERS, DEEDS = 50, 6


async def test_fifty_writers_at_once_leave_one_chain(trail: Trail) -> None:
    """Each third deed is rolled back; one writer stays open while all the others commit."""
    written: list[UUID] = []

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(raw(trail.live.url))
        try:
            for deed in range(DEEDS):
                with suppress(ZeroDivisionError):
                    async with connection.transaction():
                        row = await connection.fetchval(RECORD, f"{writer}.{deed}")
                        if deed % 3 == 2:
                            raise ZeroDivisionError
                    written.append(row)
        finally:
            await connection.close()

    slow = await asyncpg.connect(raw(trail.live.url))
    stays_open = slow.transaction()
    await stays_open.start()
    written.append(await slow.fetchval(RECORD, "slow"))
    writers = asyncio.gather(*(write(number) for number in range(WRITERS)))
    sealers = [asyncio.create_task(seal_until(trail, writers)) for _ in range(2)]
    await writers
    await asyncio.gather(*sealers)
    assert await trail.fetch("select from audit_seals") == []  # all of them wait for the slow one
    await stays_open.commit()
    await slow.close()
    await trail.seal_all()
    sealed = await trail.fetch("select seq, log_id from audit_seals order by seq")
    assert [row["seq"] for row in sealed] == list(range(1, len(written) + 1))
    assert {row["log_id"] for row in sealed} == set(written)
    assert sealed[0]["log_id"] == written[0]  # the slow one was the first to write
    report = await trail.verify(None)
    assert (report.findings, report.sealed, report.unsealed) == ([], 201, 0)


RECORD = """
  select record_audit('tests.done', 'thing', $1, null, null, 'system', null, null, null, null, null)
"""


async def seal_until(trail: Trail, done: "asyncio.Future[object]") -> None:
    while not done.done():
        async with trail.live.database.transaction(WORKER) as db:
            await service.seal(db)


async def test_sealing_beside_writers_keeps_the_order(trail: Trail) -> None:
    """Nobody stays open for long: seals are made all the while, and each row finds its place."""

    async def write(writer: int) -> None:
        for deed in range(DEEDS):
            await trail.deed(f"{writer}.{deed}")

    writers = asyncio.gather(*(write(number) for number in range(10)))
    await asyncio.gather(*(seal_until(trail, writers) for _ in range(2)), writers)
    await trail.seal_all()
    report = await trail.verify(None)
    assert (report.findings, report.sealed, report.unsealed) == ([], 10 * DEEDS, 0)


async def test_batches_make_the_same_chain(trail: Trail) -> None:
    await trail.deeds(7)
    while await trail.seal(batch=2, most_batches=1):
        pass
    report = await trail.verify(None)
    assert (report.findings, report.sealed) == ([], 7)


async def test_only_one_sealer_works_at_a_time(trail: Trail) -> None:
    await trail.deed()
    async with trail.live.database.transaction(WORKER) as one:
        await service.seal(one)
        async with trail.live.database.transaction(WORKER) as other:
            assert await service.seal(other) == 0


@pytest.mark.parametrize("role", list(Role))
async def test_no_other_login_role_keeps_it_from_sealing(trail: Trail, role: Role) -> None:
    await trail.deed()
    url = plain_dsn(role_url(make_url(trail.live.url), role, trail.live.settings))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "select pg_advisory_lock(hashtextextended('bursar audit seal', 0))"
        )
        if role is not Role.WORKER:
            for strength in ("update", "no key update", "share", "key share"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(f"select from audit_chains for {strength}")
        async with asyncio.timeout(20):
            assert await trail.seal() == 1
    finally:
        await connection.close()


async def test_a_sealer_that_fails_leaves_nothing_half_done(trail: Trail) -> None:
    await trail.deeds(3)
    with suppress(ZeroDivisionError):
        async with trail.live.database.transaction(WORKER) as db:
            while not await service.seal(db):
                pass
            raise ZeroDivisionError
    assert await trail.fetch("select from audit_seals") == []
    await trail.seal_all()
    assert (await trail.verify(None)).findings == []


KILLED = """
import asyncio, os, signal, sys
from bursar.audit import service
from bursar.core.database import WORKER, Database
from bursar.core.settings import Settings

async def main(url, secret, data):
    database = Database(url, Settings(secret_key=secret, data=data))
    async with database.transaction(WORKER) as db:
        while not await service.seal(db, batch=2, most_batches=1):
            pass
        print("sealed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_sealer_that_is_killed_half_way(trail: Trail) -> None:
    await trail.deeds(5)
    command = [sys.executable, "-c", KILLED, trail.live.url, SECRET, str(trail.folder.parent)]
    killed = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"sealed\n")
    await trail.seal_all()
    report = await trail.verify(None)
    assert (report.findings, report.sealed) == ([], 5)


async def test_rows_of_a_dump_from_an_older_server_are_sealed_too(trail: Trail) -> None:
    """Their transactions are in the future of this server, new ones lie before them."""
    await trail.deeds(3)
    await trail.tamper(
        "update audit_logs set xid = xid + 5000000000",
        "update audit_unsealed set xid = xid + 5000000000",
    )
    await trail.seal_all()
    await trail.deeds(2)
    await trail.seal_all()
    report = await trail.verify(None)
    assert (report.findings, report.sealed) == ([], 5)


async def test_a_digest_can_be_made_again_by_anybody(trail: Trail) -> None:
    """From the columns as the decision record describes them, by nothing but SHA-256 and JSON."""
    await trail.deed('ä "quoted" \\ and \n', before={"n": 1, "gone": "\x7f\x01"}, actor=CARL)
    await trail.seal_all()
    [row] = await trail.fetch("select log.*, digest, hash from audit_logs log, audit_seals")
    [(installation,)] = await trail.fetch("select installation from audit_chains")
    micros = round(row["occurred_at"].timestamp() * 1_000_000)
    columns = [
        "bursar audit 1", str(row["id"]), "tests.done", "customer", str(CARL.id), None, None,
        "thing", "ä \"quoted\" \\ and \n", row["before"], row["after"], "203.0.113.7",
        row["request_id"], str(micros), "app_user", str(CARL.id), str(row["xid"]),
    ]  # fmt: skip
    assert len(columns) == chain.WIDTH
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    beginning = hashlib.sha256(b"bursar audit chain " + installation.bytes).digest()
    assert row["digest"] == digest
    assert row["hash"] == hashlib.sha256(beginning + digest).digest()


@pytest.mark.parametrize("setting", ["DateStyle = 'German, DMY'", "TimeZone = 'Asia/Tokyo'"])
async def test_settings_of_the_database_change_no_digest(trail: Trail, setting: str) -> None:
    await trail.deeds(2)
    await trail.seal_all()
    [(name,)] = await trail.fetch("select current_database()")
    await trail.fetch(f"alter database {name} set {setting}")
    assert (await trail.verify(None)).findings == []


async def test_the_worker_seals_and_ships_by_itself(trail: Trail) -> None:
    """What the cron job does, in a worker of its own; asked for again, as the next minute would."""
    await trail.deeds(3)
    async with asyncio.timeout(120):  # nothing is sealed past the oldest transaction of the server
        while await trail.fetch(UNSETTLED):
            await asyncio.sleep(0.02)

    async def is_shipped() -> bool:
        async with trail.live.database.transaction(WORKER) as db:
            await jobs.enqueue(db, tasks.seal, unique_key="now")
        return [row["seq"] for row in await trail.fetch(SHIPPED)] == [3]

    with worker_process(trail.live.url, audit_checkpoints=trail.place):
        await until(is_shipped)
    report = await trail.verify()
    assert (report.findings, report.notes, report.sealed) == ([], [], 3)
    assert report.confirmed_seq == 3
    assert [json.loads(file.read_text())["seq"] for file in trail.files()] == [3]


SHIPPED = "select seq from audit_shipments"
UNSETTLED = """
  select from audit_unsealed where xid >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
"""


async def test_a_deed_may_be_one_of_many_in_a_transaction(trail: Trail) -> None:
    async with trail.live.database.transaction(OLIVIA.claim, origin=Origin(OLIVIA)) as db:
        ids = [await service.record(db, "tests.done", "thing", n) for n in range(20)]
    await trail.seal_all()
    sealed = await trail.fetch("select log_id from audit_seals order by seq")
    assert {row["log_id"] for row in sealed} == set(ids)
