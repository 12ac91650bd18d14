"""Webhooks: signed, once, in any order, before their payment, forged, late and early."""

import asyncio
import json
import random
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.payments import inbox
from tests.accounts.people import rows, run_jobs
from tests.payments.shop import SECRETS, WEBHOOK, Shop, signed
from tests.payments.tills import changes, company, state
from tests.wallets.purses import balance_of, refused
from tests.world import CARL, MARK, OLIVIA, SUE

EVENTS = "/api/v1/admin/payment-events"


def event(kind: str = "payment_intent.created", **about: Any) -> dict[str, Any]:
    return {
        "id": about.pop("id", "evt_x"),
        "object": "event",
        "type": kind,
        "created": 1_790_000_000,
        "data": {"object": about},
    }


async def test_each_event_twenty_times_at_once_and_shuffled(shop: Shop) -> None:
    """Two payments, one of them partly refunded and the other disputed and won."""
    one, two = await shop.pay(CARL, 20), await shop.pay(CARL, 30)
    first, second = one["stripe_payment_intent_id"], two["stripe_payment_intent_id"]
    shop.stripe.refund(first, 500)
    shop.stripe.close(shop.stripe.dispute(second), "won")
    events = shop.stripe.events() * 20
    random.Random(7).shuffle(events)
    for batch in (events[place : place + 25] for place in range(0, len(events), 25)):
        answers = await asyncio.gather(*(shop.tell(each) for each in batch))
        assert {answer.status_code for answer in answers} == {200}
        await run_jobs(shop.live)
    for _ in range(5):
        if await unpark(shop):
            await run_jobs(shop.live)
    await shop.work()
    told = await shop.told()
    assert len(told) == len(shop.stripe.events())
    assert {status for _, status in told} <= {"done", "ignored"}
    assert await state(shop.live, one["id"]) == ("partially_refunded", 20, 5)
    assert await state(shop.live, two["id"]) == ("completed", 30, 0)
    assert await balance_of(shop.live, CARL) == 15 + 30
    assert (await company(shop.live))["clearing"] == -45 + (await fees(shop))
    assert await changes(shop.live, two["id"]) == ["pending", *["completed"] * 3]


async def unpark(shop: Shop) -> bool:
    """Half a minute later, and so on."""
    query = "update payment_events set next_try_at = now() where status = 'parked' returning id"
    parked = await rows(shop.live, query)
    async with shop.live.database.transaction(WORKER) as db:
        await inbox.retry_events(db, {})
    return bool(parked)


async def fees(shop: Shop) -> Any:
    [row] = await rows(shop.live, "select sum(fee) as fee from payments")
    return row["fee"]


async def test_an_event_before_its_payment_waits_for_it(shop: Shop) -> None:
    """Stripe's webhook overtakes the answer to our own call, which is lost."""
    shop.stripe.fail("POST", "/v1/payment_intents", "after")
    begun = await shop.begin(CARL, 20)
    [intent] = shop.stripe.books("payment_intent")
    shop.stripe.pay(intent["id"])
    [paid] = shop.stripe.events("payment_intent.succeeded")
    foreign = json.loads(json.dumps(paid))
    foreign["id"], foreign["data"]["object"]["metadata"] = "evt_other", {}
    await shop.tell(foreign)  # without our id in it, nobody knows whose it is
    await run_jobs(shop.live)
    assert await shop.told() == [("payment_intent.succeeded", "parked")]
    await shop.tell(paid)
    await run_jobs(shop.live)
    assert (await shop.read(begun["id"]))["status"] == "completed"
    assert await unpark(shop)
    await run_jobs(shop.live)
    assert {status for _, status in await shop.told()} == {"done"}
    assert await balance_of(shop.live, CARL) == 20


async def refused_and_unwritten(shop: Shop, answer: Any, code: str) -> None:
    assert refused(answer)[1] == code
    assert await rows(shop.live, "select id from payment_events") == []


async def test_one_byte_changed_is_refused(shop: Shop) -> None:
    body = json.dumps(event())
    async with shop.live.api() as api:
        answer = await api.post(WEBHOOK, content=body.replace("x", "y"), headers=signed(body))
    await refused_and_unwritten(shop, answer, "payments.bad_signature")


@pytest.mark.parametrize("header", ["", "t=1", "v1=00", "t=x,v1=00", "t=1,v1=00,v0=11", "\x7f"])
async def test_a_header_that_signs_nothing_is_refused(shop: Shop, header: str) -> None:
    async with shop.live.api() as api:
        answer = await api.post(WEBHOOK, content=b"{}", headers={"Stripe-Signature": header})
    await refused_and_unwritten(shop, answer, "payments.bad_signature")


@pytest.mark.parametrize("secret", ["whsec_another", "", SECRETS[0] + " "])
async def test_another_secret_is_refused(shop: Shop, secret: str) -> None:
    answer = await shop.tell(event(), secret=secret)
    await refused_and_unwritten(shop, answer, "payments.bad_signature")


@pytest.mark.parametrize("secret", SECRETS)
async def test_both_secrets_are_taken_while_one_replaces_the_other(shop: Shop, secret: str) -> None:
    assert (await shop.tell(event(), secret=secret)).status_code == 200


@pytest.mark.parametrize(("age", "taken"), [(301, False), (-330, False), (270, True), (-295, True)])
async def test_older_or_newer_than_300_seconds_is_refused(
    shop: Shop, age: int, taken: bool
) -> None:
    answer = await shop.tell(event(), age_seconds=age)
    if taken:
        assert answer.status_code == 200
    else:
        await refused_and_unwritten(shop, answer, "payments.bad_clock")


@pytest.mark.parametrize(
    "body",
    ["", "no JSON", "[]", "{}", '{"id": "evt_1"}', '{"id": "e", "type": "t", "created": 1e99}'],
)
async def test_what_is_signed_and_no_event_is_refused(shop: Shop, body: str) -> None:
    async with shop.live.api() as api:
        answer = await api.post(WEBHOOK, content=body, headers=signed(body))
    await refused_and_unwritten(shop, answer, "payments.bad_event")


async def test_five_megabytes_are_refused(shop: Shop) -> None:
    body = json.dumps(event(filler="x" * 5_000_000))
    async with shop.live.api() as api:
        answer = await api.post(WEBHOOK, content=body, headers=signed(body))
        assert answer.status_code == 413
        body = json.dumps(event(filler="x" * 300_000))
        answer = await api.post(WEBHOOK, content=body, headers=signed(body))
    await refused_and_unwritten(shop, answer, "payments.webhook_too_large")


async def test_an_unknown_provider_is_not_found(shop: Shop) -> None:
    async with shop.live.api() as api:
        for name in ("paypal", "demo", "manual", "x"):
            assert (await api.post(f"/api/v1/payments/webhooks/{name}")).status_code == 404


async def test_what_changes_nothing_is_kept_as_ignored(shop: Shop) -> None:
    await shop.tell(event("invoice.created", id="evt_1"))
    await run_jobs(shop.live)
    assert await shop.told() == [("invoice.created", "ignored")]


async def test_a_poison_event_fails_where_staff_see_it(shop: Shop) -> None:
    await shop.tell(event("refund.updated", id="evt_1", status="succeeded"))
    await run_jobs(shop.live)
    async with shop.live.api(OLIVIA) as api:
        [seen] = (await api.get(EVENTS, params={"status": "failed"})).json()["events"]
    assert seen["outcome"].startswith("it cannot be read")


async def test_staff_see_all_of_it_but_no_signature_and_replay_it(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20)
    await shop.hear()
    async with shop.live.api(SUE) as api:
        listed = (await api.get(EVENTS, params={"type": "payment_intent.succeeded"})).json()
        [seen] = listed["events"]
        assert (seen["status"], seen["paymentId"]) == ("done", begun["id"])
        whole = (await api.get(f"{EVENTS}/{seen['id']}")).json()
        assert json.loads(whole["payload"])["type"] == "payment_intent.succeeded"
        assert "v1=" not in json.dumps(whole)
        assert (await api.post(f"{EVENTS}/{seen['id']}/replay")).status_code == 403
    async with shop.live.api(OLIVIA) as api:
        assert (await api.post(f"{EVENTS}/{seen['id']}/replay")).status_code == 200
        await run_jobs(shop.live)
        again = (await api.get(f"{EVENTS}/{seen['id']}")).json()
    assert (again["status"], again["attempts"], again["outcome"]) == ("done", 2, "known already")
    assert await balance_of(shop.live, CARL) == 20
    async with shop.live.api(MARK) as api:
        assert (await api.get(EVENTS)).status_code == 403


async def test_what_is_parked_for_too_long_waits_for_staff(shop: Shop) -> None:
    paid = event("payment_intent.succeeded", id="evt_9")
    paid["data"]["object"] |= {
        "object": "payment_intent", "id": "pi_gone", "status": "succeeded", "amount": 2000,
        "amount_received": 2000, "currency": "usd", "metadata": {}, "created": 1_790_000_000,
    }  # fmt: skip
    await shop.tell(paid)
    await run_jobs(shop.live)
    assert await shop.told() == [("payment_intent.succeeded", "parked")]
    await rows(shop.live, "update payment_events set received_at = now() - interval '15 days'")
    await unpark(shop)
    await run_jobs(shop.live)
    assert await shop.told() == [("payment_intent.succeeded", "failed")]


async def test_another_amount_is_for_staff_to_look_at(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20)
    [paid] = shop.stripe.events("payment_intent.succeeded")
    paid["data"]["object"]["amount_received"] = 2001
    await shop.tell(paid)
    await run_jobs(shop.live)
    [row] = await rows(shop.live, "select status, outcome from payment_events")
    assert row["status"] == "failed"
    assert "20.01 USD came" in row["outcome"]
    assert await state(shop.live, begun["id"]) == ("pending", 0, 0)
