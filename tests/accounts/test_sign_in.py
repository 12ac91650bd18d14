"""Signing in: the right password, the right account, and nothing to learn from a wrong one."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import httpx2
import pytest
from sqlalchemy import text

from bursar.auth.throttle import LOGIN
from bursar.core.database import DOOR
from tests.accounts.people import (
    AUTH,
    OTHER_PASSWORD,
    PASSWORD,
    actions,
    log_in,
    rows,
    sign_up,
)
from tests.auth.signed_in import another
from tests.conftest import Live


async def attempt(
    api: httpx2.AsyncClient, email: str = "carl@example.com", password: str = OTHER_PASSWORD
) -> httpx2.Response:
    return await api.post(f"{AUTH}/login", json={"email": email, "password": password})


async def forget_throttles(live: Live) -> None:
    """As though a long time had passed."""
    await rows(live, "delete from attempts")


async def test_login_in_whatever_case_and_what_it_leaves(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        again = await log_in(api, "CARL@EXAMPLE.COM")
    assert again.id == carl.id
    assert (await actions(live_db, carl.id))[-1] == "users.signed_in"
    [row] = await rows(live_db, "select login_attempts, last_login from users")
    assert row["login_attempts"] == 0
    assert row["last_login"] is not None


@pytest.mark.parametrize(
    "email", ["dora@example.com", "carl", "", "x" * 254, "cаrl@example.com", "'; drop table users"]
)
async def test_an_unknown_address_gets_the_answer_of_a_wrong_password(
    live_db: Live, email: str
) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        wrong = await attempt(api)
        unknown = await attempt(api, email)
        if not email:
            assert unknown.status_code == 422
            return
    assert (wrong.status_code, wrong.json()["code"]) == (401, "accounts.wrong_credentials")
    same = ("status", "code", "title", "detail", "type")
    assert [unknown.json()[k] for k in same] == [wrong.json()[k] for k in same]


async def test_an_address_is_typed_at_sign_in_as_at_sign_up(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api, "carl@bücher.example")
        for typed in ("carl@bücher.example", " Carl@BÜCHER.example ", "carl@xn--bcher-kva.example"):
            assert (await attempt(api, typed, PASSWORD)).status_code == 200


async def test_a_refresh_that_finds_no_connection_leaves_the_token_good(
    live_db: Live,
) -> None:
    """What answers 503 may be sent again, and must not look like a theft then."""
    async with live_db.api() as api, another(live_db, database_pool_timeout_seconds=1) as hurried:
        carl = await sign_up(api)
        body = {"refresh_token": carl.refresh_token}
        live_db.app.state.database, patient = hurried, live_db.database
        async with AsyncExitStack() as stack:
            for _ in range(hurried.settings.database_pool_size):
                db = await stack.enter_async_context(hurried.transaction(DOOR))
                await db.execute(text("select 1"))
            busy = await api.post(f"{AUTH}/refresh", json=body)
            assert busy.status_code == 503
        live_db.app.state.database = patient
        again = await api.post(f"{AUTH}/refresh", json=body)
    assert again.status_code == 200


async def test_ten_attempts_then_nobody_looks_at_the_password(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        for email in ("carl@example.com", "nobody@example.com"):  # known and unknown alike
            answers = [(await attempt(api, email)).status_code for _ in range(LOGIN.times + 1)]
            assert answers == [401] * LOGIN.times + [429]
        refused = await attempt(api, password=PASSWORD)
    assert (refused.status_code, refused.json()["code"]) == (429, "auth.too_many_attempts")
    assert 0 < int(refused.headers["Retry-After"]) <= LOGIN.seconds


async def test_of_racing_guesses_only_the_first_ten_are_looked_at(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        answers = await asyncio.gather(*(attempt(api) for _ in range(40)))
    assert sorted(each.status_code for each in answers) == [401] * 10 + [429] * 30


async def test_a_locked_account_tells_only_who_has_the_password(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        for _ in range(10):
            await attempt(api)
        await forget_throttles(live_db)  # from elsewhere
        guess = await attempt(api)
        assert (guess.status_code, guess.json()["code"]) == (401, "accounts.wrong_credentials")
        right = await attempt(api, password=PASSWORD)
        assert (right.status_code, right.json()["code"]) == (423, "accounts.locked")
        assert 0 < int(right.headers["Retry-After"]) <= timedelta(minutes=15).total_seconds() + 1
        await rows(live_db, "update users set locked_until = now()")
        await log_in(api)
    assert (await actions(live_db, carl.id)).count("users.locked") == 1
    [row] = await rows(live_db, "select login_attempts, locked_until from users")
    assert tuple(row) == (0, None)


async def test_a_suspended_or_deleted_account_lets_nobody_in(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        await rows(live_db, "update users set status = 'suspended'")
        shut = await attempt(api, password=PASSWORD)
        assert (shut.status_code, shut.json()["code"]) == (403, "accounts.suspended")
        assert (await attempt(api)).json()["code"] == "accounts.wrong_credentials"
        await rows(live_db, "update users set status = 'deleted'")
        gone = await attempt(api, password=PASSWORD)
    assert (gone.status_code, gone.json()["code"]) == (401, "accounts.wrong_credentials")


async def test_an_account_without_a_password_lets_nobody_in_by_one(live_db: Live) -> None:
    await rows(live_db, "insert into users (email, name) values ('Carl@Example.com', 'Carl')")
    async with live_db.api() as api:
        for password in ("x", "None", "null"):
            assert (await attempt(api, password=password)).status_code == 401


async def test_refresh_goes_on_and_a_used_token_ends_it_all(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        first = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        assert first.status_code == 200
        fresh = first.json()
        me = await api.get(
            f"{AUTH}/me", headers={"Authorization": f"Bearer {fresh['access_token']}"}
        )
        assert me.json()["id"] == carl.id
        replayed = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        assert (replayed.status_code, replayed.json()["code"]) == (401, "auth.bad_refresh_token")
        dead = await api.post(f"{AUTH}/refresh", json={"refresh_token": fresh["refresh_token"]})
    assert dead.status_code == 401
    assert (await actions(live_db, carl.id))[-1] == "users.refresh_token_replayed"


async def test_a_suspended_customer_gets_no_new_tokens(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await rows(live_db, "update users set status = 'suspended'")
        answer = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.bad_refresh_token")


async def test_logout_ends_this_session_and_no_other(live_db: Live) -> None:
    async with live_db.api() as api:
        here = await sign_up(api)
        there = await log_in(api)
        out = await api.post(f"{AUTH}/logout", headers=here.headers)
        assert out.status_code == 200
        gone = await api.post(f"{AUTH}/refresh", json={"refresh_token": here.refresh_token})
        assert gone.status_code == 401
        stays = await api.post(f"{AUTH}/refresh", json={"refresh_token": there.refresh_token})
        assert stays.status_code == 200
        twice = await api.post(f"{AUTH}/logout", headers=here.headers)
    assert twice.status_code in (200, 401)


async def test_sessions_are_listed_and_ended_by_their_owner_alone(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        phone = await log_in(api)
        dora = await sign_up(api, "dora@example.com")
        listed = (await api.get(f"{AUTH}/sessions", headers=carl.headers)).json()["sessions"]
        assert sorted(each["current"] for each in listed) == [False, True]
        assert {each["method"] for each in listed} == {"password"}
        other = next(each["id"] for each in listed if not each["current"])
        foreign = await api.delete(f"{AUTH}/sessions/{other}", headers=dora.headers)
        assert foreign.status_code == 404
        ended = await api.delete(f"{AUTH}/sessions/{other}", headers=carl.headers)
        assert ended.json() == {"ended": 1}
        gone = await api.post(f"{AUTH}/refresh", json={"refresh_token": phone.refresh_token})
        assert gone.status_code == 401
        await log_in(api)
        everywhere = await api.delete(f"{AUTH}/sessions", headers=carl.headers)
        assert everywhere.json() == {"ended": 1}
        left = (await api.get(f"{AUTH}/sessions", headers=carl.headers)).json()["sessions"]
    assert [each["current"] for each in left] == [True]


async def test_a_logged_out_token_is_refused_at_once(live_db: Live) -> None:
    async with live_db.serving() as url, httpx2.AsyncClient(base_url=url, timeout=60) as api:
        carl = await sign_up(api)
        assert (await api.get(f"{AUTH}/me", headers=carl.headers)).status_code == 200
        await api.post(f"{AUTH}/logout", headers=carl.headers)
        async with asyncio.timeout(30):
            while (await api.get(f"{AUTH}/me", headers=carl.headers)).status_code == 200:
                await asyncio.sleep(0.01)
