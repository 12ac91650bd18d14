"""Signing up: one account for one address, whoever races for it and however it is written."""

import asyncio
import json

import pytest

from tests.accounts.people import (
    AUTH,
    OTHER_PASSWORD,
    PASSWORD,
    actions,
    change,
    link_in_mail,
    log_in,
    mails,
    rows,
    run_jobs,
    sign_up,
)
from tests.conftest import Live


async def test_somebody_signs_up_and_is_in(live_db: Live) -> None:
    async with live_db.api() as api:
        answer = await api.post(
            f"{AUTH}/signup",
            json={
                "email": "Carl.Carlson@Example.COM",
                "password": PASSWORD,
                "first_name": "Carl",
                "last_name": "Carlson",
                "username": "carl",
            },
        )
        assert answer.status_code == 201
        body = answer.json()
        me = await api.get(f"{AUTH}/me", headers=bearer(body["access_token"]))
    user = body["user"]
    assert me.json() == {**user, "updated_at": me.json()["updated_at"]}
    assert user["email"] == "carl.carlson@example.com"
    assert (user["full_name"], user["username"]) == ("Carl Carlson", "carl")
    assert (user["role"], user["tier"], user["status"]) == ("individual_client", "free", "active")
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("bearer", 900, "full")
    assert await actions(live_db, user["id"]) == ["users.signed_up", "users.signed_in"]
    assert PASSWORD not in answer.text
    assert "password" not in answer.text


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_whole_name_and_its_parts_are_kept_in_step(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api, full_name="Carl  von und zu Carlson")
        seen = await api.get("/api/v1/users/me", headers=carl.headers)
        assert (seen.json()["first_name"], seen.json()["last_name"]) == (
            "Carl",
            "von und zu Carlson",
        )
        changed = await api.put(
            "/api/v1/users/me", json={"last_name": "Carlsson"}, headers=carl.headers
        )
    assert changed.json()["full_name"] == "Carl Carlsson"


async def test_one_address_is_one_account_in_whatever_case(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api, "carl@example.com", username="Carl")
        for email, username, code in (
            ("CARL@example.com", "other", "accounts.email_taken"),
            ("other@example.com", "cARL", "accounts.username_taken"),
        ):
            body = {"email": email, "password": PASSWORD, "username": username}
            again = await api.post(f"{AUTH}/signup", json=body)
            assert (again.status_code, again.json()["code"]) == (409, code)
    assert len(await rows(live_db, "select from users")) == 1


async def test_of_those_who_race_for_one_address_one_gets_it(live_db: Live) -> None:
    async with live_db.api() as api:
        body = {"email": "carl@example.com", "password": PASSWORD}
        racing = [api.post(f"{AUTH}/signup", json=body) for _ in range(8)]
        answers = sorted(each.status_code for each in await asyncio.gather(*racing))
    assert answers == [201] + [409] * 7
    assert len(await rows(live_db, "select from users")) == 1
    assert len(await rows(live_db, "select from sessions")) == 1


async def test_the_same_key_is_answered_with_the_same_account(live_db: Live) -> None:
    async with live_db.api() as api:
        body = {"email": "carl@example.com", "password": PASSWORD}
        key = {"Idempotency-Key": "sign-up-1"}
        first = await api.post(f"{AUTH}/signup", json=body, headers=key)
        again = await api.post(f"{AUTH}/signup", json=body, headers=key)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["Idempotent-Replayed"] == "true"
        guess = await api.post(
            f"{AUTH}/signup", json={**body, "password": PASSWORD + "!"}, headers=key
        )
    assert (guess.status_code, guess.json()["code"]) == (422, "idempotency.key_reused")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "carl"),
        ("email", "carl@"),
        ("email", "carl@localhost"),
        ("email", "cаrl@example.com"),  # a Cyrillic letter that looks like an a
        ("email", "carl@example.com\n"),
        ("email", "carl\x00@example.com"),
        ("email", f"{'c' * 250}@example.com"),
        ("email", f"{'c' * 65}@example.com"),
        ("email", 7),
        ("email", None),
        ("password", "short"),
        ("password", "password123"),
        ("password", "carl@example.com"),
        ("password", "x" * 2000),
        ("password", "ok ok ok ok\x00"),
        ("password", 12345678),
        ("full_name", "Carl\r\nBcc: everybody"),
        ("full_name", "C" * 300),
        ("full_name", "Carl \u202enoslraC"),
        ("full_name", ["Carl"]),
        ("username", "x"),
        ("username", "carl carlson"),
        ("username", "сarl"),  # a Cyrillic letter that looks like a c
    ],
)
async def test_bad_input_is_told_and_leaves_nothing(
    live_db: Live, field: str, value: object
) -> None:
    body = {"email": "carl@example.com", "password": PASSWORD, field: value}
    async with live_db.api() as api:
        answer = await api.post(f"{AUTH}/signup", json=body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert any(error["pointer"] in (f"/{field}", "") for error in problem["errors"])
    assert "x" * 100 not in answer.text
    assert await rows(live_db, "select from users") == []


async def test_a_password_of_ten_megabytes_is_refused_before_it_is_read(live_db: Live) -> None:
    async with live_db.api() as api:
        body = {"email": "carl@example.com", "password": "x" * 10_000_000}
        answer = await api.post(f"{AUTH}/signup", json=body)
    assert answer.status_code == 413


async def test_how_long_a_password_may_be_is_said_as_it_is(live_db: Live) -> None:
    async with live_db.api() as api:
        schemas = (await api.get("/openapi.json")).json()["components"]["schemas"]
        stated = schemas["SignUp"]["properties"]["password"]["maxLength"]
        body = {"email": "carl@example.com", "password": PASSWORD.ljust(stated + 1, "!")}
        assert (await api.post(f"{AUTH}/signup", json=body)).status_code == 422
        body["password"] = PASSWORD.ljust(stated, "!")
        assert (await api.post(f"{AUTH}/signup", json=body)).status_code == 201


async def test_domains_beyond_ascii_are_kept_in_ascii(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api, "carl@münchen.example")
    assert carl.email == "carl@xn--mnchen-3ya.example"


async def test_where_sign_up_is_closed_nobody_signs_up(live_db: Live) -> None:
    await change(live_db, "sign_up_open", False)
    async with live_db.api() as api:
        body = {"email": "carl@example.com", "password": PASSWORD}
        answer = await api.post(f"{AUTH}/signup", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "accounts.sign_up_closed")
        common = await api.post(f"{AUTH}/signup", json={**body, "password": "password123"})
    assert common.status_code == 403  # told before any work is done for a password


async def test_where_addresses_are_verified_an_account_opens_by_its_link(live_db: Live) -> None:
    await change(live_db, "verify_email", True)
    async with live_db.api() as api:
        carl = await sign_up(api)
        shut = await api.get("/api/v1/users/me", headers=carl.headers)
        assert (shut.status_code, shut.json()["code"]) == (403, "auth.step_owed")
        me = await api.get(f"{AUTH}/me", headers=carl.headers)
        assert (me.json()["status"], me.json()["email_verified"]) == ("pending", False)
        token = await link_in_mail(live_db, carl.email)
        verified = await api.post(f"{AUTH}/verify-email", json={"token": token})
        assert (verified.status_code, verified.json()["status"]) == (200, "active")
        again = await api.post(f"{AUTH}/verify-email", json={"token": token})
        assert (again.status_code, again.json()["code"]) == (422, "auth.bad_one_time_token")
        carl = await log_in(api)
        assert (await api.get("/api/v1/users/me", headers=carl.headers)).status_code == 200
    await told_that_it_is_open(live_db, carl.id)


async def told_that_it_is_open(live: Live, user_id: str) -> None:
    """By an event, and by an audit row with both sides."""
    published = "select payload::text from events where name = 'users.status_changed'"
    [event] = await rows(live, published)
    assert json.loads(event["payload"]) == {"user_id": user_id, "status": "active"}
    proved = "select before, after from audit_logs where event_type = 'users.email_verified'"
    [row] = await rows(live, proved)
    assert json.loads(row["before"]) == {"status": "pending", "email_verified": False}
    assert json.loads(row["after"]) == {"status": "active", "email_verified": True}


async def test_a_new_password_by_a_link_opens_a_pending_account_too(live_db: Live) -> None:
    await change(live_db, "verify_email", True)
    async with live_db.api() as api:
        carl = await sign_up(api)
        await api.post(f"{AUTH}/forgot-password", json={"email": carl.email})
        body = {"token": await link_in_mail(live_db, carl.email), "new_password": OTHER_PASSWORD}
        assert (await api.post(f"{AUTH}/reset-password", json=body)).status_code == 200
    await told_that_it_is_open(live_db, carl.id)


async def test_a_mistyped_address_is_corrected_by_who_cannot_verify_it(live_db: Live) -> None:
    await change(live_db, "verify_email", True)
    async with live_db.api() as api:
        carl = await sign_up(api, "cral@example.com")
        body = {"email": "carl@example.com", "password": PASSWORD}
        asked = await api.post(f"{AUTH}/change-email", json=body, headers=carl.headers)
        assert asked.status_code == 202
        token = await link_in_mail(live_db, "carl@example.com")
        verified = await api.post(f"{AUTH}/verify-email", json={"token": token})
    seen = verified.json()
    assert (seen["email"], seen["status"]) == ("carl@example.com", "active")


async def test_verification_is_mailed_again_until_it_is_done(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await run_jobs(live_db)
        assert await mails(live_db, carl.email) == []  # off by default, and then nothing is sent
        links = []
        for _ in range(2):
            sent = await api.post(f"{AUTH}/resend-verification", headers=carl.headers)
            assert sent.status_code == 202
            links.append(await link_in_mail(live_db, carl.email))
        old = await api.post(f"{AUTH}/verify-email", json={"token": links[0]})
        assert old.status_code == 422  # the newest link is the one that is good
        new = await api.post(f"{AUTH}/verify-email", json={"token": links[1]})
        assert new.json()["email_verified"] is True
        await api.post(f"{AUTH}/resend-verification", headers=carl.headers)
        await run_jobs(live_db)
    assert len(await mails(live_db, carl.email)) == 2
