"""What comes at once is written together; what breaks our code fails where staff see it."""

import asyncio
import json
import logging
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.database import WORKER
from bursar.payments import inbox, settling
from bursar.payments import intake as intake_module
from bursar.payments.applied import Applied
from bursar.payments.intake import Intake, IntakeFull
from bursar.payments.providers import BadEvent, Event, Fact
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.shop import KEY, SECRETS, WEBHOOK, Shop, signed
from tests.payments.test_inbox import EVENTS, event, unpark
from tests.payments.tills import state
from tests.wallets.purses import balance_of
from tests.world import CARL, OLIVIA


async def many(intake: Intake, count: int) -> list[bool]:
    made = [Event(f"evt_{n}", "a.b") for n in range(count)]
    takes = (intake.take("stripe", each, b'{"a": "\xc3\xa9"}', {}) for each in made)
    return list(await asyncio.gather(*takes))


async def test_those_that_come_at_once_are_one_statement_and_one_job(live_db: Live) -> None:
    intake = Intake(live_db.database)
    assert await many(intake, 250) == [True] * 250
    assert await many(intake, 250) == [False] * 250
    jobs = await rows(live_db, "select payload from pgqueuer where entrypoint like '%read_events'")
    sizes = sorted(len(json.loads(row["payload"])["events"]) for row in jobs)
    assert sizes == [50, 100, 100]
    stored = await rows(live_db, "select payload, count(*) from payment_events group by payload")
    assert [tuple(row) for row in stored] == [('{"a": "é"}', 250)]
    await intake.close()


async def test_two_processes_with_the_same_events_in_other_orders(live_db: Live) -> None:
    one, two = Intake(live_db.database), Intake(live_db.database)
    made = [Event(f"evt_{n}", "a.b") for n in range(100)]
    taken = await asyncio.gather(
        *(one.take("stripe", each, b"{}", {}) for each in made),
        *(two.take("stripe", each, b"{}", {}) for each in reversed(made)),
    )
    assert sum(taken) == 100
    assert len(await rows(live_db, "select id from payment_events")) == 100


async def test_a_caller_who_goes_spoils_nothing(live_db: Live) -> None:
    intake = Intake(live_db.database)
    takes = [
        asyncio.create_task(intake.take("stripe", Event(f"evt_{n}", "a.b"), b"{}", {}))
        for n in range(20)
    ]
    await asyncio.sleep(0)
    for task in takes[::2]:
        task.cancel()
    done = await asyncio.gather(*takes, return_exceptions=True)
    assert done[1::2] == [True] * 10
    await intake.close()
    assert len(await rows(live_db, "select id from payment_events")) == 20


async def test_a_full_queue_says_so(live_db: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MOST_WAITING", 5)
    intake = Intake(live_db.database)
    takes = [intake.take("stripe", Event(f"evt_{n}", "a.b"), b"{}", {}) for n in range(8)]
    done = await asyncio.gather(*takes, return_exceptions=True)
    assert done[:5] == [True] * 5
    assert [type(each) for each in done[5:]] == [IntakeFull] * 3


@pytest.mark.parametrize("name", ["", "x" * 256, "nul\0", "a\nb", "\ud800"])
async def test_a_name_that_cannot_be_kept_is_refused(live_db: Live, name: str) -> None:
    intake = Intake(live_db.database)
    for made in (Event(name, "a.b"), Event("evt_1", name)):
        with pytest.raises(BadEvent):
            await intake.take("stripe", made, b"{}", {})
    assert await rows(live_db, "select id from payment_events") == []


async def test_a_database_that_refuses_is_told_to_all_who_wait(live_db: Live) -> None:
    await rows(live_db, "alter table payment_events rename to hidden")
    intake = Intake(live_db.database)
    takes = [intake.take("stripe", Event(f"evt_{n}", "a.b"), b"{}", {}) for n in range(3)]
    done = await asyncio.gather(*takes, return_exceptions=True)
    assert all(isinstance(each, Exception) for each in done)
    await rows(live_db, "alter table hidden rename to payment_events")
    assert await many(intake, 3) == [True] * 3


async def test_what_breaks_our_code_is_tried_and_then_left_to_staff(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One poisoned event among good ones: they are dealt with, it fails after its tries."""
    begun = await shop.pay(CARL, 20)
    [paid] = shop.stripe.events("payment_intent.succeeded")
    poison = json.loads(json.dumps(paid)) | {"id": "evt_poison"}
    poison["data"]["object"]["id"] = "pi_poison"
    apply = settling.apply

    async def breaks(db: AsyncSession, fact: Fact) -> Applied:
        if fact.object_id == "pi_poison":
            raise RuntimeError(f"oops with {KEY}")
        return await apply(db, fact)

    monkeypatch.setattr(settling, "apply", breaks)
    await asyncio.gather(shop.tell(poison), shop.tell(paid))
    await run_jobs(shop.live)
    assert await state(shop.live, begun["id"]) == ("completed", 20, 0)
    for _ in range(7):
        await unpark(shop)
        await run_jobs(shop.live)
    async with shop.live.api(OLIVIA) as api:
        [seen] = (await api.get(EVENTS, params={"status": "failed"})).json()["events"]
        assert seen["attempts"] == 8
        assert "RuntimeError: oops" in seen["outcome"]
        assert KEY not in seen["outcome"]
        monkeypatch.setattr(settling, "apply", apply)
        assert (await api.post(f"{EVENTS}/{seen['id']}/replay")).status_code == 200
        await run_jobs(shop.live)
        again = (await api.get(f"{EVENTS}/{seen['id']}")).json()
    assert again["attempts"] == 9
    assert "RuntimeError" not in again["outcome"]  # read now: another intent for what is paid
    assert await balance_of(shop.live, CARL) == 20


async def test_no_secret_or_signature_is_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = f"canary-{uuid4()}"
    body = json.dumps(event(id="evt_1", canary=canary))
    for headers in (
        signed(body),
        signed(body, secret="whsec_wrong"),
        signed(body, age_seconds=999),
    ):
        async with shop.live.api() as api:
            await api.post(WEBHOOK, content=body, headers=headers)
        signature = headers["Stripe-Signature"].partition("v1=")[2]
        assert signature not in caplog.text
    await run_jobs(shop.live)
    await shop.paid(CARL, 20)
    for secret in (canary, KEY, *SECRETS):
        assert secret not in caplog.text
    kept: list[Any] = await rows(shop.live, "select headers::text as headers from payment_events")
    assert "v1=" not in str([dict(row) for row in kept])


async def test_old_events_that_were_dealt_with_are_forgotten(shop: Shop) -> None:
    await shop.tell(event("invoice.created", id="evt_1"))
    await shop.tell(event("invoice.created", id="evt_2"))
    await shop.tell(event("refund.updated", id="evt_3", status="succeeded"))
    await run_jobs(shop.live)
    await rows(
        shop.live,
        "update payment_events set settled_at = now() - interval '10 years'"
        " where event_id <> 'evt_2'",
    )
    async with shop.live.database.transaction(WORKER) as db:
        await inbox.prune_events(db, {})
    left = await rows(shop.live, "select event_id from payment_events order by event_id")
    assert [row["event_id"] for row in left] == ["evt_2", "evt_3"]  # a failed one stays for staff
