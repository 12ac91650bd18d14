"""Services charge and hold over HTTP: each once for its key, alone or many in one request."""

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2

from bursar.core.wire import exact_json
from tests.accounts.people import actions, rows
from tests.conftest import Live
from tests.keys.keyholders import service_key
from tests.wallets.purses import balance_of, freeze, fund, move_in, wallet_of
from tests.world import CARL, DORA, OLIVIA, SUE

CHARGES = "/api/v1/admin/wallets/charges"
BULK = f"{CHARGES}/bulk"
HOLDS = "/api/v1/admin/wallets/holds"


def of(answer: httpx2.Response) -> tuple[int, str]:
    """How it was refused; an empty code where it was not."""
    return answer.status_code, answer.json().get("code", "")


def body(amount: Any = 1, **more: Any) -> dict[str, Any]:
    return {"userId": str(CARL.id), "amount": amount, **more}


async def entries(live: Live) -> int:
    [row] = await rows(live, "select count(*) from transfers where kind = 'charge'")
    return int(row["count"])


async def test_a_charge_takes_the_exact_amount_and_says_what_is_left(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(
            CHARGES,
            content=b'{"user_id": "%s", "amount": 0.000001, "category": "models",'
            b' "description": "one token", "metadata": {"model": "m-1", "share": 0.10}}'
            % str(CARL.id).encode(),
            headers={"Content-Type": "application/json"},
        )
    assert answer.status_code == 200, answer.text
    assert '"amount":0.000001,' in answer.text
    assert '"available":9.999999,' in answer.text
    told = exact_json(answer.content)
    [row] = await rows(live_db, "select * from transfers where kind = 'charge'")
    assert told["transferId"] == str(row["id"])
    assert told["operationId"] == str(row["operation_id"])
    assert told["userId"] == str(CARL.id)
    assert told["postedAt"].endswith("Z")
    assert (row["amount"], row["category"]) == (1, "models")
    kept = exact_json(row["metadata"].encode())
    assert kept == {"model": "m-1", "share": Decimal("0.10"), "description": "one token"}
    assert await actions(live_db, told["operationId"]) == ["wallets.charged"]


async def test_the_same_key_again_is_the_same_answer_and_no_second_charge(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    keyed = {"Idempotency-Key": "order-7"}
    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:
        first = await api.post(CHARGES, json=body(3), headers=keyed)
        again = await api.post(CHARGES, json=body(3), headers=keyed)
        other = await api.post(CHARGES, json=body(4), headers=keyed)
        bad = await api.post(CHARGES, json=body(4), headers={"Idempotency-Key": "two words"})
        nobody = await sue.post(CHARGES, json=body(3), headers=keyed)
    assert again.content == first.content
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (
        None,
        "true",
    )
    assert of(other) == (422, "idempotency.key_reused")
    assert of(bad) == (422, "idempotency.bad_key")
    assert of(nobody) == (403, "auth.not_allowed")
    assert await balance_of(live_db, CARL) == 7


async def test_equal_charges_that_race_are_one(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        answers = await asyncio.gather(
            *(api.post(CHARGES, json=body(3), headers={"Idempotency-Key": "k"}) for _ in range(8))
        )
    assert {answer.content for answer in answers} == {answers[0].content}
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert await balance_of(live_db, CARL) == 7


BAD_BODIES: list[tuple[dict[str, Any], int, str]] = [
    (body(0), 422, "money.not_positive"),
    (body(-1), 422, "money.not_positive"),
    (body("NaN"), 422, "invalid_input"),
    (body(True), 422, "invalid_input"),
    (body("much"), 422, "invalid_input"),
    (body("0.0000001"), 422, "money.too_many_digits"),
    (body("0." + "9" * 70), 422, "money.too_many_digits"),
    (body("9223372036854.775808"), 422, "money.too_large"),
    (body("1e999999999"), 422, "money.too_large"),
    (body(1, currency="GBP"), 422, "wallet.unknown_asset"),
    (body(1, currency="usd"), 422, "invalid_input"),
    (body(1, userId=str(uuid4())), 404, "wallet.unknown_account"),
    (body(1, userId="carl"), 422, "invalid_input"),
    (body(1, category="x" * 101), 422, "invalid_input"),
    (body(1, category="two\nlines"), 422, "invalid_input"),
    (body(1, metadata={"text": "x" * 4085}), 422, "invalid_input"),
    (body(1, metadata={"number": 10**30}), 422, "invalid_input"),
    (body(1, metadata={"nul": "\0"}), 422, "invalid_input"),
    (body(1, metadata=["list"]), 422, "invalid_input"),
    ({"amount": 1}, 422, "invalid_input"),
    (body("10.000001"), 402, "wallet.insufficient_funds"),
]


async def test_what_is_wrong_has_a_code_and_writes_nothing(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        for sent, status, code in BAD_BODIES:
            answer = await api.post(CHARGES, json=sent)
            assert of(answer) == (status, code), (sent, answer.text)
        json = {"Content-Type": "application/json"}
        for content, headers in (
            (b"{", json),
            (b"", json),
            (b"7", json),
            (b'"text"', json),
            (b'{"userId": 1}', {"Content-Type": "text/plain"}),
        ):
            answer = await api.post(CHARGES, content=content, headers=headers)
            assert of(answer) == (422, "invalid_input"), answer.text
        short = await api.post(CHARGES, json=body("10.000001"))
    assert Decimal(str(short.json()["available"])) == 10
    assert short.json()["currency"] == "USD"
    assert await entries(live_db) == 0
    assert await rows(live_db, "select from audit_logs where event_type like 'wallets.%'") == []


async def test_metadata_and_a_description_fit_or_are_refused_together(live_db: Live) -> None:
    """As PostgreSQL writes them out: blanks, digits of large numbers, letters of several bytes."""
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    words, blanks = "ä" * 200, {"list": [1] * 1230}
    room = 4096 - len('{"text": "", "description": ""}') - 2 * 200
    async with live_db.api(OLIVIA) as api:
        for path in (CHARGES, HOLDS):
            for metadata, status in (
                ({"text": "x" * room}, 200),
                ({"text": "x" * (room + 1)}, 422),
                (blanks, 422),
            ):
                sent = body(1, metadata=metadata, description=words)
                answer = await api.post(path, json=sent)
                assert answer.status_code == status, (path, answer.text)
                if status == 422:
                    assert answer.json()["errors"][0]["pointer"] == "/metadata"
        large = b'{"userId": "%s", "amount": 1, "metadata": {"n": [%s]}}'
        large %= (str(CARL.id).encode(), b",".join([b"1.5e390"] * 11))
        json = {"Content-Type": "application/json"}
        assert of(await api.post(CHARGES, content=large, headers=json)) == (422, "invalid_input")


async def test_a_frozen_wallet_pays_nothing_and_a_closed_one_is_no_wallet(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        held = (await api.post(HOLDS, json=body(4))).json()
        await freeze(live_db, CARL)
        assert of(await api.post(CHARGES, json=body())) == (409, "wallet.account_frozen")
        assert of(await api.post(HOLDS, json=body())) == (409, "wallet.account_frozen")
        captured = await api.post(f"{HOLDS}/{held['id']}/captures")
        assert of(captured) == (409, "wallet.account_frozen")
        await fund(live_db, CARL, "1")  # it takes money all the same
        assert (await api.post(f"{HOLDS}/{held['id']}/void")).status_code == 200
        await freeze(live_db, DORA, "closed")
        of_dora = body(userId=str(DORA.id))
        assert of(await api.post(CHARGES, json=of_dora)) == (409, "wallet.account_closed")
    assert await balance_of(live_db, CARL) == 11
    assert await entries(live_db) == 0


async def test_many_charges_are_done_or_refused_each_by_itself(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    await fund(live_db, DORA, "1")
    dora = str(DORA.id)
    charges = [
        body(4, key="a"),
        body(-1, key="b"),
        {**body(2, key="c"), "userId": dora},
        body("1", key="d", currency="GBP"),
        {"amount": 1, "userId": "carl"},
        body("0.0000001", key="f"),
        body(5, key="a"),
        body(4, key="a"),
        body("6", key="g"),
        7,
        body("0.000001", key="h"),
    ]
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(BULK, json={"charges": charges})
        assert answer.status_code == 200, answer.text
        outcomes = answer.json()["outcomes"]
        told = [(each["key"], each["status"], each.get("code")) for each in outcomes]
        assert told == [
            ("a", "charged", None),
            ("b", "refused", "money.not_positive"),
            ("c", "refused", "wallet.insufficient_funds"),
            ("d", "refused", "wallet.unknown_asset"),
            (None, "refused", "invalid_input"),
            ("f", "refused", "money.too_many_digits"),
            ("a", "refused", "idempotency.key_reused"),
            ("a", "charged", None),
            ("g", "charged", None),
            (None, "refused", "invalid_input"),
            ("h", "refused", "wallet.insufficient_funds"),
        ]
        assert (outcomes[0]["replayed"], outcomes[7]["replayed"]) == (False, True)
        assert [outcomes[2][each] for each in ("balance", "available", "needed")] == [1, 1, 2]
        assert outcomes[10]["available"] == 0
        assert {each["pointer"] for each in outcomes[4]["errors"]} == {"/userId", "/key"}
        again = (await api.post(BULK, json={"charges": charges})).json()["outcomes"]
        assert [each.get("transferId") for each in again] == [
            each.get("transferId") for each in outcomes
        ]
        too_many = [body(key="k")] * 501
        wrong: list[dict[str, Any]] = [{"charges": []}, {"charges": too_many}, {}, {"charges": 1}]
        for bad in wrong:
            assert of(await api.post(BULK, json=bad)) == (422, "invalid_input")
    assert await balance_of(live_db, CARL) == 0
    assert await balance_of(live_db, DORA) == 1


async def test_what_cannot_be_stored_is_refused_alone(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    bad = [body(1, key=f"bad-{n}", description=text) for n, text in enumerate(("\0", "\ud800"))]
    bad.append(body(1, key="bad-2", metadata={"note": {"deep": "a\0"}}))
    bad.append(body("ENDLESS", key="bad-3"))
    bad.append(body(1, key="bad-4", metadata={"share": "ENDLESS"}))
    sent = json.dumps({"charges": [body(1, key="a"), *bad, body(2, key="b")]})
    sent = sent.replace('"ENDLESS"', "1e999")
    headers = {"Content-Type": "application/json"}
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(BULK, content=sent, headers=headers)
    first, *refused, last = answer.json()["outcomes"]
    assert (first["status"], last["status"]) == ("charged", "charged")
    assert [(each["key"], each["code"]) for each in refused] == [
        (each["key"], "invalid_input") for each in bad
    ]
    pointers = [error["pointer"] for each in refused for error in each["errors"]]
    assert pointers == [
        "/description",
        "/description",
        "/metadata/note",
        "/amount",
        "/metadata/share",
    ]
    assert await balance_of(live_db, CARL) == 7


async def test_a_bulk_of_five_hundred_is_charged_in_full(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "500")
    charges = [body(1, key=f"k{n}") for n in range(500)]
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(BULK, json={"charges": charges})
    assert {each["status"] for each in answer.json()["outcomes"]} == {"charged"}
    assert await balance_of(live_db, CARL) == 0
    assert await entries(live_db) == 500


async def test_a_hold_is_captured_in_parts_and_gives_the_rest_back(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        keyed = {"Idempotency-Key": "job-1"}
        sent = body(6, seconds=600, category="models", metadata={"job": 1})
        made = await api.post(HOLDS, json=sent, headers=keyed)
        held = made.json()
        assert (held["state"], held["amount"], held["available"]) == ("open", 6, 4)
        url = f"{HOLDS}/{held['id']}"
        assert of(await api.post(CHARGES, json=body(5)))[0] == 402
        first = await api.post(f"{url}/captures", json={"amount": 2}, headers=keyed | KEY_2)
        again = await api.post(f"{url}/captures", json={"amount": 2}, headers=keyed | KEY_2)
        assert first.json()["holdId"] == held["id"]
        assert (first.json()["amount"], first.json()["available"]) == (2, 4)
        assert again.content == first.content
        over = await api.post(f"{url}/captures", json={"amount": "4.000001"})
        assert of(over) == (422, "wallet.capture_too_large")
        assert Decimal(str(over.json()["left"])) == 4
        now = (await api.get(url)).json()
        assert (now["state"], now["captured"], now["metadata"]) == ("open", 2, {"job": 1})
        last = await api.post(f"{url}/captures", json={"amount": 1, "final": True})
        assert last.json()["available"] == 7
        closed = (await api.get(url)).json()
        assert (closed["state"], closed["captured"]) == ("captured", 3)
        assert closed["closedAt"]
        for late in ("captures", "void"):
            assert of(await api.post(f"{url}/{late}")) == (409, "wallet.hold_closed")
        replayed = await api.post(HOLDS, json=sent, headers=keyed)
        assert replayed.content == made.content
        assert replayed.headers["Idempotent-Replayed"] == "true"
    assert await balance_of(live_db, CARL) == 7
    audited = await rows(live_db, "select event_type e from audit_logs where actor_kind = 'staff'")
    assert [row["e"] for row in audited] == ["wallets.held", "wallets.captured", "wallets.captured"]


KEY_2 = {"Idempotency-Key": "job-1-part-1"}


async def test_a_void_gives_everything_back_once(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:
        url = f"{HOLDS}/{(await api.post(HOLDS, json=body(6))).json()['id']}"
        assert of(await sue.post(f"{url}/void"))[0] == 403
        assert (await sue.get(url)).status_code == 200
        keyed = {"Idempotency-Key": "v"}
        answer = await api.post(f"{url}/void", headers=keyed)
        assert (answer.json()["amount"], answer.json()["available"]) == (6, 10)
        assert (await api.post(f"{url}/void", headers=keyed)).content == answer.content
        assert of(await api.post(f"{url}/void")) == (409, "wallet.hold_closed")
        assert (await api.get(url)).json()["state"] == "voided"
        for nothing in (
            await api.get(f"{HOLDS}/{uuid4()}"),
            await api.post(f"{HOLDS}/{uuid4()}/void"),
            await api.post(f"{HOLDS}/{uuid4()}/captures", json={}),
        ):
            assert of(nothing) == (404, "wallet.unknown_hold")
    assert (await wallet_of(live_db, CARL))["held"] == 0


async def test_a_service_captures_and_voids_what_it_holds(live_db: Live) -> None:
    """No row of any customer shows to its key; it acts all the same."""
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    shop = await service_key(live_db, "wallets:charge")
    async with live_db.api(**shop.headers) as api:
        held = [(await api.post(HOLDS, json=body(4))).json()["id"] for _ in range(2)]
        captured = await api.post(f"{HOLDS}/{held[0]}/captures", json={"amount": 3, "final": True})
        voided = await api.post(f"{HOLDS}/{held[1]}/void")
        assert (await api.get(f"{HOLDS}/{held[0]}")).status_code == 403
    assert (captured.status_code, captured.json()["userId"]) == (200, str(CARL.id))
    assert (voided.status_code, voided.json()["available"]) == (200, 7)
    assert await balance_of(live_db, CARL) == 7


async def test_a_hold_whose_time_has_passed_is_captured_no_more(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10")
    async with live_db.api(OLIVIA) as api:
        held = (await api.post(HOLDS, json=body(6, seconds=60))).json()
        await age(live_db, held["id"])
        answer = await api.post(f"{HOLDS}/{held['id']}/captures", json={"amount": 1})
        assert of(answer) == (409, "wallet.hold_expired")
        assert (await api.post(f"{HOLDS}/{held['id']}/void")).status_code == 200
    assert await balance_of(live_db, CARL) == 10


async def age(live: Live, hold_id: str) -> None:
    """As though it was made an hour ago; the guard that forbids it is off for that moment."""
    await rows(live, "alter table holds disable trigger user")
    past = "update holds set created_at = created_at - interval '1 hour', "
    past += "expires_at = expires_at - interval '1 hour' where id = $1"
    await rows(live, past, hold_id)
    await rows(live, "alter table holds enable trigger user")


async def test_a_hold_lasts_from_a_second_to_thirty_days(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        for seconds in (0, -1, 30 * 86_400 + 1, 1.5, "soon"):
            answer = await api.post(HOLDS, json=body(1, seconds=seconds))
            assert of(answer) == (422, "invalid_input"), seconds
            assert [each["pointer"] for each in answer.json()["errors"]] == ["/seconds"]


async def test_points_are_charged_in_whole_numbers(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10, "POINTS")
    async with live_db.api(OLIVIA) as api:
        half = await api.post(CHARGES, json=body("0.5", currency="POINTS"))
        whole = await api.post(CHARGES, json=body(3, currency="POINTS"))
    assert of(half) == (422, "money.too_many_digits")
    assert (whole.json()["amount"], whole.json()["available"]) == (3, 7)
    assert await balance_of(live_db, CARL, "POINTS") == 7
