"""A worker may die at any moment: nothing is lost, and a repeat can be known as one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from bursar.accounts.service import UserSignedUp
from bursar.core import jobs, queue
from bursar.core.database import WORKER
from bursar.core.jobs import Run
from bursar.webhooks import delivering
from tests.accounts.people import rows
from tests.conftest import Live
from tests.jobs_world import make_notes
from tests.webhooks.receivers import (
    ENDPOINTS,
    USER_ID,
    attempts,
    delivery,
    endpoint_for,
    publish,
    receiver,
    tell,
)
from tests.workers import LEASE, until, worker_process
from tests.world import OLIVIA

SIGNED_UP = UserSignedUp(user_id=USER_ID)
# A worker that is held for a moment is not taken for dead, and what it sends is not sent again.
ALLOWED = {"webhooks_allow_private": True, "pace": {"lease_seconds": 20}}
SILENT = "update pgqueuer set heartbeat = now() - interval '1 hour'"


async def until_settled(live: Live) -> None:
    async def settled() -> bool:
        return bool((await delivery(live))["status"] == "delivered")

    await until(settled, lambda: delivery(live))


async def test_killed_after_it_arrived_it_is_sent_again_with_the_same_id(live: Live) -> None:
    forever = asyncio.Event()

    async def silent(_: web.Request) -> web.StreamResponse:
        await forever.wait()
        return web.Response()

    await make_notes(live.url)
    async with receiver(answer=silent) as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        with worker_process(live.url, **ALLOWED) as doomed:
            await asyncio.wait_for(there.arrived.wait(), 120)
            doomed.kill()
            doomed.wait()
        assert (await delivery(live))["status"] == "pending"
        there.answer = None
        await rows(live, SILENT)
        with worker_process(live.url, **ALLOWED):
            await until_settled(live)
        assert len(there.got) == 2
        assert len(set(there.ids)) == 1
        assert there.verified(made["secret"], 0) == there.verified(made["secret"], 1)
        forever.set()
    assert (await delivery(live))["attempts"] == 2
    assert len(await attempts(live)) == 1


@asynccontextmanager
async def taken(live: Live) -> AsyncIterator[Run]:
    """A turn in the hands of a worker that is this test."""
    async with live.database.transaction(WORKER) as db:
        [held] = await queue.take(db, {"webhooks.turn": 0}, limit=1, lease=LEASE)

    @asynccontextmanager
    async def open_transaction() -> AsyncIterator[Any]:
        async with live.database.transaction(WORKER) as db:
            yield db

    yield Run(held, jobs.from_json(held.payload), open_transaction)


async def test_killed_before_it_was_sent_it_is_sent_once(live: Live) -> None:
    await make_notes(live.url)
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        async with taken(live) as run, run.transaction() as db:
            assert len(await delivering.claim(db, UUID(made["id"]), run.key)) == 1
        await rows(live, SILENT)
        with worker_process(live.url, **ALLOWED):
            await until_settled(live)
        assert len(there.got) == 1


async def test_killed_and_switched_off_meanwhile_it_has_failed(live: Live) -> None:
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        async with taken(live) as run:
            async with run.transaction() as db:
                assert len(await delivering.claim(db, UUID(made["id"]), run.key)) == 1
            async with live.api(OLIVIA) as api:
                await api.put(f"{ENDPOINTS}/{made['id']}", json={"enabled": False})
            assert (await delivery(live))["status"] == "pending"  # as far as anybody knows
            await delivering.turn(run)  # by the worker that takes the job over
        assert there.got == []
    found = await delivery(live)
    assert (found["status"], found["reason"]) == ("failed", "switched_off")


async def test_an_outcome_that_cannot_be_written_is_no_outcome(live: Live) -> None:
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        async with taken(live) as run:
            await rows(live, "alter table webhook_attempts rename to elsewhere")
            with pytest.raises(Exception, match="webhook_attempts"):
                await delivering.turn(run)
            await rows(live, "alter table elsewhere rename to webhook_attempts")
            assert (await delivery(live))["status"] == "pending"
            await delivering.turn(run)  # the queue's next attempt
        assert len(there.got) == 2
        assert len(set(there.ids)) == 1
        there.verified(made["secret"])
    assert (await delivery(live))["status"] == "delivered"


async def test_two_turns_never_send_the_same(live: Live) -> None:
    """The second finds the first at work and goes; what is due meanwhile is the first one's."""
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP, SIGNED_UP)
        await tell(live)
        async with taken(live) as first, taken(live) as second:
            async with first.transaction() as db:
                assert len(await delivering.claim(db, UUID(made["id"]), first.key)) == 2
            await delivering.turn(second)
            assert there.got == []
            await delivering.turn(first)
        assert len(there.got) == 2


async def test_an_outcome_of_what_another_turn_has_by_now_does_not_count(live: Live) -> None:
    """A worker that was stopped for longer than its claim is good for."""
    theirs = "update webhook_deliveries set claimed_by = 'job-0'"

    async def taken_over(_: web.Request) -> web.StreamResponse:
        await rows(live, theirs)
        return web.Response()

    async with receiver(answer=taken_over) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        async with taken(live) as run:
            await delivering.turn(run)
        assert len(there.got) == 1
    assert (await delivery(live))["status"] == "pending"
    assert await attempts(live) == []
