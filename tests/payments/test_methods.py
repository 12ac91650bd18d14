"""Saved ways to pay: whose they are, which is the default, and what is deleted is forgotten."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.payments import methods
from tests.accounts.people import actions, mails, rows, run_jobs
from tests.payments.shop import PAYMENTS, Shop
from tests.payments.surroundings import listen, save_method, settle
from tests.wallets.purses import refused
from tests.world import CARL, DORA, MARK, SUE

ME = "/api/v1/users/me/payment-methods"


async def listed(shop: Shop, who: Any = CARL) -> list[dict[str, Any]]:
    async with shop.live.api(who) as api:
        answer = await api.get(ME)
    found: list[dict[str, Any]] = answer.json()["payment_methods"]
    return found


async def test_a_list_shows_the_last_four_and_never_the_token(shop: Shop) -> None:
    await save_method(shop.live, CARL, "pm_1")
    await save_method(shop.live, CARL, "pm_2", brand="mastercard", last_four="5555")
    await save_method(shop.live, DORA, "pm_3")
    found = await listed(shop)
    assert [(each["last_four"], each["is_default"]) for each in found] == [
        ("4242", True),
        ("5555", False),
    ]
    assert "pm_" not in str(found)


async def test_one_is_the_default(shop: Shop) -> None:
    await save_method(shop.live, CARL, "pm_1")
    second = await save_method(shop.live, CARL, "pm_2")
    async with shop.live.api(CARL) as api:
        for _ in range(2):
            assert (await api.put(f"{ME}/{second}/default")).json()["is_default"]
    assert [each["is_default"] for each in await listed(shop)] == [False, True]
    assert await actions(shop.live, str(second)) == ["payments.method_made_default"]


async def test_a_deleted_one_is_forgotten_at_its_provider_too(shop: Shop) -> None:
    first = await save_method(shop.live, CARL, "pm_1")
    second = await save_method(shop.live, CARL, "pm_2")
    shop.stripe.fail("POST", "/v1/payment_methods/pm_1/detach", "before")
    async with shop.live.api(CARL) as api:
        assert (await api.delete(f"{ME}/{first}")).status_code == 204
        assert refused(await api.delete(f"{ME}/{first}")) == (404, "payments.unknown_method")
    assert [(each["id"], each["is_default"]) for each in await listed(shop)] == [
        (str(second), True)
    ]
    await run_jobs(shop.live)
    assert await waiting(shop) == ["pm_1"]  # Stripe did not answer
    async with shop.live.database.transaction(WORKER) as db:
        await methods.look_for_forgotten(db, {})
    await run_jobs(shop.live)
    assert await waiting(shop) == []
    assert shop.stripe.calls()["POST /v1/payment_methods/pm_N/detach"] == 2


async def waiting(shop: Shop) -> list[str]:
    return [row["token"] for row in await rows(shop.live, "select token from forgotten_methods")]


async def test_an_erased_customer_leaves_nothing_to_pay_with(shop: Shop) -> None:
    from bursar.accounts.erasure import UserErased
    from bursar.core import events

    await listen(shop.live)
    await save_method(shop.live, CARL, "pm_1")
    async with shop.live.api(CARL) as api:
        body = {"threshold": 5, "amount": 20}
        assert (await api.put("/api/v1/users/me/auto-topup", json=body)).status_code == 200
    async with shop.live.database.transaction(WORKER) as db:
        await events.publish(db, UserErased(user_id=str(CARL.id)))
    await settle(shop.live)
    assert await rows(shop.live, "select * from payment_methods") == []
    assert await rows(shop.live, "select * from auto_topups") == []
    assert await waiting(shop) == ["pm_1"]


async def test_nobody_touches_what_is_somebody_elses(shop: Shop) -> None:
    theirs = await save_method(shop.live, DORA, "pm_1")
    async with shop.live.api(CARL) as api:
        assert refused(await api.delete(f"{ME}/{theirs}")) == (404, "payments.unknown_method")
        answer = await api.put(f"{ME}/{theirs}/default")
        assert refused(answer) == (404, "payments.unknown_method")
        other = f"/api/v1/users/{DORA.id}/payment-methods"
        assert (await api.get(other)).status_code == 404
    for statement in (
        "delete from payment_methods returning id",
        "update payment_methods set is_default = false returning id",
        "select id from payment_methods",
    ):
        async with shop.live.database.transaction(CARL.claim) as db:
            assert (await db.execute(text(statement))).all() == []
    for statement in (
        "select * from forgotten_methods",
        "update payment_methods set token = 'pm_x'",
        "insert into payment_methods (user_id, provider, token) values (uuid7(), 'stripe', 'x')",
    ):
        with pytest.raises(Exception, match="permission denied"):
            async with shop.live.database.transaction(CARL.claim) as db:
                await db.execute(text(statement))


async def test_staff_see_them(shop: Shop) -> None:
    await save_method(shop.live, CARL, "pm_1")
    path = f"/api/v1/admin/users/{CARL.id}/payment-methods"
    async with shop.live.api(SUE) as api:
        [found] = (await api.get(path)).json()["paymentMethods"]
    assert (found["lastFour"], found["userId"]) == ("4242", str(CARL.id))
    async with shop.live.api(MARK) as api:
        assert (await api.get(path)).status_code == 403


async def tell_of_expiry(shop: Shop) -> list[str]:
    async with shop.live.database.transaction(WORKER) as db:
        await methods.tell_of_expiry(db, {})
    found = await mails(shop.live, "carl@example.com")
    return [mail.words.text for mail in found if mail.template == "method_expires" and mail.words]


async def expiring(shop: Shop, method: UUID, months: int) -> None:
    now = datetime.now(UTC)
    month = now.year * 12 + now.month - 1 + months
    query = "update payment_methods set exp_year = $2, exp_month = $3 where id = $1"
    await rows(shop.live, query, method, month // 12, month % 12 + 1)


async def test_the_end_of_a_card_is_told_once(shop: Shop) -> None:
    method = await save_method(shop.live, CARL, "pm_1")
    for months in (2, -1):
        await expiring(shop, method, months)
        assert await tell_of_expiry(shop) == []
    await expiring(shop, method, 0)
    for _ in range(2):
        [told] = await tell_of_expiry(shop)
        assert "Visa ending in 4242" in told
        assert "automatically" not in told


@pytest.mark.parametrize(
    "value", ["4242 4242 4242 4242", "4242-4242-4242-4242", "4242424242424242"]
)
async def test_a_cards_number_is_never_taken(
    shop: Shop, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    number = re.compile("4242[ -]?4242")  # four digits alone also come up in a time
    for field in ("reference", "description", "method_id"):
        answer = await shop.ask(CARL, 20, **{field: value})
        assert answer.status_code == 422
        assert field == "method_id" or refused(answer) == (422, "payments.card_number")
        assert not number.search(answer.text)
    async with shop.live.api(CARL) as api:
        await api.get(PAYMENTS, params={"reference": value})
    ours = [vars(each) for each in caplog.records if each.name.startswith("bursar")]
    assert len(ours) >= 4
    assert not number.search(str(ours))
