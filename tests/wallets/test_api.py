"""Wallets as customers meet them: balances, currencies, and money that staff put in."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

from bursar.wallets import ledger
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import (
    API,
    ME,
    balance_of,
    charge,
    exact,
    fund,
    hold,
    move_in,
    post,
    refused,
    written,
)
from tests.world import ANNA, CARL, DORA, MARK, OLIVIA, SUE

FUNDS = f"{API}/add-funds"
TRANSFERS = f"{API}/wallets/transfers"
BIGINT = 2**63 - 1
READ = (
    "balance/{}",
    "users/{}/accounts",
    "users/{}/holds",
    "users/{}/transactions",
    "users/{}/transactions/export",
    "users/{}/analytics/spending",
)


async def test_a_balance_with_all_its_digits(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "20.000001")
    await charge(live_db, CARL, "0.000002")
    await hold(live_db, CARL, 5)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{API}/balance/{CARL.id}")
        again = await api.get(f"{API}/balance/me")
    assert answer.status_code == 200
    assert '"spent_balance":0.000002' in answer.text
    assert exact(answer) == exact(again)
    assert exact(answer) == {
        "user_id": str(CARL.id),
        "total_balance": Decimal("20.000001"),
        "spent_balance": Decimal("0.000002"),
        "available_balance": Decimal("14.999999"),
        "held_balance": Decimal(5),
        "currency": "USD",
    }


async def test_who_sees_whose(live_db: Live) -> None:
    await move_in(live_db)
    for actor, whose, status in (
        (CARL, CARL.id, 200),
        (CARL, "me", 200),
        (CARL, DORA.id, 404),
        (CARL, uuid4(), 404),
        (CARL, "nonsense", 404),
        (SUE, CARL.id, 200),
        (ANNA, CARL.id, 200),
        (SUE, uuid4(), 404),
        (SUE, "me", 404),
        (MARK, CARL.id, 403),
    ):
        async with live_db.api(actor) as api:
            for path in READ:
                answer = await api.get(f"{API}/{path.format(whose)}")
                assert answer.status_code == status, (actor.name, path, whose, answer.text)


async def test_the_largest_balance_that_there_can_be(live_db: Live) -> None:
    await move_in(live_db)
    whole = Decimal(BIGINT).scaleb(-6)
    await fund(live_db, CARL, whole)
    async with live_db.api(CARL) as api:
        assert exact(await api.get(f"{API}/balance/me"))["total_balance"] == whole
        [wallet] = exact(await api.get(f"{ME}/accounts"))["accounts"]
    assert wallet["balance"] == whole


async def test_wallets_in_every_currency(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, "insert into assets (code, scale) values ('EUR', 2)")
    await fund(live_db, CARL, "7.25", "EUR")
    await fund(live_db, CARL, 120, "POINTS", kind="earn")
    async with live_db.api(CARL) as api:
        answer = exact(await api.get(f"{ME}/accounts"))
        page = exact(await api.get(f"{ME}/accounts", params={"per_page": 2}))
        rest = exact(await api.get(f"{ME}/accounts", params={"cursor": page["next_cursor"]}))
    wallets = answer["accounts"]
    assert [(w["currency"], w["balance"]) for w in wallets] == [
        ("USD", Decimal(0)), ("EUR", Decimal("7.25")), ("POINTS", 120),
    ]  # fmt: skip
    assert answer["total"] == 3
    assert set(wallets[0]) == {
        "id", "currency", "balance", "available", "held", "overdraft_limit", "status", "created_at",
    }  # fmt: skip
    assert page["accounts"] + rest["accounts"] == wallets


async def test_staff_add_funds(live_db: Live) -> None:
    await move_in(live_db)
    body = {"user_id": str(CARL.id), "amount": 12.5}
    async with live_db.api(OLIVIA) as api:
        first = await api.post(FUNDS, json=body, headers={"Idempotency-Key": "one"})
        again = await api.post(FUNDS, json=body, headers={"Idempotency-Key": "one"})
        other = {**body, "amount": 13}
        changed = await api.post(FUNDS, json=other, headers={"Idempotency-Key": "one"})
        await api.post(FUNDS, json={**body, "amount": "0.5"})
    assert first.status_code == 200, first.text
    assert exact(first)["message"]
    assert (exact(first)["balance"], exact(first)["amount"]) == (Decimal("12.5"), Decimal("12.5"))
    assert (again.text, again.headers["idempotent-replayed"]) == (first.text, "true")
    assert refused(changed) == (422, "idempotency.key_reused")
    assert await balance_of(live_db, CARL) == 13
    events = await rows(live_db, "select actor_id, event_type from audit_logs order by id")
    assert [tuple(row) for row in events] == [(OLIVIA.id, "wallets.funded")] * 2


async def test_a_funding_is_one_operation_also_when_the_stored_answer_is_gone(
    live_db: Live,
) -> None:
    await move_in(live_db)
    body = {"user_id": str(CARL.id), "amount": 12.5}
    async with live_db.api(OLIVIA) as api:
        first = await api.post(FUNDS, json=body, headers={"Idempotency-Key": "one"})
        await rows(live_db, "delete from idempotency_keys")
        again = await api.post(FUNDS, json=body, headers={"Idempotency-Key": "one"})
    assert (again.text, again.headers["idempotent-replayed"]) == (first.text, "true")
    assert await balance_of(live_db, CARL) == Decimal("12.5")


async def test_who_may_not_add_funds(live_db: Live) -> None:
    await move_in(live_db)
    for actor in (SUE, ANNA, MARK):
        async with live_db.api(actor) as api:
            answer = await api.post(FUNDS, json={"user_id": str(CARL.id), "amount": 1})
        assert refused(answer) == (403, "auth.not_allowed")
    async with live_db.api(CARL) as api:  # a customer's call begins a payment, where one can be
        answer = await api.post(FUNDS, json={"user_id": str(CARL.id), "amount": 1})
    assert refused(answer) == (422, "payments.provider_missing")
    assert await written(live_db) == [0, 0]


BAD_AMOUNTS = (
    (0, "money.not_positive"),
    (-1, "money.not_positive"),
    ("NaN", "invalid_input"),
    ("Infinity", "invalid_input"),
    (True, "invalid_input"),
    (None, "invalid_input"),
    ("much", "invalid_input"),
    ("0.0000001", "money.too_many_digits"),
    ("1.0000001", "money.too_many_digits"),
    ("9223372036854.775808", "money.too_large"),
    ("1e30", "money.too_large"),
    ("1e-300", "money.too_many_digits"),
    ("1" + "0" * 200, "money.too_large"),
    ("0." + "9" * 70, "money.too_many_digits"),
)


async def test_amounts_that_are_none(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as staff, live_db.api(CARL) as customer:
        for amount, code in BAD_AMOUNTS:
            body = {"user_id": str(CARL.id), "to_user_id": str(DORA.id), "amount": amount}
            for answer in (
                await staff.post(FUNDS, json=body),
                await customer.post(TRANSFERS, json=body),
            ):
                assert refused(answer) == (422, code), (amount, answer.text)
                assert answer.json()["errors"][0]["pointer"] == "/amount"
    assert await written(live_db) == [0, 0]


async def test_funds_that_go_nowhere(live_db: Live) -> None:
    await move_in(live_db)
    cases: tuple[tuple[dict[str, Any], tuple[int, str]], ...] = (
        ({"user_id": str(uuid4())}, (404, "wallet.unknown_account")),
        ({"currency": "ABC"}, (422, "wallet.unknown_asset")),
        ({"currency": "POINTS", "amount": 5}, (422, "wallet.unknown_asset")),
        ({"currency": "dollars"}, (422, "invalid_input")),
    )
    async with live_db.api(OLIVIA) as api:
        for change, expected in cases:
            answer = await api.post(FUNDS, json={"user_id": str(CARL.id), "amount": 1, **change})
            assert refused(answer) == expected, change
    assert await written(live_db) == [0, 0]


async def test_who_has_left_is_paid_nothing_any_more(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, "update users set status = 'deleted' where id = $1", CARL.id)
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(FUNDS, json={"user_id": str(CARL.id), "amount": 1})
    assert refused(answer) == (404, "wallet.unknown_account")
    assert "deleted" in answer.json()["detail"]
    assert await written(live_db) == [0, 0]


async def test_what_is_held_can_be_explained(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    made = await hold(live_db, CARL, 6, category="models", metadata={"description": "a long job"})
    await post(live_db, ledger.capture(str(made.legs[0].hold_id), 2_000_000))
    gone = await hold(live_db, CARL, 1)
    await post(live_db, ledger.void(str(gone.legs[0].hold_id)))
    await fund(live_db, DORA, 1)
    await hold(live_db, DORA, 1)
    async with live_db.api(CARL) as api, live_db.api(SUE) as sue:
        [void, held] = exact(await api.get(f"{ME}/holds"))["holds"]
        assert (held["amount"], held["captured"], held["held"]) == (6, 2, 4)
        assert (held["category"], held["description"]) == ("models", "a long job")
        assert (void["state"], void["held"]) == ("voided", 0)
        balance = exact(await api.get(f"{API}/balance/me"))
        assert balance["held_balance"] == held["held"]
        only = exact(await api.get(f"{ME}/holds", params={"state": "open"}))
        assert [each["id"] for each in only["holds"]] == [held["id"]]
        page = exact(await api.get(f"{ME}/holds", params={"per_page": 1}))
        ask = {"per_page": 1, "cursor": page["next_cursor"]}
        assert exact(await api.get(f"{ME}/holds", params=ask))["holds"] == [held]
        seen = exact(await sue.get(f"{API}/users/{CARL.id}/holds"))["holds"]
        assert seen == [void, held]
        others = await api.get(f"{API}/users/{DORA.id}/holds")
        assert refused(others) == (404, "not_found")
        nobody = await sue.get(f"{API}/users/{uuid4()}/holds")
        assert refused(nobody) == (404, "not_found")


async def test_a_balance_that_would_be_too_large(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, Decimal(BIGINT).scaleb(-6))
    before = await written(live_db)
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(FUNDS, json={"user_id": str(CARL.id), "amount": "0.000001"})
    assert refused(answer) == (422, "wallet.balance_too_large")
    assert await written(live_db) == before


async def test_a_balance_is_exact_behind_a_real_server(live_db: Live) -> None:
    """The short way is not FastAPI's; this is the whole of it, on a socket."""
    import aiohttp

    from bursar.auth.tokens import Tokens

    await move_in(live_db)
    await fund(live_db, CARL, "123456789.000001")
    token = Tokens(live_db.settings.secret_keys).sign(CARL)
    async with live_db.serving() as url, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{url}{API}/balance/me", headers=headers) as answer:
            text = await answer.text()
    assert '"total_balance":123456789.000001' in text


async def test_money_in_an_export_of_personal_data(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10.5")
    await fund(live_db, DORA, 99)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{ME}/export")
    [wallet] = answer.json()["wallets"]
    assert Decimal(wallet["balance"]) == Decimal("10.5")
    [entry] = wallet["transactions"]
    assert (entry["kind"], Decimal(entry["amount"])) == ("funding", Decimal("10.5"))
