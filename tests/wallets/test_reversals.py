"""What goes back: in parts and no further, once for a key, and together what moved together."""

from decimal import Decimal
from uuid import uuid4

import httpx2

from bursar.wallets import ledger
from tests.accounts.people import actions, rows
from tests.conftest import Live
from tests.wallets.purses import balance_of, charge, freeze, fund, move_in, post, wallet_of
from tests.world import CARL, OLIVIA, SUE

ADMIN = "/api/v1/admin"


def of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_a_transfer_goes_back_in_parts_and_no_further(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    spent = (await charge(live_db, CARL, 4, category="api")).legs[0].transfer_id
    url = f"{ADMIN}/transfers/{spent}"
    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:
        first = await api.post(f"{url}/reversal", json={"amount": "1.5", "reason": "half of it"})
        assert first.status_code == 201, first.text
        assert (first.json()["amount"], first.json()["reverses"]) == (1.5, str(spent))
        beyond = await api.post(f"{url}/reversal", json={"amount": 3, "reason": "too much"})
        assert of(beyond) == (422, "wallet.reversal_too_large")
        assert Decimal(str(beyond.json()["left"])) == Decimal("2.5")
        rest = await api.post(f"{url}/reversal", json={"reason": "all the rest"})
        assert rest.json()["amount"] == 2.5
        again = await api.post(f"{url}/reversal", json={"reason": "once more"})
        assert of(again) == (422, "wallet.reversal_too_large")
        back = f"{ADMIN}/transfers/{rest.json()['transferId']}"
        there = await api.post(f"{back}/reversal", json={"reason": "back again"})
        assert of(there) == (422, "wallet.reversal_too_large")
        told = (await sue.get(url)).json()
        assert (told["amount"], told["reversed"], told["category"]) == (4, 4, "api")
        assert (told["debit"]["userId"], told["debit"]["balanceAfter"]) == (str(CARL.id), 6)
        assert (told["credit"]["purpose"], told["credit"]["userId"]) == ("revenue", None)
        assert (await sue.get(back)).json()["metadata"] == {"reason": "all the rest"}
        for nothing in (
            await api.get(f"{ADMIN}/transfers/{uuid4()}"),
            await api.post(f"{ADMIN}/transfers/{uuid4()}/reversal", json={"reason": "what of"}),
        ):
            assert of(nothing) == (404, "wallet.unknown_transfer")
        denied = await sue.post(f"{url}/reversal", json={"reason": "not mine"})
        assert of(denied) == (403, "auth.not_allowed")
        bad = await api.post(f"{url}/reversal", json={"amount": 0, "reason": "nothing"})
        assert of(bad) == (422, "money.not_positive")
    assert await balance_of(live_db, CARL) == 10
    assert (await wallet_of(live_db, CARL))["spent"] == 0
    assert await actions(live_db, first.json()["operationId"]) == ["wallets.reversed"]


async def test_what_moved_together_goes_back_together(live_db: Live) -> None:
    """Of an exchange, or of points that were redeemed, one side alone would be a gift."""
    await move_in(live_db)
    await fund(live_db, CARL, 5_000, "POINTS")
    carl = ledger.user(str(CARL.id))
    redeemed = await post(
        live_db,
        ledger.transfer(carl, "rewards", 1_000, "POINTS", kind="redeem"),
        ledger.transfer("rewards", carl, 10_000_000, kind="redeem"),
    )
    points, dollars = (f"{ADMIN}/transfers/{leg.transfer_id}/reversal" for leg in redeemed.legs)
    async with live_db.api(OLIVIA) as api:
        part = await api.post(points, json={"amount": 1_000, "reason": "points back"})
        assert of(part) == (409, "wallet.part_of_more")
        assert await balance_of(live_db, CARL, "POINTS") == 4_000
        whole = await api.post(dollars, json={"reason": "all of it"})
        assert whole.status_code == 201, whole.text
        told = whole.json()
        assert (told["reverses"], told["amount"]) == (str(redeemed.legs[1].transfer_id), 10)
        assert [each["amount"] for each in told["transfers"]] == [1_000, 10]
        again = await api.post(points, json={"reason": "once more"})
        assert of(again) == (422, "wallet.reversal_too_large")
    assert await balance_of(live_db, CARL, "POINTS") == 5_000
    assert await balance_of(live_db, CARL) == 0


async def test_a_reversal_is_one_operation_also_when_the_stored_answer_is_gone(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    spent = (await charge(live_db, CARL, 4)).legs[0].transfer_id
    url = f"{ADMIN}/transfers/{spent}/reversal"
    body, key = {"amount": 1, "reason": "a part of it"}, {"Idempotency-Key": "back-1"}
    async with live_db.api(OLIVIA) as api:
        first = await api.post(url, json=body, headers=key)
        await rows(live_db, "delete from idempotency_keys")
        again = await api.post(url, json=body, headers=key)
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["idempotent-replayed"] == "true"
        await rows(live_db, "delete from idempotency_keys")
        other = await api.post(url, json={**body, "amount": 2}, headers=key)
        assert of(other) == (422, "idempotency.key_reused")
    assert await balance_of(live_db, CARL) == 7


async def test_a_frozen_wallet_gives_back_nothing_but_takes(live_db: Live) -> None:
    await move_in(live_db)
    paid = (await fund(live_db, CARL, 10)).legs[0].transfer_id
    spent = (await charge(live_db, CARL, 4)).legs[0].transfer_id
    await freeze(live_db, CARL)
    async with live_db.api(OLIVIA) as api:
        out = await api.post(f"{ADMIN}/transfers/{paid}/reversal", json={"reason": "a refund"})
        assert of(out) == (409, "wallet.account_frozen")
        back = await api.post(f"{ADMIN}/transfers/{spent}/reversal", json={"reason": "a credit"})
        assert back.status_code == 201
    assert await balance_of(live_db, CARL) == 10
