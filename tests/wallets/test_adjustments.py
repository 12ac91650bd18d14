"""Corrections by staff: with a reason, exact, once; above a limit it takes two people."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from sqlalchemy import text

from bursar.auth.actor import operator
from bursar.auth.permissions import StaffRole
from bursar.core.wire import exact_json
from bursar.wallets import service
from tests import databases
from tests.accounts import colleagues
from tests.accounts.people import actions, change, rows
from tests.audit.trail import superuser
from tests.conftest import Live, as_actor
from tests.wallets.oracle import ask, books
from tests.wallets.paying import pay
from tests.wallets.purses import balance_of, freeze, fund, move_in
from tests.world import ADAM, ANNA, CARL, OLIVIA, SUE

ADMIN = "/api/v1/admin"
ADJUSTMENTS = f"{ADMIN}/adjustments"
OF_CARL = f"{ADMIN}/users/{CARL.id}/adjustments"


def of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def body(amount: Any, **more: Any) -> dict[str, Any]:
    return {"amount": amount, "reason": "a goodwill credit", **more}


async def proposed(api: httpx2.AsyncClient, amount: Any = 1000) -> str:
    answer = await api.post(OF_CARL, json=body(amount))
    assert answer.status_code == 202, answer.text
    return f"{ADJUSTMENTS}/{answer.json()['id']}"


async def test_up_to_the_limit_one_person_posts_alone(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        given = await api.post(OF_CARL, json=body("100.000000"), headers={"Idempotency-Key": "k"})
        again = await api.post(OF_CARL, json=body("100.000000"), headers={"Idempotency-Key": "k"})
        await change(live_db, "adjustment_limit", 200)
        taken = await api.post(OF_CARL, json=body("-0.000001"))
        one = await api.get(f"{ADJUSTMENTS}/{taken.json()['id']}")
    assert given.status_code == taken.status_code == 201
    assert again.content == given.content
    told = given.json()
    assert (told["state"], told["proposedBy"], told["decidedBy"]) == (
        "posted",
        str(OLIVIA.id),
        None,
    )
    assert '"amount":-0.000001,' in taken.text
    assert one.content == taken.content
    assert await balance_of(live_db, CARL) == Decimal("99.999999")
    moved = await rows(live_db, "select kind, metadata from transfers order by posted_at")
    assert [row["kind"] for row in moved] == ["adjustment", "adjustment"]
    assert exact_json(moved[0]["metadata"].encode()) == {"reason": "a goodwill credit"}
    assert await actions(live_db, told["operationId"]) == ["wallets.adjusted"]


async def test_above_the_limit_a_second_person_decides(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = await proposed(olivia, "100.000001")
        adjustment = url.rpartition("/")[2]
        assert await balance_of(live_db, CARL) == 0
        for path in ("approval", "rejection"):
            refused = await olivia.post(f"{url}/{path}")
            assert of(refused) == (409, "wallet.same_person")
            assert "second person" in refused.json()["detail"]
        approved = await adam.post(f"{url}/approval")
        assert approved.status_code == 200, approved.text
        told = approved.json()
        assert (told["state"], told["decidedBy"]) == ("posted", str(ADAM.id))
        assert told["operationId"]
        for path in ("approval", "rejection"):
            late = await adam.post(f"{url}/{path}")
            assert of(late) == (409, "wallet.adjustment_decided")
            assert late.json()["state"] == "posted"
    assert await balance_of(live_db, CARL) == Decimal("100.000001")
    assert await actions(live_db, adjustment) == [
        "wallets.adjustment_proposed",
        "wallets.adjustment_approved",
    ]
    assert await actions(live_db, told["operationId"]) == ["wallets.adjusted"]


async def test_two_who_approve_at_the_same_moment_post_once(live_db: Live) -> None:
    await move_in(live_db)
    async with (
        live_db.api(OLIVIA) as olivia,
        live_db.api(ADAM) as adam,
        live_db.api(operator(StaffRole.OWNER)) as machine,
    ):
        url = await proposed(olivia)
        answers = await asyncio.gather(
            *(who.post(f"{url}/approval") for who in (adam, machine, adam, machine))
        )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert await balance_of(live_db, CARL) == 1000
    assert len(await rows(live_db, "select from transfers")) == 1


async def test_who_approves_and_who_rejects_at_once_do_not_both_win(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = await proposed(olivia)
        answers = await asyncio.gather(adam.post(f"{url}/approval"), adam.post(f"{url}/rejection"))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        state = (await adam.get(url)).json()["state"]
    assert await balance_of(live_db, CARL) == {"posted": 1000, "rejected": 0}[state]


async def test_a_rejected_one_is_never_posted(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = await proposed(olivia)
        answer = await adam.post(f"{url}/rejection", json={"reason": "not agreed"})
        told = answer.json()
        assert (told["state"], told["operationId"]) == ("rejected", None)
        assert of(await adam.post(f"{url}/approval")) == (409, "wallet.adjustment_decided")
    assert await balance_of(live_db, CARL) == 0
    [row] = await rows(
        live_db,
        "select after::text from audit_logs where event_type = 'wallets.adjustment_rejected'",
    )
    assert "not agreed" in row["after"]


async def test_the_operator_of_the_machine_is_one_person_too(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(operator(StaffRole.OWNER)) as machine:
        url = await proposed(machine)
        assert of(await machine.post(f"{url}/approval")) == (409, "wallet.same_person")


async def test_colleagues_who_signed_in_with_their_passwords(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api() as api:
        olivia = await colleagues.hired(live_db, api, "olivia")
        adam = await colleagues.hired(live_db, api, "adam", colleagues.ADMINISTRATOR)
        sue = await colleagues.hired(live_db, api, "sue", colleagues.SUPPORT)
        answer = await api.post(OF_CARL, json=body(5000), headers=olivia.signed)
        url = f"{ADJUSTMENTS}/{answer.json()['id']}/approval"
        assert of(await api.post(url, headers=sue.signed)) == (403, "auth.not_allowed")
        assert of(await api.post(url, headers=olivia.signed)) == (409, "wallet.same_person")
        assert (await api.post(url, headers=adam.signed)).status_code == 200
    assert await balance_of(live_db, CARL) == 5000


async def test_what_cannot_be_posted_stays_proposed(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        assert of(await olivia.post(OF_CARL, json=body("-10.000001"))) == (
            402,
            "wallet.insufficient_funds",
        )
        url = await proposed(olivia, -1000)
        assert of(await adam.post(f"{url}/approval")) == (402, "wallet.insufficient_funds")
        await fund(live_db, CARL, 1000)
        await freeze(live_db, CARL)
        assert of(await adam.post(f"{url}/approval")) == (409, "wallet.account_frozen")
        await freeze(live_db, CARL, "open")
        assert (await adam.get(url)).json()["state"] == "proposed"
        assert (await adam.post(f"{url}/approval")).status_code == 200
    assert await balance_of(live_db, CARL) == 10
    assert len(await rows(live_db, "select from adjustments")) == 1


async def test_whose_customer_is_gone_is_only_rejected(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = await proposed(olivia)
        await rows(live_db, "delete from users where id = $1", CARL.id)
        assert of(await adam.post(f"{url}/approval")) == (404, "wallet.unknown_account")
        assert (await adam.post(f"{url}/rejection")).json()["state"] == "rejected"


async def test_the_limit_is_a_setting_of_staff(live_db: Live) -> None:
    await move_in(live_db)
    await change(live_db, "adjustment_limit", 0)
    async with live_db.api(OLIVIA) as api:
        await proposed(api, "0.000001")
        await change(live_db, "adjustment_limit", 5000)
        assert (await api.post(OF_CARL, json=body(5000))).status_code == 201


async def test_the_limit_is_for_all_that_one_person_does_in_a_day(live_db: Live) -> None:
    """What is given and what is taken both count, in each currency by itself."""
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        for amount, status in ((60, 201), (-39, 201), ("1.000001", 202), (1, 201), (1, 202)):
            answer = await olivia.post(OF_CARL, json=body(amount))
            assert answer.status_code == status, amount
        points = await olivia.post(OF_CARL, json=body(100, currency="POINTS"))
        assert points.status_code == 201
        assert (await adam.post(OF_CARL, json=body(100))).status_code == 201
        [waiting, _] = (await adam.get(ADJUSTMENTS, params={"state": "proposed"})).json()[
            "adjustments"
        ]
        approved = await adam.post(f"{ADJUSTMENTS}/{waiting['id']}/approval")
        assert approved.status_code == 200
        assert (await adam.post(OF_CARL, json=body(1))).status_code == 202
        await rows(live_db, "alter table adjustments disable trigger user")
        await rows(live_db, "update adjustments set created_at = created_at - interval '1 day'")
        await rows(live_db, "alter table adjustments enable trigger user")
        assert (await olivia.post(OF_CARL, json=body(100))).status_code == 201


async def test_two_at_the_same_moment_do_not_both_find_room_below_the_limit(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        answers = await asyncio.gather(*(api.post(OF_CARL, json=body(60)) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 202, 202, 202]
    assert await balance_of(live_db, CARL) == 60


async def test_an_adjustment_is_one_operation_also_when_the_stored_answer_is_gone(
    live_db: Live,
) -> None:
    await move_in(live_db)
    key = {"Idempotency-Key": "gift-1"}
    async with live_db.api(OLIVIA) as api:
        first = await api.post(OF_CARL, json=body(60), headers=key)
        await rows(live_db, "delete from idempotency_keys")
        again = await api.post(OF_CARL, json=body("60.0"), headers=key)
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["idempotent-replayed"] == "true"
        await rows(live_db, "delete from idempotency_keys")
        other = await api.post(OF_CARL, json=body(50), headers=key)
        assert of(other) == (422, "idempotency.key_reused")
    assert await balance_of(live_db, CARL) == 60
    assert len(await rows(live_db, "select from adjustments")) == 1


async def test_a_proposal_is_one_for_ever(live_db: Live) -> None:
    """Also when it was decided, and the stored answer is gone."""
    await move_in(live_db)
    key = {"Idempotency-Key": "gift-2"}
    async with live_db.api(OLIVIA) as api:
        first = await api.post(OF_CARL, json=body(500), headers=key)
        await rows(live_db, "delete from idempotency_keys")
        again = await api.post(OF_CARL, json=body("500.0"), headers=key)
        assert (again.status_code, again.text) == (202, first.text)
        assert again.headers["idempotent-replayed"] == "true"
    async with live_db.api(ADAM) as api:
        path = f"/api/v1/admin/adjustments/{first.json()['id']}/approval"
        assert (await api.post(path)).status_code == 200
    async with live_db.api(OLIVIA) as api:
        await rows(live_db, "delete from idempotency_keys")
        decided = await api.post(OF_CARL, json=body(500), headers=key)
        assert (decided.status_code, decided.json()["state"]) == (201, "posted")
        await rows(live_db, "delete from idempotency_keys")
        other = await api.post(OF_CARL, json=body(501), headers=key)
        assert of(other) == (422, "idempotency.key_reused")
    assert await balance_of(live_db, CARL) == 500
    assert len(await rows(live_db, "select from adjustments")) == 1


BAD_BODIES: list[tuple[dict[str, Any], tuple[int, str]]] = [
    (body(0), (422, "invalid_input")),
    (body("-0.0"), (422, "invalid_input")),
    (body("Infinity"), (422, "invalid_input")),
    (body(True), (422, "invalid_input")),
    (body("\u0661"), (422, "invalid_input")),  # an Arabic 1
    (body("1_0"), (422, "invalid_input")),
    (body("0.0000001"), (422, "money.too_many_digits")),
    (body("0." + "9" * 70), (422, "money.too_many_digits")),
    (body("-9223372036855"), (422, "money.too_large")),
    (body(1, currency="GBP"), (422, "wallet.unknown_asset")),
    (body(1, reason=" "), (422, "invalid_input")),
    (body(1, reason="x" * 501), (422, "invalid_input")),
    ({"amount": 1}, (422, "invalid_input")),
]


async def test_what_is_wrong_has_a_code_and_writes_nothing(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api, live_db.api(SUE) as sue:
        for sent, refused in BAD_BODIES:
            assert of(await api.post(OF_CARL, json=sent)) == refused, sent
        for amount in (1, 1000):
            nobody = await api.post(f"{ADMIN}/users/{uuid4()}/adjustments", json=body(amount))
            assert of(nobody) == (404, "not_found")
        assert of(await sue.post(OF_CARL, json=body(1))) == (403, "auth.not_allowed")
        assert of(await api.post(f"{ADJUSTMENTS}/{uuid4()}/approval")) == (404, "not_found")
        assert of(await api.get(f"{ADJUSTMENTS}/{uuid4()}")) == (404, "not_found")
    assert await rows(live_db, "select from adjustments union all select from transfers") == []


async def test_the_list_is_filtered_and_in_pages(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api, live_db.api(ANNA) as anna:
        for amount in (1, 2, 3, 1000, 2000):
            await api.post(OF_CARL, json=body(amount))

        async def found(**ask: Any) -> Any:
            answer = await anna.get(ADJUSTMENTS, params=ask)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert [each["amount"] for each in (await found())["adjustments"]] == [2000, 1000, 3, 2, 1]
        waiting = await found(state="proposed", sort="created_at")
        assert [each["amount"] for each in waiting["adjustments"]] == [1000, 2000]
        assert (await found(userId=str(ADAM.id)))["total"] == 0
        first = await found(per_page=3)
        rest = await found(per_page=3, cursor=first["nextCursor"])
        assert [each["amount"] for each in rest["adjustments"]] == [2, 1]
        assert (await anna.get(ADJUSTMENTS, params={"state": "lost"})).status_code == 422


async def test_the_table_itself_wants_two_people(live_db: Live) -> None:
    """Also from the owner of the database, whom no route and no policy holds."""
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        await proposed(api)
    decide = "update adjustments set state = 'rejected', decided_at = now(), decided_by = $1"
    with pytest.raises(asyncpg.CheckViolationError):
        await rows(live_db, decide, OLIVIA.id)
    await rows(live_db, decide, ADAM.id)
    with pytest.raises(asyncpg.RestrictViolationError):
        await rows(live_db, decide, ADAM.id)


async def test_no_adjustment_is_removed_by_anybody(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        await proposed(api)
        await api.post(OF_CARL, json=body(1))
    async with superuser(live_db.url) as connection:
        for state in ("proposed", "posted"):
            with pytest.raises(asyncpg.RestrictViolationError, match="never changed or deleted"):
                await connection.execute("delete from adjustments where state = $1", state)
        for more in ("", " cascade"):
            with pytest.raises(asyncpg.RestrictViolationError, match="never changed or deleted"):
                await connection.execute(f"truncate adjustments{more}")
    assert len(await rows(live_db, "select from adjustments")) == 2


# Taken by whoever adjusts, before anything else (wallets/service.py).
TURN = "select pg_advisory_lock(hashtextextended('adjustments of ' || $1::text, 0))"
WAITS = """
  select count(*) from pg_locks where locktype = 'advisory' and not granted
    and database = (select oid from pg_database where datname = current_database())
"""


async def test_who_is_suspended_in_the_middle_of_a_request_is_out(live_db: Live) -> None:
    """That is no defect of ours: the answer is the one that their next request gets."""
    await move_in(live_db)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        async with superuser(live_db.url) as gate:
            await gate.execute(TURN, str(ADAM.id))
            asked = asyncio.create_task(adam.post(OF_CARL, json=body(1)))
            while not await gate.fetchval(WAITS):
                await asyncio.sleep(0.01)
            url = f"{ADMIN}/staff/{ADAM.id}/status"
            out = await olivia.put(url, json={"status": "suspended"})
            assert out.status_code == 200, out.text
        answer = await asked
    assert of(answer) == (401, "auth.bad_token")
    assert "not at work" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert await balance_of(live_db, CARL) == 0


async def test_a_missing_grant_stays_a_defect(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    await move_in(live_db)
    async with superuser(live_db.url) as owner:
        await owner.execute("revoke execute on function post_as_staff(jsonb) from staff_user")
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(OF_CARL, json=body(1))
    assert answer.status_code == 500
    assert "permission denied for function post_as_staff" in caplog.text


async def test_none_reads_through_all_operations(live_db: Live) -> None:
    """What one costs does not grow with what was posted before."""
    await move_in(live_db)
    async with books(databases.raw(live_db.url)) as here:
        await here.post(*(ask(pay("clearing", 1, str(CARL.id))) for _ in range(400)))
        await here.execute("analyze operations")
    async with as_actor(live_db.database, OLIVIA) as db:
        await service.adjust(db, CARL.id, Decimal(1), "USD", "a credit", scope="s", key="k")
        reads = "select seq_scan from pg_stat_xact_user_tables where relname = 'operations'"
        assert await db.scalar(text(reads)) == 0
