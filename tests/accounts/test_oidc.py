"""Sign-in with an OpenID provider: who comes in, as whom, and who does not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import pyotp
import pytest

from bursar.accounts import second_factor
from bursar.auth.actor import Kind
from tests.accounts.oidc_world import (
    PATHS,
    Browser,
    code,
    customer,
    installation,
    member,
    named,
    nothing_happened,
    sign_in,
)
from tests.accounts.people import AUTH, actions, change, rows, sign_up
from tests.conftest import Live
from tests.databases import test_settings as settings_with
from tests.oidc_program import CARL, Obedient, obedient, real

STAFF = Kind.STAFF


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with real() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def started() -> Iterator[Obedient]:
    with obedient() as provider:
        yield provider


@pytest.fixture
def provider(started: Obedient) -> Obedient:
    started.mode()
    return started


@pytest.fixture
async def live(provider: Obedient) -> AsyncIterator[Live]:
    async with installation(provider.issuer) as live:
        yield live


async def test_a_real_provider_signs_up_and_signs_in(mock: str) -> None:
    """Somebody else's program: its own discovery, keys, form and checks."""
    httpx2.put(f"{mock}/users/c7", json={k: v for k, v in CARL.items() if k != "sub"})
    async with installation(mock) as live, Browser(live) as browser:
        first = await browser.sign_in(sub="c7")
        assert first.status_code == 200, first.text
        token = {"Authorization": f"Bearer {first.json()['access_token']}"}
        me = await browser.api.get(f"{AUTH}/me", headers=token)
        assert (me.json()["email"], me.json()["email_verified"]) == ("carl@example.com", True)
        assert (me.json()["first_name"], me.json()["last_name"]) == ("Carl", "Carlson")
        refreshed = await browser.api.post(
            f"{AUTH}/refresh", json={"refresh_token": first.json()["refresh_token"]}
        )
        assert refreshed.status_code == 200
        httpx2.put(f"{mock}/users/c7", json={"email": "new@example.com", "email_verified": True})
        second = await browser.sign_in(sub="c7")
        assert second.json()["user"]["id"] == first.json()["user"]["id"]
        assert second.json()["user"]["email"] == "carl@example.com"
        assert await actions(live, first.json()["user"]["id"]) == [
            "users.signed_up",
            "users.identity_linked",
            "users.signed_in",
            "users.signed_in",
        ]
        [row] = await rows(live, "select password_hash, status from users")
        assert (row["password_hash"], row["status"]) == (None, "active")
        assert {row["method"] for row in await rows(live, "select method from sessions")} == {
            "oidc"
        }


async def test_a_real_provider_lets_staff_in_who_are_known(mock: str) -> None:
    httpx2.put(f"{mock}/users/s1", json={"email": "Sue@example.com", "email_verified": True})
    async with installation(mock) as live:
        stranger = await sign_in(live, STAFF, sub="s1")
        assert code(stranger) == (403, "accounts.oidc_no_account")
        assert await nothing_happened(live)
        sue = await member(live, "sue@example.com")
        answer = await sign_in(live, STAFF, sub="s1")
        assert (answer.json()["user"]["id"], answer.json()["user"]["role"]) == (sue, "support")
        assert answer.json()["scope"] == "full"
        assert await actions(live, sue) == ["staff.identity_linked", "staff.signed_in"]
        await change(live, "staff_second_factor", True)
        assert (await sign_in(live, STAFF, sub="s1")).json()["scope"] == "enrol"


async def test_the_answer_takes_the_cookie_back_and_is_kept_nowhere(live: Live) -> None:
    async with Browser(live) as browser:
        begun = await browser.api.get(f"{PATHS[Kind.CUSTOMER]}/start")
        cookie = begun.headers["set-cookie"]
        callback = await browser.at_provider(begun.headers["location"])
        answer = await browser.back(callback)
    assert "Max-Age=600; Path=/api/v1/auth/oidc/callback; SameSite=lax" in cookie
    assert "HttpOnly" in cookie
    assert "Secure" not in cookie
    assert 'bursar_oidc_customer=""' in answer.headers["set-cookie"]
    assert "Max-Age=0" in answer.headers["set-cookie"]
    for each in (begun, answer):
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["referrer-policy"] == "no-referrer"


async def test_over_https_the_cookie_never_goes_in_the_clear(provider: Obedient) -> None:
    public = "https://pay.example.com/shop"
    async with installation(provider.issuer, public_url=public) as live, live.api() as api:
        begun = await api.get(f"{PATHS[STAFF]}/start")
    cookie = begun.headers["set-cookie"]
    assert cookie.startswith("__Secure-bursar_oidc_staff=")
    assert "Secure" in cookie.split("; ")
    assert "Path=/shop/api/v1/admin/auth/oidc/callback" in cookie
    redirect = httpx2.URL(begun.headers["location"]).params["redirect_uri"]
    assert redirect == f"{public}/api/v1/admin/auth/oidc/callback"


@pytest.mark.parametrize(
    "claims",
    [
        {"email_verified": False},
        {"email_verified": "false"},
        {"email_verified": 1},
        {"email_verified": None},
        {"email": None},
        {"email": "carl at example"},
        {"email": ["carl@example.com"]},
        {"email": "c\u0430rl@example.com"},  # a Cyrillic letter
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Kind.CUSTOMER, STAFF])
async def test_an_address_that_the_provider_has_not_proved_opens_nothing(
    live: Live, provider: Obedient, kind: Kind, claims: dict[str, object]
) -> None:
    about = {k: v for k, v in {**CARL, **claims}.items() if v is not None}
    provider.mode(claims=claims, userinfo=about)
    assert code(await sign_in(live, kind)) == (403, "accounts.oidc_email_unverified")
    assert await nothing_happened(live)


async def test_userinfo_is_asked_where_the_id_token_is_silent(
    live: Live, provider: Obedient
) -> None:
    """What OpenID Connect lets a provider do; the flag as text is what some of them do."""
    provider.mode(hide=["email", "email_verified"], userinfo={**CARL, "email_verified": "true"})
    answer = await sign_in(live)
    assert answer.json()["user"]["email"] == "carl@example.com"
    provider.mode(hide=["email", "email_verified"], userinfo={**CARL, "sub": "dora-1"})
    assert code(await sign_in(live)) == (502, "accounts.oidc_provider_failed")


async def test_an_account_is_linked_where_both_sides_have_proved_the_address(live: Live) -> None:
    carl = await customer(live)
    assert (await sign_in(live)).json()["user"]["id"] == carl
    assert (await sign_in(live)).json()["user"]["id"] == carl
    assert (await actions(live, carl)).count("users.identity_linked") == 1


async def test_whoever_typed_the_address_in_first_does_not_share_the_account(live: Live) -> None:
    """Pre-hijacking: mallory has signed up with Carl's address and a password of her own."""
    async with live.api() as api:
        hers = await sign_up(api)
    answer = await sign_in(live)
    assert code(answer) == (409, "accounts.oidc_link_refused")
    assert "forgot password" in answer.json()["detail"]
    assert await rows(live, "select from identities") == []
    await rows(live, "update users set email_verified = true")  # Carl has reset the password
    assert (await sign_in(live)).json()["user"]["id"] == hers.id


async def test_an_address_that_changed_hands_at_the_provider_opens_nothing(
    live: Live, provider: Obedient
) -> None:
    await customer(live)
    await member(live)
    for kind in (Kind.CUSTOMER, STAFF):
        provider.mode()
        assert (await sign_in(live, kind)).status_code == 200
        provider.mode(claims={"sub": "somebody-else"})
        assert code(await sign_in(live, kind)) == (409, "accounts.oidc_link_refused")


async def test_where_nobody_may_sign_up_only_customers_come_in(live: Live) -> None:
    await change(live, "sign_up_open", False)
    assert code(await sign_in(live)) == (403, "accounts.sign_up_closed")
    await customer(live)
    assert (await sign_in(live)).status_code == 200


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("kind", [Kind.CUSTOMER, STAFF])
async def test_who_is_suspended_or_deleted_stays_out(live: Live, kind: Kind, linked: bool) -> None:
    table = "users" if kind is Kind.CUSTOMER else "admin_users"
    await (customer(live) if kind is Kind.CUSTOMER else member(live))
    if linked:
        await sign_in(live, kind)
    await rows(live, "delete from sessions")
    await rows(live, f"update {table} set status = 'suspended'")
    assert code(await sign_in(live, kind)) == (403, "accounts.suspended")
    await rows(live, f"update {table} set status = 'deleted'")
    assert code(await sign_in(live, kind)) == (403, "accounts.oidc_no_account")
    assert await rows(live, "select from sessions") == []
    assert len(await rows(live, "select from identities")) == linked


async def test_wrong_passwords_of_others_do_not_lock_the_provider_out(live: Live) -> None:
    await customer(live, login_attempts=10, locked_until=datetime(2999, 1, 1, tzinfo=UTC))
    assert (await sign_in(live)).status_code == 200


async def test_whoever_was_invited_has_joined_by_signing_in(live: Live) -> None:
    sue = await member(live, status="invited")
    answer = await sign_in(live, STAFF)
    assert (answer.json()["user"]["id"], answer.json()["user"]["status"]) == (sue, "active")
    assert await actions(live, sue) == [
        "staff.identity_linked",
        "staff.joined",
        "staff.signed_in",
    ]


async def test_whoever_left_and_was_invited_again_comes_in_as_the_new_one(live: Live) -> None:
    left = await member(live)
    await sign_in(live, STAFF)
    await rows(live, "update admin_users set status = 'deleted'")
    again = await member(live, status="invited")
    answer = await sign_in(live, STAFF)
    assert answer.json()["user"]["id"] == again != left


async def with_second_factor(live: Live) -> tuple[str, pyotp.TOTP]:
    sue, secret = await member(live), pyotp.random_base32()
    sealed = second_factor.closed(secret, UUID(sue), live.settings)
    sql = "update admin_users set totp_secret = $1, totp_confirmed_at = now()"
    await rows(live, sql, sealed)
    return sue, pyotp.TOTP(secret)


async def test_the_second_factor_is_asked_for_after_the_provider(live: Live) -> None:
    sue, totp = await with_second_factor(live)
    asked = await sign_in(live, STAFF)
    assert code(asked) == (401, "accounts.oidc_code_asked")
    assert await nothing_happened(live)
    continuation, now = asked.json()["continuation"], totp.now()
    wrong = f"{(int(now) + 1) % 10**6:06}"
    async with live.api() as api:

        async def send(continued: str, given: str) -> httpx2.Response:
            body = {"continuation": continued, "code": given}
            return await api.post(f"{PATHS[STAFF]}/code", json=body)

        assert code(await send(continuation, wrong)) == (401, "accounts.wrong_code")
        assert code(await send("x" + continuation, now)) == (401, "accounts.oidc_bad_flow")
        answers = await asyncio.gather(*(send(continuation, now) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 401]  # good once
        [right] = [answer for answer in answers if answer.status_code == 200]
        assert (right.json()["user"]["id"], right.json()["scope"]) == (sue, "full")
        await rows(live, "update admin_users set email = 'sue@example.com'")
        await rows(live, "update identities set subject = 'moved'")
        dora = await member(live)  # has the address since; the code that is tried is not hers
        assert code(await send(continuation, now)) == (401, "accounts.oidc_bad_flow")
        await rows(live, f"delete from admin_users where id = '{dora}'")
        await rows(live, "update identities set subject = 'carl-7'")
        await rows(live, "update admin_users set status = 'suspended', totp_last_step = null")
        assert code(await send(continuation, totp.now())) == (403, "accounts.suspended")


async def test_a_provider_that_has_asked_for_a_second_factor_spares_ours(
    live: Live, provider: Obedient
) -> None:
    await with_second_factor(live)
    for methods, status in ((["pwd"], 401), (["pwd", "mfa"], 200), ([], 401)):
        provider.mode(claims={"amr": methods})
        assert (await sign_in(live, STAFF)).status_code == status


async def test_two_first_visits_at_once_are_one_sign_up(live: Live) -> None:
    answers = await asyncio.gather(*(sign_in(live) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["user"]["id"] for answer in answers}) == 1


async def test_without_settings_there_is_no_such_sign_in(live_db: Live) -> None:
    async with live_db.api() as api:
        for path in PATHS.values():
            for route in ("start", "callback?code=1&state=2"):
                assert code(await api.get(f"{path}/{route}")) == (404, "accounts.oidc_off")
        body = {"continuation": "x", "code": "123456"}
        answer = await api.post(f"{PATHS[STAFF]}/code", json=body)
        assert code(answer) == (404, "accounts.oidc_off")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"customer_oidc_client_secret": None}, "set all three or none"),
        ({"staff_oidc_issuer": None}, "set all three or none"),
        ({"staff_oidc_client_id": None}, "set all three or none"),
        ({"customer_oidc_issuer": "http://accounts.example.com"}, "https://"),
        ({"customer_oidc_issuer": "https://accounts.example.com?x"}, "https://"),
        ({"customer_oidc_issuer": "https://me@accounts.example.com"}, "https://"),
        ({"customer_oidc_issuer": "ftp://127.0.0.1"}, "https://"),
        ({"customer_oidc_client_id": "two words"}, "no spaces"),
        ({"customer_oidc_client_secret": "a\nb"}, "one line"),
        ({"oidc_scopes": "email profile"}, "openid"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, str | None], says: str) -> None:
    given = {**named("https://accounts.example.com/"), **changed}
    with pytest.raises(ValueError, match=says):
        settings_with(**given)
