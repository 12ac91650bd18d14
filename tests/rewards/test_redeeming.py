"""Points for balance: exact, whole or not at all, and the first answer again for the same key."""

import asyncio
from decimal import Decimal
from typing import Any

import httpx2

from bursar.auth.actor import Actor
from tests.accounts.people import USERS, change, rows, sign_up
from tests.conftest import Live
from tests.rewards.points import give, lines_of, points_of, receive, rule
from tests.wallets.purses import balance_of, charge, freeze, fund, move_in
from tests.world import CARL

REDEMPTIONS = "/api/v1/users/me/rewards/redemptions"


async def redeem(
    live: Live, points: Any, key: str | None = None, who: Actor = CARL
) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    async with live.api(who, **headers) as api:
        return await api.post(REDEMPTIONS, json={"points": points})


async def test_a_customer_earns_and_redeems_by_the_routes(live_db: Live) -> None:
    await rule(live_db, 10)
    async with live_db.api() as api:
        carl = await sign_up(api)
        await fund(live_db, carl.id, 100)
        await charge(live_db, carl.id, "75.5", category="models")
        await give(live_db)
        mine = f"{USERS}/{carl.id}/rewards"
        body = (await api.get(mine, headers=carl.headers)).json()
        assert body == {
            "points_balance": 755,
            "points_available": 755,
            "points_this_year": 755,
            "tier": "bronze",
            "multiplier": 1,
            "next_tier": "silver",
            "points_to_next_tier": 245,
            "redeemable": True,
            "value": 7.55,
            "currency": "USD",
            "expiring": None,
        }
        answer = await api.post(f"{mine}/redemptions", json={"points": 255}, headers=carl.headers)
        assert answer.status_code == 201, answer.text
        assert '"amount":2.550000,' in answer.text
        assert answer.json()["points_balance"] == 500
        assert await balance_of(live_db, carl.id) == Decimal("27.05")
        lines = (await api.get(f"{mine}/history?limit=1", headers=carl.headers)).json()
        [line] = lines["history"]
        assert (line["kind"], line["points"], line["points_balance"]) == ("redeem", -255, 500)
        assert (lines["total"], lines["pages"]) == (2, 2)
        cursor = lines["next_cursor"]
        await charge(live_db, carl.id, 1)
        await give(live_db)
        more = await api.get(f"{mine}/history?limit=1&cursor={cursor}", headers=carl.headers)
        assert [each["points"] for each in more.json()["history"]] == [755]
        assert (more.json()["offset"], more.json()["next_cursor"]) == (1, None)
        assert (
            await api.get(f"{mine}/history?cursor=abc", headers=carl.headers)
        ).status_code == 422
        taken = (await api.get(f"{USERS}/me/export", headers=carl.headers)).json()["rewards"]
        assert taken["points_balance"] == 510
        assert [each["points"] for each in taken["history"]] == [10, -255, 755]
        assert (
            await api.get(f"{USERS}/{CARL.id}/rewards", headers=carl.headers)
        ).status_code == 404


async def test_too_few_points_are_a_402_and_nothing_moves(live_db: Live) -> None:
    await move_in(live_db)
    never = await redeem(live_db, 200)
    assert (never.status_code, never.json()["code"]) == (402, "wallet.insufficient_funds")
    await receive(live_db, CARL, 150)
    refused = await redeem(live_db, 200, "k1")
    body = refused.json()
    assert (refused.status_code, body["code"], body["currency"]) == (
        402, "wallet.insufficient_funds", "POINTS",
    )  # fmt: skip
    assert [Decimal(body[name]) for name in ("available", "needed")] == [150, 200]
    assert (await points_of(live_db, CARL), await balance_of(live_db, CARL)) == (150, Decimal(0))
    await receive(live_db, CARL, 50)
    assert (await redeem(live_db, 200, "k1")).status_code == 201  # nothing was kept of the refusal


async def test_the_same_key_gets_the_first_answer_also_after_the_rate_has_changed(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1000)
    first = await redeem(live_db, 300, "k1")
    again = await redeem(live_db, 300, "k1")
    await change(live_db, "points_per_usd", 7)
    cheaper = await redeem(live_db, 300, "k1")
    await change(live_db, "points_redeemable", False)
    forbidden = await redeem(live_db, 300, "k1")
    for each in (again, cheaper, forbidden):
        assert (each.status_code, each.text) == (201, first.text)
        assert each.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert await lines_of(live_db, CARL) == [("earn", 1000), ("redeem", -300)]
    assert await balance_of(live_db, CARL) == 3
    other = await redeem(live_db, 301, "k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.key_reused")
    assert (await redeem(live_db, 301, "k 2")).json()["code"] == "idempotency.bad_key"


async def test_ten_at_once_with_one_key_redeem_once(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1000)
    answers = await asyncio.gather(*(redeem(live_db, 300, "k1") for _ in range(10)))
    assert {each.status_code for each in answers} == {201}
    assert len({each.text for each in answers}) == 1
    assert (await points_of(live_db, CARL), await balance_of(live_db, CARL)) == (700, Decimal(3))


async def test_what_is_less_than_a_millionth_is_not_paid(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1000)
    await change(live_db, "points_per_usd", 7)
    answer = await redeem(live_db, 100)
    assert '"amount":14.285714,' in answer.text
    assert await balance_of(live_db, CARL) == Decimal("14.285714")


async def test_staff_say_whether_and_how_many_points_are_redeemed(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1000)
    few = await redeem(live_db, 99)
    assert (few.status_code, few.json()["code"]) == (422, "rewards.too_few_points")
    for nonsense in (0, -5, "many", 1.5, True, 10**30, None):
        assert (await redeem(live_db, nonsense)).status_code == 422, nonsense
    await freeze(live_db, CARL, asset="POINTS")
    assert (await redeem(live_db, 200)).json()["code"] == "wallet.account_frozen"
    await change(live_db, "points_redeemable", False)
    closed = await redeem(live_db, 200)
    assert (closed.status_code, closed.json()["code"]) == (409, "rewards.not_redeemable")
    assert await lines_of(live_db, CARL) == [("earn", 1000)]


async def test_a_redemption_is_audited(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1000)
    await redeem(live_db, 300)
    query = "select actor_id, after from audit_logs where event_type = 'rewards.redeemed'"
    [row] = await rows(live_db, query)
    assert row["actor_id"] == CARL.id
    assert "300" in row["after"]
