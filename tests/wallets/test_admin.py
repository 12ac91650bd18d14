"""Staff look at wallets and books, freeze, lend; each is refused where it is wrong."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2

from bursar.wallets import ledger
from tests.accounts.people import actions, change, rows
from tests.conftest import Live
from tests.wallets.purses import (
    charge,
    fund,
    hire,
    hold,
    minor,
    move_in,
    post,
    wallet_of,
)
from tests.world import ANNA, CARL, DORA, MARK, OLIVIA, SUE

ADMIN = "/api/v1/admin"
OF_CARL = f"{ADMIN}/users/{CARL.id}"
TRIAL = f"{ADMIN}/ledger/trial-balance"


def of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def add_euro(api: httpx2.AsyncClient) -> None:
    answer = await api.post(f"{ADMIN}/assets", json={"code": "EUR", "scale": 2})
    assert answer.status_code == 201, answer.text


async def test_the_wallets_of_a_customer(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10.50")
    await fund(live_db, CARL, 3, "POINTS")
    await charge(live_db, CARL, "0.000001")
    await hold(live_db, CARL, 2)
    async with live_db.api(SUE) as sue, live_db.api(MARK) as mark:
        answer = await sue.get(f"{OF_CARL}/wallets")
        dollars, points = answer.json()["wallets"]
        assert '"balance":10.499999,"available":8.499999,"held":2.000000,' in answer.text
        assert (dollars["currency"], dollars["status"], dollars["entries"]) == ("USD", "open", 2)
        assert (points["currency"], points["balance"], points["spent"]) == ("POINTS", 3, 0)
        page = (await sue.get(f"{OF_CARL}/wallets", params={"per_page": 1})).json()
        assert (len(page["wallets"]), page["total"]) == (1, 2)
        assert of(await sue.get(f"{ADMIN}/users/{uuid4()}/wallets")) == (404, "not_found")
        assert of(await mark.get(f"{OF_CARL}/wallets")) == (403, "auth.not_allowed")


async def test_freezing_and_closing(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    status = f"{OF_CARL}/wallet/status"

    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:

        async def put(value: str, **more: Any) -> httpx2.Response:
            return await api.put(status, json={"status": value, "reason": "they asked", **more})

        frozen = await put("frozen")
        assert frozen.json()["status"] == "frozen"
        assert (await put("frozen")).status_code == 200
        paid = {"userId": str(CARL.id), "amount": 1}
        refused = await api.post(f"{ADMIN}/wallets/charges", json=paid)
        assert of(refused) == (409, "wallet.account_frozen")
        full = await put("closed")
        assert of(full) == (409, "wallet.not_empty")
        assert Decimal(str(full.json()["balance"])) == 10
        assert (await put("open")).json()["status"] == "open"
        held = (await hold(live_db, CARL, 10)).legs[0].hold_id
        assert of(await put("closed")) == (409, "wallet.not_empty")
        await post(live_db, ledger.capture(str(held)))
        assert (await put("closed")).json()["status"] == "closed"
        gift = {"amount": 1, "reason": "too late for it"}
        answer = await api.post(f"{OF_CARL}/adjustments", json=gift)
        assert of(answer) == (409, "wallet.account_closed")
        assert of(await put("gone")) == (422, "invalid_input")
        assert of(await put("frozen", reason="")) == (422, "invalid_input")
        assert of(await put("frozen", currency="POINTS")) == (404, "wallet.unknown_account")
        denied = await sue.put(status, json={"status": "open", "reason": "as they like"})
        assert of(denied) == (403, "auth.not_allowed")
    wallet = await wallet_of(live_db, CARL)
    assert await actions(live_db, str(wallet["id"])) == [
        "wallets.frozen",
        "wallets.opened",
        "wallets.closed",
    ]
    [row] = await rows(
        live_db, "select after::text from audit_logs where event_type = 'wallets.frozen'"
    )
    assert "they asked" in row["after"]


async def test_closing_while_money_comes_in_leaves_none_in_a_closed_wallet(live_db: Live) -> None:
    await move_in(live_db)
    closing = {"status": "closed", "reason": "they asked"}
    async with live_db.api(OLIVIA) as api:
        gifts = [
            api.post(f"{OF_CARL}/adjustments", json={"amount": 1, "reason": "a gift"})
            for _ in range(3)
        ]
        close = api.put(f"{OF_CARL}/wallet/status", json=closing)
        answers = await asyncio.gather(*gifts, close)
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    wallet = await wallet_of(live_db, CARL)
    assert (wallet["status"] == "closed") == (wallet["posted"] == 0)


async def test_an_overdraft_is_given_but_not_taken_from_under_a_customer(live_db: Live) -> None:
    await move_in(live_db)
    url = f"{OF_CARL}/wallet/overdraft"
    async with live_db.api(OLIVIA) as api:
        given = await api.put(url, json={"limit": "5.000001"})
        assert '"overdraft":5.000001,' in given.text
        paid = {"userId": str(CARL.id), "amount": "4"}
        assert (await api.post(f"{ADMIN}/wallets/charges", json=paid)).status_code == 200
        below = await api.put(url, json={"limit": "3.999999"})
        assert of(below) == (409, "wallet.overdraft_in_use")
        assert Decimal(str(below.json()["used"])) == 4
        assert (await api.put(url, json={"limit": 4})).status_code == 200
        assert (await api.put(url, json={"limit": 4})).status_code == 200
        assert of(await api.post(f"{ADMIN}/wallets/charges", json=paid))[0] == 402
        for limit, code in (
            (-1, "invalid_input"),
            (True, "invalid_input"),
            ("0.0000001", "money.too_many_digits"),
            ("9999999999999", "money.too_large"),
        ):
            assert of(await api.put(url, json={"limit": limit})) == (422, code)
    wallet = await wallet_of(live_db, CARL)
    assert wallet["overdraft"] == 4_000_000
    changed = ["wallets.overdraft_changed"] * 2
    assert await actions(live_db, str(wallet["id"])) == changed


async def test_a_statement_adds_up(live_db: Live) -> None:
    await move_in(live_db)
    for n in range(1, 8):
        await fund(live_db, CARL, n)
        await charge(live_db, CARL, "0.5", category="models")
    async with live_db.api(ANNA) as api:
        whole = (await api.get(f"{OF_CARL}/statement", params={"per_page": 100})).json()
        assert (whole["openingBalance"], whole["closingBalance"]) == (0, 24.5)
        assert (whole["totalIn"], whole["totalOut"], whole["total"]) == (28, 3.5, 14)
        assert [each["entry"] for each in whole["entries"]] == list(range(1, 15))
        second = whole["entries"][1]
        assert (second["amount"], second["balanceAfter"], second["counterpart"]) == (
            -0.5,
            0.5,
            "revenue",
        )
        moments = [row["postedAt"] for row in await precise(live_db)]
        part = await api.get(
            f"{OF_CARL}/statement", params={"from": moments[3], "to": moments[9], "perPage": 4}
        )
        told = part.json()
        # [from, to): the entry at `from` is in it, the one at `to` is not
        assert (told["openingBalance"], told["closingBalance"]) == (2.5, 13)
        assert (told["totalIn"], told["totalOut"], told["total"]) == (12, 1.5, 6)
        assert [each["entry"] for each in told["entries"]] == [4, 5, 6, 7]
        await fund(live_db, CARL, 1)
        rest = await api.get(
            f"{OF_CARL}/statement",
            params={
                "from": moments[3],
                "to": moments[9],
                "perPage": 4,
                "cursor": told["nextCursor"],
            },
        )
        assert [each["entry"] for each in rest.json()["entries"]] == [8, 9]
        assert rest.json()["nextCursor"] is None
        skipped = await api.get(f"{OF_CARL}/statement", params={"limit": 2, "offset": 3})
        assert [each["entry"] for each in skipped.json()["entries"]] == [4, 5]
        for bad in (
            {"from": "2026-01-02", "to": "2026-01-01"},
            {"from": "yesterday"},
            {"by": "mood"},
            {"cursor": "nonsense"},
            {"sort": "amount"},
            {"to": "0001-01-01"},
        ):
            assert of(await api.get(f"{OF_CARL}/statement", params=bad)) == (
                422,
                "invalid_input",
            ), bad
        early = await api.get(f"{OF_CARL}/statement", params={"to": "0001-01-02"})
        assert (early.status_code, early.json()["total"]) == (200, 0)
        none = await api.get(f"{OF_CARL}/statement", params={"currency": "POINTS"})
        assert of(none) == (404, "wallet.unknown_account")


async def precise(live: Live) -> list[Any]:
    """To the microsecond, which the wire does not say."""
    query = """select to_char(posted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      as "postedAt" from transfers order by posted_at"""
    return await rows(live, query)


async def test_a_cursor_keeps_to_the_moments_of_its_first_page(live_db: Live) -> None:
    await move_in(live_db)
    for _ in range(3):
        await fund(live_db, CARL, 1)
    async with live_db.api(ANNA) as api:
        first = (await api.get(f"{OF_CARL}/statement", params={"limit": 2})).json()
        await fund(live_db, CARL, 50)
        ask = {"limit": 2, "cursor": first["nextCursor"]}
        second = (await api.get(f"{OF_CARL}/statement", params=ask)).json()
        other = await api.get(f"{OF_CARL}/statement", params={**ask, "by": "effective"})
    assert [each["entry"] for each in second["entries"]] == [3]
    assert (second["closingBalance"], second["total"]) == (3, 3)
    assert (second["from"], second["to"]) == (first["from"], first["to"])
    assert of(other) == (422, "invalid_input")


async def test_a_statement_by_what_took_effect(live_db: Live) -> None:
    """A charge for yesterday that is written today belongs to yesterday."""
    await move_in(live_db)
    await fund(live_db, CARL, 10, effective_at=datetime.now(UTC) - timedelta(days=10))
    await charge(live_db, CARL, 1, effective_at=datetime.now(UTC) - timedelta(days=5))
    await charge(live_db, CARL, 2)
    await charge(live_db, CARL, 4, effective_at=datetime.now(UTC) + timedelta(days=5))
    begins = (datetime.now(UTC) - timedelta(days=6)).isoformat()
    async with live_db.api(ANNA) as api:

        async def told(**ask: Any) -> Any:
            answer = await api.get(f"{OF_CARL}/statement", params={"from": begins, **ask})
            assert answer.status_code == 200, answer.text
            found = answer.json()
            figures = ("openingBalance", "totalIn", "totalOut", "closingBalance")
            return [found[each] for each in figures], [each["entry"] for each in found["entries"]]

        assert await told(by="posted") == ([0, 10, 7, 3], [1, 2, 3, 4])
        assert await told(by="effective") == ([10, 0, 3, 7], [2, 3])
        today = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        ask = {"by": "effective", "from": today}
        answer = (await api.get(f"{OF_CARL}/statement", params=ask)).json()
        assert (answer["openingBalance"], answer["closingBalance"]) == (9, 7)
        assert [each["balanceAfter"] for each in answer["entries"]] == [None]  # not in this order
        [paid] = await rows(live_db, "select min(effective_at) as day from transfers")
        for edge, opening, count in (("from", 0, 3), ("to", 0, 0)):
            other = {"from": {"to": None}, "to": {"from": "2020-01-01"}}[edge]
            ask = {"by": "effective", edge: paid["day"].isoformat(), **other}
            params = {name: value for name, value in ask.items() if value}
            told = (await api.get(f"{OF_CARL}/statement", params=params)).json()
            assert (told["openingBalance"], told["total"]) == (opening, count), edge


async def test_a_closed_wallet_is_opened_again(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        for status in ("closed", "open"):
            body = {"status": status, "reason": "they came back"}
            answer = await api.put(f"{OF_CARL}/wallet/status", json=body)
            assert answer.json()["status"] == status
    await fund(live_db, CARL, 1)


async def test_an_overdraft_has_a_limit_and_points_have_none(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 1, "POINTS")
    url = f"{OF_CARL}/wallet/overdraft"
    async with live_db.api(OLIVIA) as api:
        large = await api.put(url, json={"limit": "100.000001"})
        assert of(large) == (422, "wallet.overdraft_too_large")
        assert Decimal(str(large.json()["most"])) == 100
        assert (await api.put(url, json={"limit": 100})).status_code == 200
        await change(live_db, "overdraft_at_most", 0.5)
        assert of(await api.put(url, json={"limit": 1})) == (422, "wallet.overdraft_too_large")
        assert (await api.put(url, json={"limit": "0.5"})).status_code == 200
        points = await api.put(url, json={"limit": 1, "currency": "POINTS"})
        assert of(points) == (422, "wallet.overdraft_too_large")
        none = await api.put(url, json={"limit": 0, "currency": "POINTS"})
        assert none.status_code == 200
    assert (await wallet_of(live_db, CARL, "POINTS"))["overdraft"] == 0


async def test_an_overdraft_in_use_above_a_limit_of_today_goes_down_to_what_is_used(
    live_db: Live,
) -> None:
    await move_in(live_db)
    url = f"{OF_CARL}/wallet/overdraft"
    async with live_db.api(OLIVIA) as api:
        assert (await api.put(url, json={"limit": 100})).status_code == 200
        await charge(live_db, CARL, 80)
        await change(live_db, "overdraft_at_most", 50)
        more = await api.put(url, json={"limit": "80.000001"})
        assert of(more) == (422, "wallet.overdraft_too_large")
        assert Decimal(str(more.json()["most"])) == 80
        assert of(await api.put(url, json={"limit": 50})) == (409, "wallet.overdraft_in_use")
        assert (await api.put(url, json={"limit": 80})).status_code == 200
    assert (await wallet_of(live_db, CARL))["overdraft"] == 80_000_000


async def test_a_currency_that_is_none_is_told_from_a_wallet_that_is_not_there(
    live_db: Live,
) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:

        async def codes(currency: str, user: str = OF_CARL) -> set[tuple[int, str]]:
            frozen = {"status": "frozen", "reason": "a court order", "currency": currency}
            limit = {"limit": 1, "currency": currency}
            return {
                of(await api.put(f"{user}/wallet/status", json=frozen)),
                of(await api.put(f"{user}/wallet/overdraft", json=limit)),
                of(await api.get(f"{user}/statement", params={"currency": currency})),
            }

        nobody = f"{ADMIN}/users/{uuid4()}"
        assert await codes("EUR") == await codes("EUR", nobody) == {(422, "wallet.unknown_asset")}
        await add_euro(api)
        assert await codes("EUR") == await codes("EUR", nobody) == {(404, "wallet.unknown_account")}


async def test_the_holds_of_a_customer(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    await fund(live_db, CARL, 10, "POINTS")
    first = (await hold(live_db, CARL, 2, category="models")).legs[0].hold_id
    await hold(live_db, CARL, 3, "POINTS")
    await post(live_db, ledger.void(str(first)))
    await fund(live_db, DORA, 1)
    await hold(live_db, DORA, 1)
    async with live_db.api(SUE) as sue, live_db.api(MARK) as mark:
        url = f"{OF_CARL}/holds"
        told = (await sue.get(url)).json()
        assert [(each["currency"], each["amount"]) for each in told["holds"]] == [
            ("POINTS", 3),
            ("USD", 2),
        ]
        assert {each["userId"] for each in told["holds"]} == {str(CARL.id)}
        [voided] = (await sue.get(url, params={"state": "voided"})).json()["holds"]
        assert (voided["id"], voided["category"]) == (str(first), "models")
        page = (await sue.get(url, params={"per_page": 1})).json()
        rest = await sue.get(url, params={"per_page": 1, "cursor": page["nextCursor"]})
        assert [each["amount"] for each in rest.json()["holds"]] == [2]
        assert of(await sue.get(url, params={"state": "lost"})) == (422, "invalid_input")
        assert of(await sue.get(f"{ADMIN}/users/{uuid4()}/holds")) == (404, "not_found")
        assert of(await mark.get(url)) == (403, "auth.not_allowed")


async def test_the_books_are_even_in_every_currency(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    await fund(live_db, DORA, "0.000001")
    await charge(live_db, CARL, 3)
    await rows(live_db, "update accounts set overdraft = 5000000 where owner_id = $1", DORA.id)
    await charge(live_db, DORA, 2)
    async with live_db.api(OLIVIA) as api, live_db.api(ANNA) as anna, live_db.api(SUE) as sue:
        await add_euro(api)
        await fund(live_db, CARL, "1.25", "EUR")
        answer = await anna.get(TRIAL)
        assert of(await sue.get(TRIAL)) == (403, "auth.not_allowed")
    books = answer.json()
    assert books["balanced"] is True
    euro, points, dollars = books["assets"]
    assert [each["currency"] for each in books["assets"]] == ["EUR", "POINTS", "USD"]
    lines = {line["purpose"]: (line["debit"], line["credit"]) for line in dollars["lines"]}
    assert lines["wallet"] == (1.999999, 7)  # what one owes is not set off against another's
    assert lines["revenue"] == (0, 5)
    assert lines["clearing"] == (10.000001, 0)
    assert (dollars["debit"], dollars["credit"], dollars["difference"]) == (12, 12, 0)
    assert (euro["debit"], euro["credit"]) == (1.25, 1.25)
    assert (points["debit"], points["credit"]) == (0, 0)
    assert '"debit":12.000000,"credit":12.000000,"difference":0.000000}' in answer.text


async def test_assets_are_added_once(live_db: Live) -> None:
    await hire(live_db)
    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:
        await add_euro(api)
        again = await api.post(f"{ADMIN}/assets", json={"code": "EUR", "scale": 3})
        assert of(again) == (409, "wallet.asset_exists")
        listed = (await sue.get(f"{ADMIN}/assets")).json()
        assert [(each["code"], each["scale"]) for each in listed["assets"]] == [
            ("EUR", 2),
            ("POINTS", 0),
            ("USD", 6),
        ]
        for bad in (
            {"code": "eur", "scale": 2},
            {"code": "EUR2", "scale": 13},
            {"code": "EUR2", "scale": -1},
            {"code": "EUR2", "scale": 2, "kind": "shells"},
        ):
            assert of(await api.post(f"{ADMIN}/assets", json=bad)) == (422, "invalid_input")
        denied = await sue.post(f"{ADMIN}/assets", json={"code": "GBP", "scale": 2})
        assert of(denied) == (403, "auth.not_allowed")
    assert await actions(live_db, "EUR") == ["wallets.asset_added"]
    assert minor("1.25", "EUR") == 125
