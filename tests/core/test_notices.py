"""One connection hears for all who want to, and nothing that one of them does ends it."""

import asyncio

import pytest

from bursar.core.database import DOOR, Database
from bursar.core.notices import Notices, Pace
from tests.between import Swallower
from tests.conftest import Live
from tests.listeners import BRISK, NEVER, TOLD, announce, count, listeners, until


async def test_one_connection_serves_many_channels(live_db: Live) -> None:
    heard: list[tuple[str, str]] = []
    looks = {"a": 0, "b": 0, "c": 0}
    notices = Notices(live_db.database, TOLD)
    for channel in looks:

        async def look(channel: str = channel) -> None:
            looks[channel] += 1

        notices.on(channel, lambda payload, c=channel: heard.append((c, payload)), look=look)  # type: ignore[misc]
    notices.on("a", lambda payload: heard.append(("a again", payload)), look=look)
    async with notices.listening():
        assert looks == {"a": 1, "b": 1, "c": 2}
        assert await count(listeners(live_db)) == 1
        for channel in looks:
            await announce(live_db, channel, f"to {channel}")
        await until(lambda: len(heard) == 4, "all four")
    assert sorted(heard) == [("a", "to a"), ("a again", "to a"), ("b", "to b"), ("c", "to c")]


async def test_a_listener_that_fails_takes_nobody_with_it(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    failures = 0

    def fail(payload: str) -> None:
        raise RuntimeError(f"cannot bear {payload}")

    async def fail_to_look() -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise RuntimeError("cannot look")

    async def look() -> None:
        return

    notices = Notices(live_db.database, Pace(look_seconds=NEVER, rest_seconds=0.01))
    notices.on("words", fail, look=fail_to_look)
    notices.on("words", heard.append, look=look)
    async with notices.listening():  # it begins when the third look has gone well
        assert failures == 3
        await announce(live_db, "words", "one")
        await announce(live_db, "words", "two")
        await until(lambda: heard == ["one", "two"], "both words")
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 4
    assert "cannot bear one" in errors[2]


async def test_a_look_that_hangs_is_ended(live_db: Live) -> None:
    hanging = asyncio.Event()
    notices = Notices(live_db.database, Pace(look_seconds=0.05, first_seconds=0.1))

    async def hang() -> None:
        await hanging.wait()

    looked = []

    async def look() -> None:
        looked.append(1)

    notices.on("words", print, look=hang)
    notices.on("words", print, look=look)
    async with notices.listening():
        await until(lambda: len(looked) > 2, "the look of the other one")


async def test_nobody_listens_where_nobody_wants_to_hear(live_db: Live) -> None:
    async with Notices(live_db.database).listening():
        assert await count(listeners(live_db)) == 0


async def test_who_cannot_announce_trusts_nothing_and_goes_on_listening(live_db: Live) -> None:
    """All connections are in use for a while: that ends trust, and nothing else. To listen anew and
    to forget all that is known would only ask more of the same connections."""
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1

    notices = Notices(live_db.database, Pace(look_seconds=NEVER, beat_seconds=4))
    notices.on("words", lambda _: None, look=look)
    async with notices.listening():
        await until(lambda: notices.hears, "the echo")
        pool = live_db.database._pool(DOOR.role)
        taken = [await pool.take() for _ in range(pool._size)]
        await until(lambda: not notices.hears, "the end of trust")
        for connection in taken:
            pool.put_back(connection)
        await until(lambda: notices.hears, "the echo again")
        assert (looks, notices._failed) == (1, 0)


async def test_who_is_told_nothing_knows_it(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Something in between lets everything through but notices, from the start or from some moment
    on; what could not be heard is looked for instead."""
    looks = 0
    heard: list[str] = []

    async def look() -> None:
        nonlocal looks
        looks += 1

    async with Swallower(live_db.url).listening() as pooler:
        database = Database(pooler.url, live_db.settings)
        notices = Notices(database, BRISK)
        notices.on("words", heard.append, look=look)
        async with notices.listening():
            swallowed = "echoes that do not come"
            await until(lambda: notices._failed > 2 and pooler.swallowed > 2, swallowed)
            assert not notices.hears
            assert looks > notices._failed
            pooler.swallows = False
            await until(lambda: notices.hears, "the echo")
            while not heard:  # it may be listening anew just then
                await announce(live_db, "words", "one")
                await asyncio.sleep(0.1)
            assert set(heard) == {"one"}
            pooler.swallows, before = True, looks
            await until(lambda: not notices.hears, "the end of trust")
            await until(lambda: looks > before, "a look instead")
        await database.close()
    assert "a pooler in between may swallow notices" in caplog.text
    assert {each.levelname for each in caplog.records if "notices" in each.name} == {"WARNING"}
