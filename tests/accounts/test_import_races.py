"""Imports beside each other and beside people who sign up, and imports that are stopped."""

import asyncio
import io
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bursar.accounts import importing
from bursar.accounts.import_files import Format
from bursar.accounts.import_people import Reader
from bursar.auth.actor import Origin, operator
from bursar.auth.permissions import StaffRole
from bursar.core.database import Database
from tests.accounts.imports import (
    LOCK,
    WAITING,
    figures,
    held,
    imported,
    many,
    of,
    stored,
    waits,
    write,
)
from tests.accounts.people import rows
from tests.conftest import Live
from tests.programs import Run, new_folder, remove


@pytest.fixture
def folder() -> Iterator[Path]:
    made = new_folder()
    yield made
    remove(made)


# At the same time


async def test_two_imports_at_once_double_nobody(live_db: Live, folder: Path) -> None:
    header, *lines = many(6000)
    turned = random.Random(7).sample(lines, len(lines))
    files = [
        write(folder, header, *some, name=f"{n}.csv") for n, some in enumerate((lines, turned))
    ]
    runs = [Run("import", "users", file, "--json", **of(live_db)) for file in files]
    ended = [run.end() for run in runs]
    for run in runs:
        run.discard()
    assert [each.code for each in ended] == [0, 0], ended
    assert sum(figures(each)[0] for each in ended) == 6000
    assert sum(figures(each)[1] for each in ended) == 6000
    assert await stored(live_db) == 6000


@pytest.mark.parametrize(
    ("theirs", "expected", "said"),
    [
        ("('p1@example.com', null)", (1, 1, 0), ""),
        ("('other@example.com', 'P.1X')", (1, 0, 1), "username: another account has it"),
    ],
)
async def test_somebody_signs_up_in_the_same_moment(
    live_db: Live, folder: Path, theirs: str, expected: tuple[int, int, int], said: str
) -> None:
    file = write(folder, *many(2))
    async with held(live_db, f"insert into users (email, username) values {theirs}"):
        run = Run("import", "users", file, "--json", **of(live_db))
        await waits(live_db)
    ended = run.end()
    run.discard()
    assert figures(ended) == expected
    assert said in ended.stderr


async def test_a_batch_that_was_in_the_way_is_tried_again(live_db: Live) -> None:
    await limit_waiting(live_db, "500ms")
    database = Database(live_db.url, live_db.settings)
    content = "\n".join(many(3)).encode()
    [batch] = importing.batches(io.BytesIO(content), Format.CSV, Reader())
    origin = Origin(operator(StaffRole.OWNER))
    async with held(live_db, LOCK):
        taking = asyncio.create_task(importing.take(database, origin, batch, file="x"))
        await waits(live_db)
        first = await rows(live_db, WAITING)
        while await rows(live_db, WAITING) in (first, []):
            assert not taking.done(), taking.exception()
            await asyncio.sleep(0.02)
    assert (await taking).added == 3
    await database.close()


async def test_a_batch_that_is_in_the_way_for_ever_is_given_up(live_db: Live, folder: Path) -> None:
    await limit_waiting(live_db, "20ms")
    async with held(live_db, LOCK):
        ended = imported(live_db, write(folder, *many(3)))
    assert (ended.code, ended.line.partition(";")[0]) == (
        5,
        "Another request changed the same thing at the same time",
    )


async def limit_waiting(live: Live, limit: str) -> None:
    name = live.url.partition("?")[0].rpartition("/")[2]
    await rows(live, f"alter role auth_user in database {name} set lock_timeout = '{limit}'")


# Stopped half-way


@asynccontextmanager
async def half_way(live: Live) -> AsyncIterator[tuple[Run, list[str]]]:
    """An import that has committed two thousand people and waits for the rest of its input."""
    lines = many(5000)
    reading, writing = os.pipe()
    run = Run("import", "users", "-", "--format", "csv", "--json", stdin=reading, **of(live))
    os.close(reading)
    try:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write("\n".join(lines[:2501]).encode())
            while await stored(live) < 2000:
                assert run.running, run.said
                await asyncio.sleep(0.02)
            yield run, lines
    finally:
        run.discard()


async def test_after_a_kill_it_goes_on(live_db: Live, folder: Path) -> None:
    async with half_way(live_db) as (run, lines):
        run.kill()
    assert await stored(live_db) == 2000
    assert figures(imported(live_db, write(folder, *lines), "--json")) == (3000, 2000, 0)
    assert await stored(live_db) == 5000


async def test_an_interrupt_says_how_far_it_came(live_db: Live, folder: Path) -> None:
    async with half_way(live_db) as (run, lines):
        ended = run.stop(signal.SIGINT)
    assert (ended.code, figures(ended)) == (130, (2000, 0, 0))
    assert json.loads(ended.stdout)["stopped"] is True
    assert "stopped; run it again to go on" in ended.stderr
    assert figures(imported(live_db, write(folder, *lines), "--json")) == (3000, 2000, 0)


async def test_an_interrupt_lets_the_batch_in_hand_end(live_db: Live, folder: Path) -> None:
    file = write(folder, *many(1500))
    async with held(live_db, LOCK):
        run = Run("import", "users", file, "--json", **of(live_db))
        await waits(live_db)
        run.process.send_signal(signal.SIGINT)
    ended = run.end()
    run.discard()
    assert (ended.code, figures(ended)) == (130, (1000, 0, 0))


async def test_a_second_interrupt_does_not_wait(live_db: Live, folder: Path) -> None:
    file = write(folder, *many(5))
    async with held(live_db, LOCK):
        run = Run("import", "users", file, "--json", **of(live_db))
        await waits(live_db)
        run.process.send_signal(signal.SIGINT)
        run.until_said("a second Ctrl-C does not wait")
        ended = run.stop(signal.SIGINT)
    run.discard()
    assert ended.code == 130
    assert await stored(live_db) == 0
