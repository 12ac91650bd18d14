"""Passwords and addresses change by a link or by the old password, and by nothing else."""

import asyncio

import httpx2
import pytest

from bursar.auth.throttle import LOGIN
from tests.accounts.colleagues import DOOR, STAFF, SUPPORT, hire
from tests.accounts.people import (
    ADMIN_USERS,
    AUTH,
    OTHER_PASSWORD,
    PASSWORD,
    USERS,
    actions,
    link_in_mail,
    log_in,
    mails,
    rows,
    run_jobs,
    sign_up,
)
from tests.conftest import Live
from tests.world import OLIVIA


async def forgot(api: httpx2.AsyncClient, email: str) -> httpx2.Response:
    return await api.post(f"{AUTH}/forgot-password", json={"email": email})


async def reset(
    api: httpx2.AsyncClient, token: str, password: str = OTHER_PASSWORD
) -> httpx2.Response:
    return await api.post(f"{AUTH}/reset-password", json={"token": token, "new_password": password})


async def test_a_reset_opens_the_account_and_signs_everybody_out(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await rows(live_db, "update users set locked_until = now() + interval '1 hour'")
        assert (await forgot(api, "Carl@Example.com")).status_code == 202
        token = await link_in_mail(live_db, carl.email)
        assert (await reset(api, token)).status_code == 200
        gone = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        assert gone.status_code == 401
        old = await api.post(f"{AUTH}/login", json={"email": carl.email, "password": PASSWORD})
        assert old.status_code == 401
        again = await log_in(api, password=OTHER_PASSWORD)
        me = await api.get(f"{AUTH}/me", headers=again.headers)
        assert me.json()["email_verified"] is True  # the link came by mail
        assert (await reset(api, token)).status_code == 422
        await run_jobs(live_db)
    assert [each.template for each in await mails(live_db, carl.email)] == [
        "password_changed",
        "reset_password",
    ]
    assert "users.password_changed" in await actions(live_db, carl.id)
    [kept] = await rows(live_db, "select count(*) from audit_logs where after::text ~ 'argon2'")
    assert kept[0] == 0


async def test_a_password_that_is_changed_is_not_denied_for_what_comes_after(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await forgot(api, carl.email)
        token = await link_in_mail(live_db, carl.email)
        await rows(live_db, "revoke execute on function forget_attempts(bytea[]) from auth_user")
        assert (await reset(api, token)).status_code == 200
        await log_in(api, password=OTHER_PASSWORD)


async def test_an_unknown_address_gets_the_same_answer_and_no_mail(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        known, unknown = await forgot(api, carl.email), await forgot(api, "nobody@example.com")
        await run_jobs(live_db)
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    assert len(await mails(live_db, carl.email)) == 1
    assert await mails(live_db, "nobody@example.com") == []


async def test_three_mails_an_hour_then_no_more(live_db: Live) -> None:
    async with live_db.api() as api:
        answers = [(await forgot(api, "nobody@example.com")).status_code for _ in range(4)]
    assert answers == [202, 202, 202, 429]


@pytest.mark.parametrize("token", ["x", "x" * 43, "x" * 500, "é" * 43, "x" * 42 + "\x00"])
async def test_a_token_that_is_none_is_refused(live_db: Live, token: str) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        answer = await reset(api, token)
        assert answer.status_code == 422
        verify = await api.post(f"{AUTH}/verify-email", json={"token": token})
    assert verify.status_code == 422


async def test_a_link_is_good_for_one_thing_until_its_time_is_up(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await api.post(f"{AUTH}/resend-verification", headers=carl.headers)
        verification = await link_in_mail(live_db, carl.email)
        assert (await reset(api, verification)).status_code == 422
        await forgot(api, carl.email)
        late = await link_in_mail(live_db, carl.email)
        await rows(live_db, "update one_time_tokens set expires_at = now() where purpose = 'reset'")
        assert (await reset(api, late)).status_code == 422
        verified = await api.post(f"{AUTH}/verify-email", json={"token": verification})
    assert verified.status_code == 200


async def test_of_two_who_use_one_link_at_once_one_succeeds(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await forgot(api, carl.email)
        token = await link_in_mail(live_db, carl.email)
        passwords = [f"{OTHER_PASSWORD} {n}" for n in range(6)]
        answers = await asyncio.gather(*(reset(api, token, each) for each in passwords))
        assert sorted(each.status_code for each in answers) == [200] + [422] * 5
        winner = next(p for p, a in zip(passwords, answers, strict=True) if a.status_code == 200)
        await log_in(api, password=winner)


async def test_a_refused_password_leaves_the_link_as_good_as_before(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await forgot(api, carl.email)
        token = await link_in_mail(live_db, carl.email)
        for password in ("password123", carl.email):
            bad = await reset(api, token, password)
            assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/new_password")
        assert (await reset(api, token)).status_code == 200


async def test_change_of_password_keeps_this_session_alone(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        phone = await log_in(api)
        body = {"current_password": PASSWORD, "new_password": OTHER_PASSWORD}
        wrong = await api.post(
            f"{AUTH}/change-password",
            json={**body, "current_password": "no"},
            headers=carl.headers,
        )
        assert (wrong.status_code, wrong.json()["code"]) == (401, "accounts.wrong_credentials")
        changed = await api.post(f"{AUTH}/change-password", json=body, headers=carl.headers)
        assert changed.status_code == 200
        stays = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        gone = await api.post(f"{AUTH}/refresh", json={"refresh_token": phone.refresh_token})
        assert (stays.status_code, gone.status_code) == (200, 401)
        await log_in(api, password=OTHER_PASSWORD)


async def test_a_new_address_counts_once_its_link_was_followed(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        body = {"email": "karl@example.com", "password": PASSWORD}
        asked = await api.post(f"{AUTH}/change-email", json=body, headers=carl.headers)
        assert asked.status_code == 202
        token = await link_in_mail(live_db, "karl@example.com")
        me = await api.get(f"{AUTH}/me", headers=carl.headers)
        assert me.json()["email"] == carl.email
        proved = await api.post(f"{AUTH}/verify-email", json={"token": token})
        assert (proved.json()["email"], proved.json()["email_verified"]) == (
            "karl@example.com",
            True,
        )
        await log_in(api, "karl@example.com")


async def test_an_address_of_somebody_else_gets_no_link(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        dora = await sign_up(api, "dora@example.com")
        body = {"email": dora.email, "password": PASSWORD}
        asked = await api.post(f"{AUTH}/change-email", json=body, headers=carl.headers)
        assert asked.status_code == 202
        await run_jobs(live_db)
        assert await mails(live_db, dora.email) == []
        # and one who took it while the link was on its way keeps it
        body = {"email": "new@example.com", "password": PASSWORD}
        await api.post(f"{AUTH}/change-email", json=body, headers=carl.headers)
        token = await link_in_mail(live_db, "new@example.com")
        await sign_up(api, "new@example.com")
        late = await api.post(f"{AUTH}/verify-email", json={"token": token})
    assert (late.status_code, late.json()["code"]) == (409, "accounts.email_taken")


async def test_a_change_of_address_ends_the_links_before_it_and_is_told_to_the_old_one(
    live_db: Live,
) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await forgot(api, carl.email)
        old_link = await link_in_mail(live_db, carl.email)
        body = {"email": "karl@example.com", "password": PASSWORD}
        await api.post(f"{AUTH}/change-email", json=body, headers=carl.headers)
        token = await link_in_mail(live_db, "karl@example.com")
        assert (await api.post(f"{AUTH}/verify-email", json={"token": token})).status_code == 200
        assert (await reset(api, old_link)).status_code == 422
    assert (await mails(live_db, carl.email))[0].template == "email_changed"
    await says_no_new_address(live_db, carl.email, "karl")


async def says_no_new_address(live: Live, old: str, new: str) -> None:
    words = (await mails(live, old))[0].words
    assert words is not None
    assert "e-mail address of your account" in words.text
    assert new not in words.text + words.html


async def test_a_link_for_a_password_is_for_the_address_that_it_was_mailed_to(
    live_db: Live,
) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await forgot(api, carl.email)
        token = await link_in_mail(live_db, carl.email)
        # by plain SQL, which forgets no link
        await rows(live_db, "update users set email = 'karl@example.com'")
        assert (await reset(api, token)).status_code == 422
        await rows(live_db, "update users set email = 'carl@example.com'")
        assert (await reset(api, token)).status_code == 200


async def test_a_change_of_address_by_staff_is_told_to_the_old_one(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as olivia:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}"
        assert (await olivia.put(url, json={"email": "karl@example.com"})).status_code == 200
        await run_jobs(live_db)
        await says_no_new_address(live_db, carl.email, "karl")
        # one that no mail can go to keeps nobody from a better one
        await rows(live_db, "update users set email = 'karl@old_host'")
        assert (await olivia.put(url, json={"email": "carl@example.com"})).status_code == 200


async def test_so_it_is_for_staff(live_db: Live) -> None:
    sue = await hire(live_db, "sue", SUPPORT)
    async with live_db.api() as api, live_db.api(OLIVIA) as olivia:
        await api.post(f"{DOOR}/forgot-password", json={"email": "sue@example.com"})
        token = await link_in_mail(live_db, "sue@example.com")
        await rows(live_db, "update admin_users set email = 'moved@example.com'")
        body = {"token": token, "new_password": OTHER_PASSWORD}
        assert (await api.post(f"{DOOR}/reset-password", json=body)).status_code == 422
        changed = await olivia.put(f"{STAFF}/{sue}", json={"email": "susan@example.com"})
        assert changed.status_code == 200
        await run_jobs(live_db)
    await says_no_new_address(live_db, "moved@example.com", "susan")


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        (f"{AUTH}/change-password", "current_password", {"new_password": OTHER_PASSWORD}),
        (f"{AUTH}/change-email", "password", {"email": "karl@example.com"}),
        (f"{USERS}/me/deletion", "password", {}),
    ],
)
async def test_a_password_that_can_be_none_is_told_by_its_name(
    live_db: Live, path: str, field: str, body: dict[str, str]
) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        for bad in ("x" * 2000, "\x00 and more"):
            answer = await api.post(path, json={**body, field: bad}, headers=carl.headers)
            assert answer.status_code == 422
            pointers = [each["pointer"] for each in answer.json()["errors"]]
            assert pointers in ([f"/{field}"], [""])


async def test_who_has_no_password_has_just_signed_in(live_db: Live) -> None:
    """As one who came by a provider; the session is older than its newest token."""
    async with live_db.api() as api:
        carl = await sign_up(api)
        await rows(live_db, "update users set password_hash = null")
        await rows(live_db, "update sessions set created_at = now() - interval '11 minutes'")
        renewed = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        token = renewed.json()["access_token"]
        stale = {"Authorization": f"Bearer {token}"}
        asked = {"email": "karl@example.com"}
        for path, body in ((f"{AUTH}/change-email", asked), (f"{USERS}/me/deletion", {})):
            answer = await api.post(path, json=body, headers=stale)
            assert (answer.status_code, answer.json()["code"]) == (401, "accounts.sign_in_again")
        await rows(live_db, "update sessions set created_at = now() - interval '9 minutes'")
        for path, body in ((f"{AUTH}/change-email", asked), (f"{USERS}/me/deletion", {})):
            assert (await api.post(path, json=body, headers=stale)).status_code == 202


async def test_strangers_who_guess_do_not_shut_out_whoever_has_the_mailbox(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        for _ in range(LOGIN.times + 1):
            await api.post(f"{AUTH}/login", json={"email": carl.email, "password": "guess guess"})
        await forgot(api, carl.email)
        assert (await reset(api, await link_in_mail(live_db, carl.email))).status_code == 200
        await log_in(api, password=OTHER_PASSWORD)


async def test_whoever_staff_have_set_to_pending_can_prove_their_address_again(
    live_db: Live,
) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        await rows(live_db, "update users set email_verified = true, status = 'pending'")
        carl = await log_in(api)
        await api.post(f"{AUTH}/resend-verification", headers=carl.headers)
        token = await link_in_mail(live_db, carl.email)
        verified = await api.post(f"{AUTH}/verify-email", json={"token": token})
    assert verified.json()["status"] == "active"
