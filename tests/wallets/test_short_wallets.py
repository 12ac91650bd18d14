"""Whatever takes more than there is answers a 402 with the balance in it, by whichever route."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from bursar.auth.actor import Actor
from tests.conftest import Live
from tests.payments.tills import captured, intend, tell
from tests.rewards.points import receive
from tests.wallets.purses import API, charge, exact, fund, hold, move_in, refused
from tests.world import ADAM, CARL, DORA, OLIVIA

ADMIN = f"{API}/admin"
CHARGES = f"{ADMIN}/wallets/charges"
SOME = {"userId": str(CARL.id), "amount": 2}


async def ask(live: Live, who: Actor, path: str, body: Any) -> httpx2.Response:
    async with live.api(who) as api:
        return await api.post(path, json=body)


async def sent(live: Live) -> httpx2.Response:
    body = {"to_user_id": str(DORA.id), "amount": 2}
    return await ask(live, CARL, f"{API}/wallets/transfers", body)


async def redeemed(live: Live) -> httpx2.Response:
    return await ask(live, CARL, f"{API}/users/me/rewards/redemptions", {"points": 200})


async def refunded(live: Live) -> httpx2.Response:
    payment_id = await intend(live, CARL, 20)
    await tell(live, captured(payment_id, 20))
    await charge(live, CARL, 20)
    return await ask(live, OLIVIA, f"{API}/payments/{payment_id}/refunds", {"amount": 2})


async def charged(live: Live) -> httpx2.Response:
    return await ask(live, OLIVIA, CHARGES, SOME)


async def held(live: Live) -> httpx2.Response:
    return await ask(live, OLIVIA, f"{ADMIN}/wallets/holds", SOME)


async def reversed_(live: Live) -> httpx2.Response:
    moved = (await fund(live, CARL, 2)).legs[0].transfer_id
    await charge(live, CARL, 2)
    path = f"{ADMIN}/transfers/{moved}/reversal"
    return await ask(live, OLIVIA, path, {"amount": 2, "reason": "by mistake"})


async def adjusted(live: Live) -> httpx2.Response:
    path = f"{ADMIN}/users/{CARL.id}/adjustments"
    return await ask(live, OLIVIA, path, {"amount": -2, "reason": "by mistake"})


async def approved(live: Live) -> httpx2.Response:
    path = f"{ADMIN}/users/{CARL.id}/adjustments"
    large = await ask(live, OLIVIA, path, {"amount": -200, "reason": "by mistake"})
    assert large.status_code == 202, large.text
    return await ask(live, ADAM, f"{ADMIN}/adjustments/{large.json()['id']}/approval", {})


async def granted(live: Live) -> httpx2.Response:
    path = f"{ADMIN}/users/{CARL.id}/rewards/grants"
    return await ask(live, OLIVIA, path, {"points": -200, "reason": "by mistake"})


USD, POINTS = ("USD", 1), ("POINTS", 7)
SHORT: dict[str, tuple[Callable[[Live], Awaitable[httpx2.Response]], tuple[str, int], int]] = {
    f"{API}/wallets/transfers": (sent, USD, 2),
    f"{API}/users/{{user_id}}/rewards/redemptions": (redeemed, POINTS, 200),
    f"{API}/payments/{{payment_id}}/refunds": (refunded, USD, 2),
    CHARGES: (charged, USD, 2),
    f"{ADMIN}/wallets/holds": (held, USD, 2),
    f"{ADMIN}/transfers/{{transfer_id}}/reversal": (reversed_, USD, 2),
    f"{ADMIN}/users/{{user_id}}/adjustments": (adjusted, USD, 2),
    f"{ADMIN}/adjustments/{{adjustment_id}}/approval": (approved, USD, 200),
    f"{ADMIN}/users/{{user_id}}/rewards/grants": (granted, POINTS, 200),
}


def told(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in ("balance", "available", "needed", "currency")}


async def test_every_route_that_answers_a_402_is_tried_here(live_db: Live) -> None:
    routes = iter_route_contexts(live_db.app.routes)
    assert {
        str(each.path_format)
        for each in routes
        if 402 in (getattr(each.original_route, "responses", None) or {})
    } == set(SHORT)


@pytest.mark.parametrize("path", SHORT)
async def test_a_402_says_what_there_is(live_db: Live, path: str) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 1)
    await hold(live_db, CARL, "0.25")
    await receive(live_db, CARL, 7)
    doing, (currency, balance), needed = SHORT[path]
    answer = await doing(live_db)
    assert refused(answer) == (402, "wallet.insufficient_funds")
    held_back = Decimal("0.25") if currency == "USD" else 0
    assert told(exact(answer)) == {
        "balance": balance, "available": balance - held_back, "needed": needed,
        "currency": currency,
    }  # fmt: skip


async def test_each_outcome_of_many_says_it_too(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 1)
    answer = await ask(live_db, OLIVIA, f"{CHARGES}/bulk", {"charges": [{**SOME, "key": "a"}]})
    [refusal] = exact(answer)["outcomes"]
    assert refusal["code"] == "wallet.insufficient_funds"
    assert told(refusal) == {"balance": 1, "available": 1, "needed": 2, "currency": "USD"}


async def test_whoever_never_had_a_point_has_none(live_db: Live) -> None:
    await move_in(live_db)
    answer = await redeemed(live_db)
    assert refused(answer) == (402, "wallet.insufficient_funds")
    assert told(exact(answer)) == {
        "balance": 0, "available": 0, "needed": 200, "currency": "POINTS",
    }  # fmt: skip
