"""What operators see of jobs that gave up and of subscribers that are stuck, and do about them."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from bursar.core import dead_letters, events, failures, queue, relay
from bursar.core.database import WORKER
from bursar.core.dead_letters import State
from tests import databases, jobs_world
from tests.databases import SECRET
from tests.programs import bursar
from tests.workers import CUSTOMER, Bench, until


class TestDeadLetters:
    async def die(self, here: Bench, **how: Any) -> int:
        job_id = await here.enqueue(jobs_world.write, {"word": "w"}, **how)
        (job,) = await here.take("test.write")
        async with here.database.transaction(WORKER) as db:
            await queue.give_up(db, job, failures.report(job.id, ValueError("no luck")))
        return job_id

    async def test_an_operator_sees_why_and_tries_again(self, here: Bench) -> None:
        job_id = await self.die(here, unique_key="k")
        async with here.database.transaction(WORKER) as db:
            (listed,) = await dead_letters.listing(db, [State.DEAD])
            assert (listed.id, listed.state, listed.error) == (
                job_id,
                "dead",
                "ValueError: no luck",
            )
            shown = await dead_letters.show(db, job_id)
            assert (shown.payload, shown.unique_key) == ({"word": "w"}, "k")
            assert [past["what"] for past in shown.history] == ["failed", "picked", "queued"]
            assert await dead_letters.count(db) == 1
            await dead_letters.retry(db, job_id)
            assert await dead_letters.count(db) == 0
        assert await here.queue() == [(job_id, "queued", 0)]

    async def test_only_a_dead_job_is_retried_and_no_running_one_discarded(
        self, here: Bench
    ) -> None:
        job_id = await here.enqueue(jobs_world.write)
        async with here.database.transaction(WORKER) as db:
            with pytest.raises(dead_letters.JobNotDead):
                await dead_letters.retry(db, job_id)
            for verb in (dead_letters.retry, dead_letters.discard, dead_letters.show):
                with pytest.raises(dead_letters.JobNotFound):
                    await verb(db, job_id + 1)
        await here.take("test.write")
        async with here.database.transaction(WORKER) as db:
            with pytest.raises(dead_letters.JobRunning):
                await dead_letters.discard(db, job_id)

    async def test_one_that_was_replaced_is_not_retried_but_can_be_discarded(
        self, here: Bench
    ) -> None:
        job_id = await self.die(here, unique_key="k")
        newer = await here.enqueue(jobs_world.write, unique_key="k")
        async with here.database.transaction(WORKER) as db:
            with pytest.raises(dead_letters.JobReplaced):
                await dead_letters.retry(db, job_id)
            await dead_letters.discard(db, job_id)
        assert await here.queue() == [(newer, "queued", 0)]

    async def test_the_list_goes_on_behind_its_last_id(self, here: Bench) -> None:
        ids = [await here.enqueue(jobs_world.write) for _ in range(5)]
        async with here.database.transaction(WORKER) as db:
            first = await dead_letters.listing(db, [State.WAITING], limit=3)
            rest = await dead_letters.listing(db, [State.WAITING], before=first[-1].id)
        assert [job.id for job in first + rest] == ids[::-1]

    async def test_one_that_cannot_be_read_is_shown_as_it_is(self, here: Bench) -> None:
        job_id = await self.die(here)
        await here.fetch("update pgqueuer set payload = '{\"word\"'")
        async with here.database.transaction(WORKER) as db:
            assert (await dead_letters.show(db, job_id)).payload == '{"word"'


class TestJobs:
    async def test_it_lists_shows_retries_and_discards(self, here: Bench) -> None:
        job_id = await TestDeadLetters().die(here)
        listed = here.bursar("jobs", "list", "--json")
        assert listed.code == 0, listed.stderr
        (found,) = orjson.loads(listed.stdout)["jobs"]
        assert (found["id"], found["state"]) == (job_id, "dead")
        assert "no luck" in here.bursar("jobs", "show", str(job_id)).stdout
        assert here.bursar("jobs", "retry", str(job_id)).code == 0
        assert here.bursar("jobs", "retry", str(job_id)).code == 5
        assert here.bursar("jobs", "discard", str(job_id)).code == 2  # nobody to ask
        assert here.bursar("jobs", "discard", str(job_id), "--yes").code == 0
        gone = here.bursar("jobs", "show", str(job_id))
        assert (gone.code, gone.stdout) == (3, "")

    async def test_a_database_that_was_never_migrated_is_one_line(self) -> None:
        url = await databases.bare()
        try:
            given = {"DATABASE_URL": url, "BURSAR_SECRET_KEY": SECRET}
            for command in (("jobs", "list"), ("events", "list")):
                ended = bursar(*command, "--data", databases.new_folder(), **given)
                assert ended.code == 1
                assert ended.line.endswith("run `bursar migrate`.")
        finally:
            await databases.discard(url)


class TestEvents:
    async def test_a_poison_event_is_seen_and_skipped(self, here: Bench) -> None:
        grump = events.subscribers["test.grump"]
        await relay.register(here.database, [grump])
        for word in ("bad", "good"):
            async with here.database.transaction(CUSTOMER) as db:
                await events.publish(db, jobs_world.Happened(word=word))

        async def failed() -> bool:
            await relay.deliver(here.database, grump)
            return await stuck(here, 0) == ["test.grump"]

        await until(failed)
        assert await stuck(here, 5) == []
        long_ago = "update event_positions set failing_since = now() - interval '6 minutes'"
        await here.fetch(long_ago)
        assert await stuck(here, 5) == ["test.grump"]
        listed = here.bursar("events", "list").stdout
        assert listed.startswith("test.grump\tat event 0\t2 waiting\t")
        assert listed.endswith("\tValueError: I do not like this word\n")
        assert here.bursar("events", "skip", "test.grump").code == 2  # nobody to ask
        skipped = here.bursar("events", "skip", "test.grump", "--yes", "--json")
        assert orjson.loads(skipped.stdout)["skipped"]["id"] == 1
        assert await stuck(here, 0) == []

        async def told() -> bool:
            await relay.deliver(here.database, grump)
            return await here.notes("grump") == ["good"]

        await until(told)
        assert here.bursar("events", "skip", "test.grump", "--yes").code == 5  # it fails no more
        (found,) = orjson.loads(here.bursar("events", "list", "--json").stdout)["subscribers"]
        assert (found["waiting"], found["failures"], found["event_id"]) == (0, 0, 2)

    async def test_an_unknown_subscriber_is_not_found(self, here: Bench) -> None:
        assert here.bursar("events", "skip", "test.nobody", "--yes").code == 3


async def stuck(here: Bench, minutes: float) -> list[str]:
    async with here.database.transaction(WORKER) as db:
        return await relay.stuck(db, timedelta(minutes=minutes))
