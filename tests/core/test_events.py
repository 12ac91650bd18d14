"""The outbox: each subscriber gets each committed event once and in order, whatever happens."""

import asyncio
import random
import signal

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from bursar.core import events, jobs, relay, tasks
from bursar.core.database import WORKER
from tests.jobs_world import Decided, Happened, Quiet
from tests.workers import CUSTOMER, Bench, ended, until


@pytest.fixture
async def known(here: Bench) -> Bench:
    """All subscribers have a position, as after the start of a worker."""
    await relay.register(here.database, list(events.subscribers.values()))
    return here


async def publish_words(here: Bench, *words: str) -> None:
    for word in words:
        async with here.database.transaction(CUSTOMER) as db:
            await events.publish(db, Happened(word=word))


async def deliver(here: Bench, count: int, name: str = "test.scribe") -> None:
    """Until so many were delivered: transactions elsewhere on the server may hold them up."""
    told = 0

    async def enough() -> bool:
        nonlocal told
        told += (await relay.deliver(here.database, events.subscribers[name])).events
        return told >= count

    await until(enough)
    assert told == count


async def settled(here: Bench) -> bool:
    """Whether the watermark has passed everything."""
    behind = "select from events where xid >= pg_snapshot_xmin(pg_current_snapshot())"
    return not await here.fetch(behind)


async def held_back(here: Bench, name: str = "test.scribe") -> bool:
    delivery = await relay.deliver(here.database, events.subscribers[name])
    return delivery == relay.Delivery(0, relay.SOON)


class TestPublishing:
    async def test_an_event_is_there_when_its_change_is(self, known: Bench) -> None:
        async with known.rolled_back() as db:
            await events.publish(db, Happened(word="never"))
        await publish_words(known, "ever")
        await deliver(known, 1)
        assert await known.notes("scribe") == ["ever"]
        (row,) = await known.fetch("select actor::text, payload from events")
        assert (row["actor"], row["payload"]) == (CUSTOMER.subject, '{"word": "ever"}')

    async def test_only_what_is_declared_can_happen(self, here: Bench) -> None:
        async with here.database.transaction(CUSTOMER) as db:
            with pytest.raises(ValidationError):
                await events.publish(db, Happened.model_validate({"word": "x", "more": 1}))
            with pytest.raises(jobs.PayloadTooLarge):
                await events.publish(db, Happened(word="x" * 70_000))
        assert await here.fetch("select from events") == []

    @pytest.mark.parametrize(
        "statement",
        [
            "select payload from events",
            "delete from events",
            "insert into events (name, payload) values ('test.happened', '{}')",
            "insert into events (name, payload, xid) values ('x', '{}', '3')",
            "select nextval('events_id_seq')",
            "select xid from event_positions",
            "select settle_restored_events()",
        ],
    )
    async def test_a_customers_connection_may_only_add(self, shared: Bench, statement: str) -> None:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with shared.database.transaction(CUSTOMER) as db:
                await db.execute(text(statement))

    @pytest.mark.parametrize(
        "arguments",
        [
            "'no-name', '{}'",
            "'test.happened', null",
            "'test.happened', '[]'",
            "'test.happened', json_build_object('word', repeat('x', 65536))",
            "'test.happened', '{\"word\": 1e131071}'",  # a small text that becomes a large one
        ],
    )
    async def test_what_no_event_of_ours_looks_like_is_refused(
        self, shared: Bench, arguments: str
    ) -> None:
        with pytest.raises(DBAPIError) as refused:
            async with shared.database.transaction(CUSTOMER) as db:
                await db.execute(text(f"select publish_event({arguments})"))
        assert refused.value.orig.sqlstate.startswith("22")  # type: ignore[union-attr]

    async def test_an_event_of_one_who_may_not_say_it_is_told_to_nobody(self, known: Bench) -> None:
        for claim, word in ((CUSTOMER, "false"), (WORKER, "true")):
            async with known.database.transaction(claim) as db:
                await events.publish(db, Decided(word=word))
        await deliver(known, 2)
        assert await known.notes("scribe") == ["true"]

    async def test_what_cannot_be_read_stops_nobody(self, known: Bench) -> None:
        for value in (f"{'[' * 1500}{']' * 1500}", "1" * 5000):
            async with known.database.transaction(CUSTOMER) as db:
                payload = {"payload": f'{{"word": {value}}}'}
                publish = "select publish_event('test.happened', cast(:payload as json))"
                await db.execute(text(publish), payload)
        await publish_words(known, "well")
        await deliver(known, 3)
        assert (await known.notes("scribe"))[-1] == "well"


class TestOrder:
    async def test_a_slow_transaction_is_waited_for(self, known: Bench) -> None:
        """Its event has the lower id and comes to light last: a reader of max(id) would lose it."""
        async with known.database.transaction(CUSTOMER) as slow:
            await events.publish(slow, Happened(word="slow"))
            await publish_words(known, "quick 1", "quick 2")
            assert await held_back(known)
        await deliver(known, 3)
        assert await known.notes("scribe") == ["slow", "quick 1", "quick 2"]

    async def test_one_that_inserts_late_is_not_overtaken(self, known: Bench) -> None:
        """It began before the others, but its event has the highest id."""
        async with known.database.transaction(CUSTOMER) as slow:
            await slow.execute(text("select pg_current_xact_id()"))
            await publish_words(known, "quick")
            assert await held_back(known)
            await events.publish(slow, Happened(word="late"))
        await deliver(known, 2)
        assert await known.notes("scribe") == ["late", "quick"]

    async def test_one_that_rolls_back_holds_nobody_up(self, known: Bench) -> None:
        async with known.rolled_back() as slow:
            await events.publish(slow, Happened(word="slow"))
            await publish_words(known, "quick")
            assert await held_back(known)
        await deliver(known, 1)

    async def test_many_writers_and_two_workers_lose_and_double_nothing(self, here: Bench) -> None:
        workers = [here.worker() for _ in range(2)]

        async def positions() -> bool:
            return (
                len(await here.fetch("select from event_positions where subscriber like 'test.%'"))
                == 3
            )

        await until(positions)
        chance = random.Random(7)

        async def write(writer: int) -> None:
            for number in range(12):
                async with here.database.transaction(CUSTOMER) as db:
                    for part in range(chance.randint(1, 3)):
                        word = f"{writer}.{number}.{part}"
                        await events.publish(db, Happened(word=word))
                        await db.execute(text("select pg_sleep(:s)"), {"s": chance.random() / 50})

        await asyncio.gather(*(write(writer) for writer in range(6)))
        published = await here.fetch(
            "select payload ->> 'word' as word from events order by xid, id"
        )
        words = [row["word"] for row in published]
        for who in ("scribe", "grump", "mortal"):

            async def told(who: str = who) -> bool:
                return len(await here.notes(who)) >= len(words)

            await until(told)
            assert await here.notes(who) == words
        assert all(worker.poll() is None for worker in workers)

    async def test_a_new_subscriber_begins_now_and_a_known_one_goes_on(self, here: Bench) -> None:
        await publish_words(here, "before")
        await until(lambda: settled(here))
        scribe = events.subscribers["test.scribe"]
        await relay.register(here.database, [scribe])
        await publish_words(here, "while away")
        await relay.register(here.database, [scribe])
        await deliver(here, 1)
        assert await here.notes("scribe") == ["while away"]


class TestFailing:
    async def test_one_that_failed_for_no_event_is_not_stuck(self, known: Bench) -> None:
        mortal = events.subscribers["test.mortal"]
        await relay.postpone(known.database, mortal, ConnectionResetError())
        await known.fetch("update event_positions set retry_at = now()")
        await relay.deliver(known.database, mortal)
        assert {position.failing_since for position in await positions(known)} == {None}

    async def test_one_that_fails_keeps_its_events_and_disturbs_nobody(self, known: Bench) -> None:
        await publish_words(known, "good", "bad", "more")
        await deliver(known, 3, "test.scribe")
        await deliver(known, 1, "test.grump")  # the good one before the bad one

        async def failed() -> bool:
            await relay.deliver(known.database, events.subscribers["test.grump"])
            return any(position.failures for position in await positions(known))

        await until(failed)
        (stuck,) = [
            position for position in await positions(known) if position.subscriber == "test.grump"
        ]
        assert (stuck.waiting, stuck.failures) == (2, 1)
        assert stuck.last_error == "ValueError: I do not like this word"
        assert await known.notes("grump") == ["good"]
        await known.say("operator", "bear it")

        await deliver(known, 2, "test.grump")
        assert await known.notes("grump") == ["good", "bad", "more"]

    async def test_a_crash_between_effect_and_commit_doubles_nothing(self, here: Bench) -> None:
        worker = here.worker()

        async def ready() -> bool:
            return (
                len(await here.fetch("select from event_positions where subscriber like 'test.%'"))
                == 3
            )

        await until(ready)
        await publish_words(here, "first", "deadly", "last")
        assert await ended(worker) == -signal.SIGKILL
        await here.say("operator", "live")
        here.worker()
        await here.until_noted("mortal", "last")
        assert await here.notes("mortal") == ["first", "deadly", "last"]

    async def test_two_never_tell_one_subscriber_at_the_same_time(self, known: Bench) -> None:
        await publish_words(known, *(str(number) for number in range(120)))
        scribe = events.subscribers["test.scribe"]

        async def tell() -> int:
            told = 0
            while len(await known.notes("scribe")) < 120:
                told += (await relay.deliver(known.database, scribe)).events
            return told

        async with asyncio.timeout(30):
            assert sum(await asyncio.gather(*(tell() for _ in range(4)))) == 120
        assert await known.notes("scribe") == [str(number) for number in range(120)]


async def positions(here: Bench) -> list[relay.Position]:
    async with here.database.transaction(WORKER) as db:
        return await relay.positions(db)


async def test_events_of_a_restored_dump_keep_their_order_and_their_readers(known: Bench) -> None:
    """A dump carries transaction ids of a server that was ahead of this one by far."""
    await publish_words(known, "a", "b", "c")
    await deliver(known, 3, "test.scribe")
    await publish_words(known, "d")
    await deliver(known, 4, "test.mortal")
    await publish_words(known, "e")
    ahead = "(xid::text::bigint + 1000000000000)::text::xid8"
    await known.fetch(f"update events set xid = {ahead}")
    await known.fetch(f"update event_positions set xid = {ahead}")
    assert await held_back(known)  # for a trillion transactions
    await relay.register(known.database, list(events.subscribers.values()))
    await publish_words(known, "f")
    for name, count in (("test.scribe", 3), ("test.mortal", 2), ("test.grump", 6)):
        await deliver(known, count, name)
    for who in ("scribe", "mortal", "grump"):
        assert await known.notes(who) == ["a", "b", "c", "d", "e", "f"]


async def test_only_old_events_that_everybody_has_passed_are_forgotten(known: Bench) -> None:
    await publish_words(known, "a", "b")
    async with known.database.transaction(CUSTOMER) as db:
        await events.publish(db, Quiet())
    await known.fetch("update events set occurred_at = now() - interval '31 days'")
    await publish_words(known, "new")

    async def prune() -> int:
        async with known.database.transaction(WORKER) as db:
            await tasks.prune_events(db, {})
        return len(await known.fetch("select from events"))

    await deliver(known, 3, "test.scribe")
    assert await prune() == 3  # the quiet one is gone; the others are waited for
    for name in ("test.mortal", "test.grump"):
        await known.say("operator", "live")
        await deliver(known, 3, name)
    assert await prune() == 1


async def test_a_subscriber_that_left_the_code_holds_nothing_for_ever(known: Bench) -> None:
    left = (
        "insert into event_positions (subscriber, names, seen_at) "
        "values ('test.gone', '{test.happened}', now() - interval '15 days')"
    )
    await known.fetch(left)
    await known.fetch("update event_positions set seen_at = now() - interval '15 days'")
    async with known.database.transaction(WORKER) as db:
        await tasks.prune_events(db, {})
    assert {position.subscriber for position in await positions(known)} == set(events.subscribers)


def test_every_name_that_is_listened_to_is_declared() -> None:
    events.check()


class Told(events.Event, name="test.told", public=True):
    """Something happened that others may know of."""


def test_only_what_is_declared_so_is_public() -> None:
    assert "test.told" in events.public()
    assert "test.happened" not in events.public()


def test_whoever_listens_to_every_public_event_is_told_of_those_declared_later() -> None:
    async def nothing(*_: object) -> None: ...

    listener = events.Subscriber("test.curious", (events.EVERY_PUBLIC,), nothing, 30)

    class ToldLater(events.Event, name="test.told_later", public=True):
        """Declared after the listener."""

    assert {"test.told", "test.told_later"} <= set(listener.names)
    assert "test.happened" not in listener.names
    del events.registry["test.told_later"]
