"""Staff come in, stay in and go out; nobody comes in by a door that is not theirs."""

from typing import Any

import httpx2
import pytest

from bursar.auth.actor import OPERATOR_ID, operator
from bursar.auth.permissions import GRANTED
from tests.accounts import people
from tests.accounts.colleagues import (
    ADMINISTRATOR,
    DOOR,
    OWNER,
    STAFF,
    SUPPORT,
    code,
    colleague,
    enrol,
    everything_audited,
    hire,
    hired,
    log_in,
    try_login,
)
from tests.accounts.people import (
    AUTH,
    OTHER_PASSWORD,
    PASSWORD,
    actions,
    change,
    link_in_mail,
    mails,
    rows,
    run_jobs,
)
from tests.conftest import Live
from tests.world import OLIVIA

WRONG = (401, "accounts.wrong_credentials")


async def test_in_through_the_door_and_out_again(live_db: Live) -> None:
    async with live_db.api() as api:
        sue_id = await hire(live_db, "sue", SUPPORT)
        answer = await try_login(api, "sue")
        body = answer.json()
        sue = colleague(answer)
        me = await api.get(f"{DOOR}/me", headers=sue.signed)
        out = await api.post(f"{DOOR}/logout", headers=sue.signed)
        refreshed = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
    assert (body["tokenType"], body["expiresIn"], body["scope"]) == ("bearer", 900, "full")
    assert (body["user"]["id"], body["user"]["role"]) == (sue_id, "support")
    assert body["user"]["lastLogin"] is not None
    assert me.json()["permissions"] == sorted(GRANTED[SUPPORT])
    assert (me.json()["email"], me.json()["recoveryCodesLeft"]) == ("sue@example.com", 0)
    assert (out.status_code, code(refreshed)) == (200, (401, "auth.bad_refresh_token"))
    assert await actions(live_db, sue_id) == [
        "staff.created",
        "staff.signed_in",
        "staff.signed_out",
    ]


async def test_either_case_on_input_and_no_secret_in_an_answer(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        answer = await api.post(f"{DOOR}/refresh", json={"refresh_token": sue.refresh_token})
        assert answer.status_code == 200
        text = answer.text + (await api.get(f"{DOOR}/me", headers=sue.signed)).text
    assert "argon2" not in text
    assert "password" not in text
    trail = await everything_audited(live_db)
    for hidden in (PASSWORD, "argon2", sue.access_token, sue.refresh_token):
        assert hidden not in trail


async def test_who_may_not_come_in_is_told_no_more_than_others(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as boss:
        for name in ("sue", "lea"):
            await hire(live_db, name, SUPPORT)
        lea, sue = [
            row["id"] for row in await rows(live_db, "select id from admin_users order by email")
        ]
        await boss.post(STAFF, json={"email": "ivan@example.com", "role": "support"})
        await boss.put(f"{STAFF}/{sue}/status", json={"status": "suspended"})
        await boss.delete(f"{STAFF}/{lea}")
        assert code(await try_login(api, "nobody")) == WRONG
        assert code(await try_login(api, "ivan", "")) == (422, "invalid_input")
        assert code(await try_login(api, "ivan")) == WRONG
        assert code(await try_login(api, "lea")) == WRONG
        assert code(await try_login(api, "sue", OTHER_PASSWORD)) == WRONG
        assert code(await try_login(api, "sue")) == (403, "accounts.suspended")


async def test_too_many_wrong_passwords_lock_the_account_for_who_knows_it(live_db: Live) -> None:
    async with live_db.api() as api:
        await hire(live_db, "sue", SUPPORT)
        for _ in range(10):
            assert code(await try_login(api, "sue", OTHER_PASSWORD)) == WRONG
        assert code(await try_login(api, "sue")) == (429, "auth.too_many_attempts")
        await rows(live_db, "delete from attempts")
        assert code(await try_login(api, "sue", OTHER_PASSWORD)) == WRONG
        assert code(await try_login(api, "sue")) == (423, "accounts.locked")


async def test_customers_and_staff_have_doors_of_their_own(live_db: Live) -> None:
    """The same address and password in both tables: two people all the same."""
    async with live_db.api() as api:
        carl = await people.sign_up(api, "sue@example.com")
        sue = await hired(live_db, api, "sue", OWNER)
        for url in (STAFF, f"{DOOR}/me", f"{DOOR}/sessions", people.ADMIN_USERS):
            assert code(await api.get(url, headers=carl.headers)) == (403, "auth.not_allowed")
        for path in ("logout", "totp", "totp/confirmation", "recovery-codes", "change-password"):
            answer = await api.post(f"{DOOR}/{path}", json={}, headers=carl.headers)
            assert code(answer) == (403, "auth.not_allowed")
        for url in (f"{AUTH}/me", f"{AUTH}/sessions"):
            assert code(await api.get(url, headers=sue.signed)) == (403, "auth.not_allowed")
        crossed = await api.post(f"{DOOR}/refresh", json={"refreshToken": carl.refresh_token})
        other = await api.post(f"{AUTH}/refresh", json={"refresh_token": sue.refresh_token})
        assert code(crossed) == code(other) == (401, "auth.bad_refresh_token")
        await log_in(api, "sue")  # neither session or account has come to harm
        await people.log_in(api, "sue@example.com")
        assert (await api.get(f"{DOOR}/me", headers=sue.signed)).status_code == 200


async def test_without_a_token_there_is_nothing(live_db: Live) -> None:
    async with live_db.api() as api:
        for method, path in (
            ("GET", f"{DOOR}/me"),
            ("GET", f"{DOOR}/sessions"),
            ("DELETE", f"{DOOR}/sessions"),
            ("POST", f"{DOOR}/logout"),
            ("POST", f"{DOOR}/totp"),
            ("GET", STAFF),
            ("POST", STAFF),
        ):
            assert code(await api.request(method, path)) == (401, "auth.sign_in_needed")


async def test_sessions_are_ones_own(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        await log_in(api, "sue")
        adam = await hired(live_db, api, "adam", ADMINISTRATOR)
        url = f"{DOOR}/sessions"
        mine = (await api.get(url, headers=sue.signed)).json()
        assert mine["total"] == 2
        here = [row["id"] for row in mine["sessions"] if row["current"]]
        there = [row["id"] for row in mine["sessions"] if not row["current"]]
        assert (len(here), len(there)) == (1, 1)
        foreign = await api.delete(f"{url}/{there[0]}", headers=adam.signed)
        assert code(foreign) == (404, "not_found")
        ended = await api.delete(f"{url}/{there[0]}", headers=sue.signed)
        assert ended.json() == {"ended": 1}
        assert (await api.delete(f"{url}/{there[0]}", headers=sue.signed)).status_code == 404
        for _ in range(2):
            await log_in(api, "sue")
        others = await api.delete(url, headers=sue.signed)
        assert others.json() == {"ended": 2}
        assert (await api.get(url, headers=sue.signed)).json()["sessions"][0]["id"] == here[0]


async def test_an_end_is_heard_of_at_once(live_db: Live) -> None:
    """Access tokens too, not only the refresh token, in a server that serves."""
    await hire(live_db, "sue", SUPPORT)
    async with live_db.serving() as base, httpx2.AsyncClient(base_url=base, timeout=60) as api:
        sue = await log_in(api, "sue")
        assert (await api.get(f"{DOOR}/me", headers=sue.signed)).status_code == 200
        await api.post(f"{DOOR}/logout", headers=sue.signed)
        answer = await api.get(f"{DOOR}/me", headers=sue.signed)
        for _ in range(3000):
            if answer.status_code == 401:
                break
            answer = await api.get(f"{DOOR}/me", headers=sue.signed)
    assert code(answer) == (401, "auth.bad_token")


async def test_a_new_password_while_signed_in(live_db: Live) -> None:
    url = f"{DOOR}/change-password"
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        other = await log_in(api, "sue")
        body = {"currentPassword": OTHER_PASSWORD, "newPassword": OTHER_PASSWORD}
        assert code(await api.post(url, json=body, headers=sue.signed)) == WRONG
        body = {"currentPassword": PASSWORD, "newPassword": "sue@example.com"}
        refused = await api.post(url, json=body, headers=sue.signed)
        assert code(refused) == (422, "auth.bad_password")
        body = {"currentPassword": PASSWORD, "newPassword": OTHER_PASSWORD}
        assert (await api.post(url, json=body, headers=sue.signed)).status_code == 200
        for who, status in ((other, 401), (sue, 200)):
            token = {"refreshToken": who.refresh_token}
            assert (await api.post(f"{DOOR}/refresh", json=token)).status_code == status
        assert code(await try_login(api, "sue")) == WRONG
        await log_in(api, "sue", password=OTHER_PASSWORD)


async def test_a_forgotten_password_by_mail(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        asked = await api.post(f"{DOOR}/forgot-password", json={"email": "SUE@example.com"})
        assert asked.status_code == 202
        token = await link_in_mail(live_db, "sue@example.com")
        body = {"token": token, "newPassword": OTHER_PASSWORD}
        crossed = await api.post(f"{AUTH}/reset-password", json=body)
        assert code(crossed) == (422, "auth.bad_one_time_token")
        assert (await api.post(f"{DOOR}/reset-password", json=body)).status_code == 200
        again = await api.post(f"{DOOR}/reset-password", json=body)
        assert code(again) == (422, "auth.bad_one_time_token")
        old = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
        assert old.status_code == 401
        await log_in(api, "sue", password=OTHER_PASSWORD)
    assert "staff.password_changed" in await actions(live_db, sue.id)


async def test_a_reset_does_not_go_around_the_second_factor(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        await enrol(api, sue)
        await api.post(f"{DOOR}/forgot-password", json={"email": sue.email})
        body = {"token": await link_in_mail(live_db, sue.email), "newPassword": OTHER_PASSWORD}
        assert (await api.post(f"{DOOR}/reset-password", json=body)).status_code == 200
        answer = await try_login(api, "sue", OTHER_PASSWORD)
        assert code(answer) == (401, "accounts.second_factor_asked")


async def test_no_link_for_who_may_not_come_in(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        await hire(live_db, "sue", SUPPORT)
        [sue] = await rows(live_db, "select id from admin_users")
        await boss.put(f"{STAFF}/{sue['id']}/status", json={"status": "suspended"})
        await people.sign_up(api, "carl@example.com")
        told = set()
        for email in ("sue@example.com", "nobody@example.com", "carl@example.com"):
            answer = await api.post(f"{DOOR}/forgot-password", json={"email": email})
            told.add((answer.status_code, answer.text))
        await run_jobs(live_db)
    assert len(told) == 1
    for email in ("sue@example.com", "nobody@example.com", "carl@example.com"):
        assert [mail.template for mail in await mails(live_db, email)] == []


async def test_an_operators_token_is_of_no_person(live_db: Live) -> None:
    async with live_db.api(operator(SUPPORT)) as api:
        me = (await api.get(f"{DOOR}/me")).json()
        sessions = await api.get(f"{DOOR}/sessions")
        ended = await api.delete(f"{DOOR}/sessions")
        out = await api.post(f"{DOOR}/logout")
        body = {"currentPassword": PASSWORD, "newPassword": OTHER_PASSWORD}
        password = await api.post(f"{DOOR}/change-password", json=body)
    assert (me["id"], me["email"], me["role"]) == (str(OPERATOR_ID), None, "support")
    assert me["permissions"] == sorted(GRANTED[SUPPORT])
    assert (sessions.json()["sessions"], ended.json(), out.status_code) == ([], {"ended": 0}, 200)
    assert code(password) == WRONG


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "sue@example.com"},
        {"email": "sue@example.com", "password": None},
        {"email": "sue@example.com", "password": 5},
        {"email": "s" * 255, "password": PASSWORD},
        {"email": "sue@example.com", "password": PASSWORD, "code": ""},
        {"email": "sue@example.com", "password": PASSWORD, "code": "1" * 101},
        {"email": "sue@example.com", "password": "p" * 5000},
        {"email": "sue\u0000@example.com", "password": PASSWORD},
        [],
    ],
)
async def test_a_malformed_sign_in_is_a_clear_no(live_db: Live, body: Any) -> None:
    async with live_db.api() as api:
        answer = await api.post(f"{DOOR}/login", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


async def test_the_role_in_a_token_is_the_one_of_now(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as boss:
        sue = await hired(live_db, api, "sue", ADMINISTRATOR)
        await boss.put(f"{STAFF}/{sue.id}", json={"role": "support"})
        old = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
        assert code(old) == (401, "auth.bad_refresh_token")
        again = await log_in(api, "sue")
        assert (await api.get(STAFF, headers=again.signed)).status_code == 403


async def test_the_setting_narrows_a_session_at_its_next_refresh(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        await change(live_db, "staff_second_factor", True)
        answer = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
        assert answer.json()["scope"] == "enrol"
        signed = colleague(answer).signed
        refused = await api.get("/api/v1/admin/settings", headers=signed)
    assert code(refused) == (403, "auth.step_owed")
