"""An event arrives at each endpoint that asked for it, signed; failures are tried again."""

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from standardwebhooks import WebhookVerificationError

import bursar
from bursar.accounts.erasure import UserErased
from bursar.accounts.service import UserSignedUp, UserStatusChanged
from bursar.core.database import NOBODY
from bursar.core.events import publish as publish_in
from bursar.rewards.service import TierReached
from bursar.system.service import SettingsChanged
from bursar.webhooks import delivering, sending
from bursar.webhooks.queries import filters_for
from tests.accounts.people import rows, run_jobs, sign_up
from tests.conftest import Live, as_actor
from tests.listeners import until
from tests.webhooks.receivers import (
    USER_ID,
    attempts,
    delivery,
    endpoint_for,
    make_due,
    publish,
    receiver,
    tell,
    work,
    worker,
)
from tests.world import CARL

SIGNED_UP = UserSignedUp(user_id=USER_ID)


async def test_an_event_arrives_signed_once(live: Live) -> None:
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        async with live.api() as api:
            customer = await sign_up(api)
        await work(live)
        await work(live)
        assert len(there.got) == 1
        said = there.verified(made["secret"])
        headers, _ = there.got[0]
        with pytest.raises(WebhookVerificationError):
            there.verified((await endpoint_for(live, there.url))["secret"])
    assert said["type"] == "users.signed_up"
    assert said["data"] == {"user_id": customer.id}
    assert abs(datetime.fromisoformat(said["timestamp"]) - datetime.now(UTC)).seconds < 60
    found = await delivery(live)
    assert (headers["webhook-id"], found["status"]) == (str(found["id"]), "delivered")
    assert headers["Content-Type"] == "application/json"
    assert "Cookie" not in headers
    [attempt] = await attempts(live)
    assert (attempt["status_code"], attempt["reason"], attempt["answer"]) == (
        200,
        None,
        "thank you",
    )
    assert orjson.loads(found["body"]) == said


async def test_only_what_was_asked_for_and_may_leave_arrives(live: Live) -> None:
    async with receiver() as all_of_it, receiver() as users, receiver() as one:
        await endpoint_for(live, all_of_it.url)
        await endpoint_for(live, users.url, events=["users.*"])
        await endpoint_for(live, one.url, events=["users.erased", "rewards.tier_reached"])
        await publish(
            live,
            SIGNED_UP,
            UserErased(user_id=USER_ID),
            TierReached(user_id=USER_ID, tier="gold"),
            SettingsChanged(keys=["company_name"]),
        )
        await work(live)
    types = [
        sorted(orjson.loads(body)["type"] for _, body in each.got)
        for each in (all_of_it, users, one)
    ]
    assert types == [
        ["rewards.tier_reached", "users.erased", "users.signed_up"],
        ["users.erased", "users.signed_up"],
        ["rewards.tier_reached", "users.erased"],
    ]


def test_a_filter_is_a_name_or_what_it_begins_with() -> None:
    assert filters_for("payments.refund.failed") == [
        "*",
        "payments.*",
        "payments.refund.*",
        "payments.refund.failed",
    ]


@pytest.mark.parametrize("program", ["app", "worker"])
def test_every_public_event_is_known_to_the_api_and_to_the_worker(program: str) -> None:
    """Alone each would list or tell only what it has imported: they stand in service.py."""
    command = f"import bursar.{program}; from bursar.core.events import public; print(*public())"
    known = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    named = re.compile(r'name="([a-z_.]+)"[^)]*public=True')
    declared = {
        name
        for path in Path(bursar.__file__).parent.rglob("*.py")
        if path.name != "events.py"
        for name in named.findall(path.read_text())
    }
    assert len(declared) >= 5
    assert set(known.stdout.split()) == declared


async def test_what_was_before_the_endpoint_or_while_it_was_off_is_not_told(live: Live) -> None:
    await publish(live, SIGNED_UP)
    async with receiver() as there:
        await endpoint_for(live, there.url)
        await endpoint_for(live, there.url, enabled=False)
        await work(live)
        assert there.got == []
        await publish(live, SIGNED_UP)
        await work(live)
        assert len(there.got) == 1


async def test_what_is_rolled_back_is_never_told(live: Live) -> None:
    async with receiver() as there:
        await endpoint_for(live, there.url)
        async with as_actor(live.database, CARL) as db:
            await publish_in(db, SIGNED_UP)
        await work(live)
        assert there.got == []


async def test_nothing_but_what_an_event_declares_leaves_the_house(live: Live) -> None:
    """Whoever has the login role of customers can publish any JSON under any name."""
    async with receiver() as there:
        await endpoint_for(live, there.url)
        async with live.database.transaction(NOBODY) as db:
            await publish_in(db, TierReached(user_id=USER_ID, tier="gold"))
        forged = 'select publish_event(\'users.erased\', \'{"user_id": "x", "password": "p"}\')'
        await rows(live, forged)
        await work(live)
        assert there.got == []


async def test_a_delivery_is_made_once_however_often_an_event_is_told(live: Live) -> None:
    async with receiver() as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        await rows(live, "update event_positions set xid = '3', event_id = 0")
        await work(live)
        assert len(there.got) == 1


async def test_a_failure_is_tried_again_later_and_later_with_the_same_id(live: Live) -> None:
    async with receiver(status=500, text="oh\0no" + "x" * 9000) as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        waits = []
        for _ in delivering.DELAYS_SECONDS:
            found = await delivery(live)
            assert (found["status"], found["reason"]) == ("pending", "status")
            waits.append((found["next_attempt_at"] - datetime.now(UTC)).total_seconds())
            await run_jobs(live)  # nothing is due yet
            await make_due(live)
            await run_jobs(live)
        assert len(there.got) == 10
        assert len(set(there.ids)) == 1
        assert there.verified(made["secret"])["data"] == {"user_id": USER_ID}
    for wait, planned in zip(waits, delivering.DELAYS_SECONDS, strict=True):
        assert 0.9 * planned - 5 < wait < 1.1 * planned
    assert timedelta(days=2.8) < timedelta(seconds=sum(waits)) < timedelta(days=3.5)
    found = await delivery(live)
    assert (found["status"], found["attempts"]) == ("failed", 10)
    log = await attempts(live)
    assert {(each["status_code"], each["reason"]) for each in log} == {(500, "status")}
    assert log[0]["answer"] == "oh\ufffdno" + "x" * 2043
    assert await rows(live, "select from pgqueuer") == []


async def test_a_failure_that_is_over_counts_no_more(live: Live) -> None:
    async with receiver(status=503) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        [before] = await rows(live, "select failing_since from webhook_endpoints")
        assert before["failing_since"]
        there.status = 204
        await make_due(live)
        await work(live)
    assert (await delivery(live))["status"] == "delivered"
    [after] = await rows(live, "select failing_since, version from webhook_endpoints")
    assert (after["failing_since"], after["version"]) == (None, 1)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3600", 3600), ("999999999999", 86_400), ("soon", 5), ("-7", 5), ("1", 5)],
)
async def test_retry_after_is_honoured(live: Live, header: str, seconds: int) -> None:
    async with receiver(status=429, headers={"Retry-After": header}) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    wait = ((await delivery(live))["next_attempt_at"] - datetime.now(UTC)).total_seconds()
    assert seconds * 0.9 - 5 < wait < seconds * 1.1 + 1


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    assert 7100 < sending.retry_after(later) <= 7200
    assert sending.retry_after(format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True)) == 0
    assert sending.retry_after("Tue, 99 Foo 20000000 25:61:61 GMT") == 0


async def test_an_answer_that_never_ends_is_read_no_further_than_needed(live: Live) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while sent < 50_000_000:
                await response.write(b"x" * 65_536)
                sent += 65_536
        except ConnectionError:
            pass
        return response

    async with receiver(answer=endless) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    assert (await delivery(live))["status"] == "delivered"
    assert len((await attempts(live))[0]["answer"]) == 2048
    assert sent < 50_000_000


async def test_a_slow_endpoint_keeps_nobody_waiting(live: Live) -> None:
    """Eight of its requests are open at once and no more, in one place of five."""
    told = asyncio.Event()
    most = open_now = 0

    async def slow(_: web.Request) -> web.StreamResponse:
        nonlocal most, open_now
        open_now += 1
        most = max(most, open_now)
        await told.wait()
        open_now -= 1
        return web.Response()

    async with receiver(answer=slow) as sluggish, receiver() as quick:
        await endpoint_for(live, sluggish.url)
        await endpoint_for(live, quick.url, events=["users.erased"])
        await publish(live, *[SIGNED_UP] * 20, UserErased(user_id=USER_ID))
        async with worker(live):
            await asyncio.wait_for(quick.arrived.wait(), 20)
            assert len(sluggish.got) <= sending.AT_ONCE
            told.set()
            await until(lambda: len(sluggish.got) == 21, "everything has arrived")
        assert most == sending.AT_ONCE


async def test_what_lost_its_turn_is_caught_up_with(live: Live) -> None:
    from bursar.core import jobs
    from bursar.core.database import WORKER
    from bursar.webhooks.tasks import catch_up

    async with receiver() as there:
        await endpoint_for(live, there.url)
        await publish(live, UserStatusChanged(user_id=USER_ID, status="active"))
        await tell(live)
        await rows(live, "delete from pgqueuer")
        await rows(
            live, "update webhook_deliveries set next_attempt_at = now() - interval '1 hour'"
        )
        async with live.database.transaction(WORKER) as db:
            await jobs.enqueue(db, catch_up)
        await work(live)
        assert len(there.got) == 1


async def test_the_status_is_enough_if_the_rest_never_comes(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "TIMEOUT", sending.aiohttp.ClientTimeout(total=3))

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"thank")
        await asyncio.sleep(30)
        return response

    async with receiver(answer=drip) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    assert (await delivery(live))["status"] == "delivered"
    assert (await attempts(live))[0]["answer"] == "thank"


async def test_a_slow_answer_is_a_failure(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "TIMEOUT", sending.aiohttp.ClientTimeout(total=0.2))

    async def late(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with receiver(answer=late) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    assert (await delivery(live))["reason"] == "timed_out"
