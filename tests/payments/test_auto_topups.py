"""Automatic top-ups: once below the threshold, never two at once, no further than was said."""

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.payments import automatic
from bursar.payments.providers.registry import providers
from tests.accounts.people import actions, mails, rows
from tests.payments.shop import Shop
from tests.payments.surroundings import listen, save_method, settle
from tests.wallets.purses import balance_of, charge, fund, hold, refused
from tests.world import CARL, DORA, MARK, SUE

ME = "/api/v1/users/me/auto-topup"


async def put(shop: Shop, who: Any = CARL, **given: Any) -> Any:
    body = {"threshold": 5, "amount": 20, "at_most_per_day": 3, **given}
    async with shop.live.api(who) as api:
        return await api.put(ME, json=body)


async def set_up(shop: Shop, token: str = "pm_ok", **given: Any) -> None:
    """Carl has 10 dollars and a card, and is filled by 20 below 5."""
    await listen(shop.live)
    await save_method(shop.live, CARL, token)  # and a dollar with it
    await fund(shop.live, CARL, 9)
    answer = await put(shop, **given)
    assert answer.status_code == 200, answer.text


async def minute(shop: Shop) -> None:
    """What the worker does once a minute, and what comes of it."""
    async with shop.live.database.transaction(WORKER) as db:
        await automatic.look_at_wallets(db, {})
    await settle(shop.live)


async def attempts(shop: Shop) -> list[str]:
    query = "select status from payments where automatic order by created_at, id"
    return [row["status"] for row in await rows(shop.live, query)]


async def state(shop: Shop) -> dict[str, Any]:
    async with shop.live.api(CARL) as api:
        answer = await api.get(ME)
    found: dict[str, Any] = answer.json()
    return found


async def wait_over(shop: Shop) -> None:
    """The pause after a declined payment, and the day, are over."""
    await rows(shop.live, "update auto_topups set retry_at = now() - interval '1 second'")


async def test_a_charge_below_the_threshold_has_the_wallet_filled_once(shop: Shop) -> None:
    await set_up(shop)
    await charge(shop.live, CARL, 5)
    await minute(shop)
    assert await attempts(shop) == []  # 5 is not below 5
    await charge(shop.live, CARL, "0.01")
    for _ in range(3):
        await minute(shop)
    assert await attempts(shop) == ["completed"]
    assert await balance_of(shop.live, CARL) == Decimal("24.99")
    assert len(shop.stripe.books("payment_intent")) == 1


async def test_what_is_held_does_not_count(shop: Shop) -> None:
    await set_up(shop)
    await hold(shop.live, CARL, 6)
    await minute(shop)
    assert await attempts(shop) == ["completed"]


async def test_many_workers_at_once_are_one_payment(shop: Shop) -> None:
    await set_up(shop)
    await charge(shop.live, CARL, 9)
    known = providers(shop.live.settings)

    async def begin() -> int:
        async with shop.live.database.transaction(WORKER) as db:
            return len(await automatic.begin(db, await automatic.due(db, known)))

    assert sorted(await asyncio.gather(*(begin() for _ in range(8)))) == [*[0] * 7, 1]
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_payments_automatic"):
        await rows(
            shop.live,
            "insert into payments (user_id, amount, payment_method, automatic)"
            " values ($1, 1, 'stripe', true)",
            CARL.id,
        )


async def test_no_more_often_in_a_day_than_was_said(shop: Shop) -> None:
    await set_up(shop, at_most_per_day=2)
    for _ in range(3):
        await charge(shop.live, CARL, await balance_of(shop.live, CARL))
        await minute(shop)
    assert await attempts(shop) == ["completed"] * 2


async def test_a_declined_card_is_tried_later_and_then_not_any_more(shop: Shop) -> None:
    await set_up(shop, "pm_declined", at_most_per_day=10)
    await charge(shop.live, CARL, 9)
    for number in (1, 2, 3):
        await minute(shop)
        await minute(shop)  # not again before its time
        assert await attempts(shop) == ["failed"] * number
        assert (await state(shop))["declines"] == number
        await wait_over(shop)
    await minute(shop)
    assert await attempts(shop) == ["failed"] * 3
    assert (await state(shop))["state"] == "paused"
    told = [
        mail
        for mail in await mails(shop.live, "carl@example.com")
        if mail.template == "auto_topup_declined"
    ]
    assert len(told) == 3
    assert ["paused until" in mail.words.text for mail in told if mail.words] == [
        True,
        False,
        False,
    ]
    await put(shop, at_most_per_day=10)
    assert (await state(shop))["state"] == "active"


async def test_a_payment_that_works_ends_the_count(shop: Shop) -> None:
    await set_up(shop)
    await rows(shop.live, "update auto_topups set declines = 2")
    await charge(shop.live, CARL, 9)
    await minute(shop)
    assert (await state(shop))["declines"] == 0


async def test_where_somebody_would_have_to_act_it_is_given_up(shop: Shop) -> None:
    await set_up(shop, "pm_3ds")
    await charge(shop.live, CARL, 9)
    await minute(shop)
    assert await attempts(shop) == ["failed"]
    assert await balance_of(shop.live, CARL) == 1


async def test_a_lost_answer_is_asked_for_again_and_charged_once(shop: Shop) -> None:
    await set_up(shop)
    await charge(shop.live, CARL, 9)
    shop.stripe.fail("POST", "/v1/payment_intents", "after")
    await minute(shop)
    assert await attempts(shop) == ["pending"]
    await minute(shop)  # no second one meanwhile
    await rows(shop.live, "update payments set asked_at = now() - interval '1 hour'")
    async with shop.live.database.transaction(WORKER) as db:
        from bursar.payments.tasks import sweep

        await sweep(db, {})
    await settle(shop.live)
    assert await attempts(shop) == ["completed"]
    assert len(shop.stripe.books("payment_intent")) == 1
    assert await balance_of(shop.live, CARL) == 21


@pytest.mark.parametrize(
    "change",
    [
        "update users set status = 'suspended'",
        "update auto_topups set enabled = false",
        "update accounts set status = 'frozen' where owner_id is not null",
        "update payment_methods set test_mode = not test_mode",
        "update payment_methods set provider = 'paypal'",
        "delete from payment_methods",
    ],
)
async def test_what_keeps_it_from_being_filled(shop: Shop, change: str) -> None:
    await set_up(shop)
    await charge(shop.live, CARL, 9)
    await rows(shop.live, change)
    await minute(shop)
    assert await attempts(shop) == []


async def test_the_owner_sets_reads_and_ends_it(shop: Shop) -> None:
    await set_up(shop)
    async with shop.live.api(CARL) as api:
        read = await api.get(ME)
        found = read.json()
        assert (found["threshold"], found["amount"], found["state"]) == (5, 20, "active")
        stale = {"If-Match": '"99"'}
        body = {"threshold": 1, "amount": 2}
        assert (await api.put(ME, json=body, headers=stale)).status_code == 412
        fresh = {"If-Match": read.headers["etag"]}
        assert (await api.put(ME, json=body, headers=fresh)).status_code == 200
        assert (await api.delete(ME)).status_code == 204
        assert refused(await api.get(ME)) == (404, "payments.no_auto_topup")
        assert refused(await api.delete(ME)) == (404, "payments.no_auto_topup")
    assert "payments.auto_topup_set" in await actions(shop.live, str(CARL.id))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"amount": 0}, "money.not_positive"),
        ({"amount": -1}, "money.not_positive"),
        ({"amount": "1.001"}, "money.too_many_digits"),
        ({"amount": "0.01"}, "payments.top_up_limit"),
        ({"amount": 99_999_999}, "payments.top_up_limit"),
        ({"threshold": -1}, "invalid_input"),
        ({"threshold": "1.001"}, "money.too_many_digits"),
        ({"currency": "XYZ"}, "payments.unknown_currency"),
        ({"at_most_per_day": 11}, "invalid_input"),
        ({"at_most_per_day": 0}, "invalid_input"),
        ({"method_id": str(DORA.id)}, "payments.unknown_method"),
    ],
)
async def test_bad_settings_are_named_and_nothing_is_kept(
    shop: Shop, given: dict[str, Any], said: str
) -> None:
    await save_method(shop.live, CARL, "pm_ok")
    answer = await put(shop, **given)
    assert answer.json()["code"] == said
    assert await rows(shop.live, "select * from auto_topups") == []


async def test_nobody_is_filled_from_somebody_elses_card(shop: Shop) -> None:
    theirs = await save_method(shop.live, DORA, "pm_ok")
    assert refused(await put(shop)) == (409, "payments.no_saved_method")
    answer = await put(shop, method_id=str(theirs))
    assert refused(answer) == (404, "payments.unknown_method")
    row = "insert into auto_topups (user_id, threshold, amount, method_id) values (:u, 1, 2, :m)"
    with pytest.raises(Exception, match="row-level security"):
        async with shop.live.database.transaction(CARL.claim) as db:
            await db.execute(text(row), {"u": CARL.id, "m": theirs})
    async with shop.live.database.transaction(CARL.claim) as db:
        await db.execute(text(row), {"u": CARL.id, "m": None})
    async with shop.live.database.transaction(DORA.claim) as db:
        seen = await db.execute(text("select * from auto_topups"))
        assert seen.all() == []
    async with shop.live.database.transaction(DORA.claim) as db:
        changed = await db.execute(text("update auto_topups set amount = 3 returning 1"))
        assert changed.all() == []
    with pytest.raises(Exception, match="permission denied"):
        async with shop.live.database.transaction(CARL.claim) as db:
            await db.execute(text("update auto_topups set user_id = :u"), {"u": DORA.id})


async def test_staff_read_it(shop: Shop) -> None:
    await set_up(shop)
    path = f"/api/v1/admin/users/{CARL.id}/auto-topup"
    async with shop.live.api(SUE) as api:
        answer = await api.get(path)
    assert answer.json()["atMostPerDay"] == 3
    async with shop.live.api(MARK) as api:
        assert (await api.get(path)).status_code == 403
