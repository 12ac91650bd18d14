"""Sign-in with an OpenID provider, attacked: false tokens, false links, a provider gone wrong."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any

import aiohttp
import httpx2
import pytest

from bursar.accounts import oidc, oidc_provider
from bursar.accounts.oidc_provider import Flow, Provider
from bursar.auth.actor import Kind
from tests.accounts.oidc_world import (
    PATHS,
    Browser,
    code,
    door,
    installation,
    sign_in,
    written,
)
from tests.accounts.people import rows
from tests.conftest import Live
from tests.oidc_program import CLIENT, SECRET, Obedient, obedient

BAD_FLOW = (401, "accounts.oidc_bad_flow")
FAILED = (502, "accounts.oidc_provider_failed")
BAD_TOKEN = (502, "accounts.oidc_bad_token")
DISCOVERY = "/.well-known/openid-configuration"
NOW = int(time.time())
DAY = 86_400


@pytest.fixture(scope="module")
def started() -> Iterator[Obedient]:
    with obedient() as provider:
        yield provider


@pytest.fixture
def provider(started: Obedient) -> Obedient:
    started.mode()
    return started


@pytest.fixture(scope="module")
async def installed(started: Obedient) -> AsyncIterator[Live]:
    async with installation(started.issuer) as live:
        yield live


@pytest.fixture
async def live(installed: Live, provider: Obedient) -> Live:
    """One database for all of them, which nothing here should change; nothing else is kept."""
    installed.app.state.oidc_providers = oidc_provider.providers(installed.settings)
    await rows(installed, "delete from attempts")
    return installed


def known(live: Live) -> Provider:
    found: Provider = live.app.state.oidc_providers[Kind.CUSTOMER]
    return found


FALSE_TOKENS: dict[str, dict[str, Any]] = {
    "another nonce": {"claims": {"nonce": "of another flow"}},
    "no nonce": {"claims": {"nonce": None}},
    "another audience": {"claims": {"aud": "another-client"}},
    "another audience, though for us": {"claims": {"aud": "another-client", "azp": CLIENT}},
    "no audience": {"claims": {"aud": None}},
    "one audience of two, of another party": {"claims": {"aud": [CLIENT, "x"], "azp": "x"}},
    "one audience of two, of no party": {"claims": {"aud": [CLIENT, "x"]}},
    "another party": {"claims": {"azp": "x"}},
    "another issuer": {"claims": {"iss": "https://evil.example.com"}},
    "no issuer": {"claims": {"iss": None}},
    "expired": {"claims": {"iat": NOW - DAY, "exp": NOW - DAY + 60}},
    "no end": {"claims": {"exp": None}},
    "an end that is no time": {"claims": {"exp": "tomorrow"}},
    "of tomorrow": {"claims": {"iat": NOW + DAY, "exp": NOW + 2 * DAY}},
    "no time": {"claims": {"iat": None}},
    "not yet good": {"claims": {"nbf": NOW + DAY}},
    "nobody": {"claims": {"sub": None}},
    "an empty name": {"claims": {"sub": ""}},
    "a number": {"claims": {"sub": 7}},
    "a NUL": {"claims": {"sub": "carl\0"}},
    "too long a name": {"claims": {"sub": "c" * 256}},
    "another access token": {"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
    "an access token that is none": {"claims": {"at_hash": [1]}},
    "not signed": {"sign": "none", "claims": {"at_hash": None}},
    "signed with the public key": {"sign": "HS256"},
    "an algorithm that is not taken": {"sign": "RS512", "claims": {"at_hash": None}},
    "signed by a stranger": {"sign": "stranger"},
    "signed with a key that nobody has": {"sign": "unknown_kid"},
    "no token": {"answer": {"id_token": "e30.e30."}},
    "no token at all": {"answer": {"id_token": "carl"}},
    "too long a token": {"answer": {"id_token": "x" * 200_000}},
}


@pytest.mark.parametrize("mode", FALSE_TOKENS.values(), ids=FALSE_TOKENS.keys())
async def test_a_false_token_opens_nothing(
    live: Live, provider: Obedient, mode: dict[str, Any]
) -> None:
    before = await written(live)
    provider.mode(**mode)
    assert code(await sign_in(live)) == BAD_TOKEN
    assert await written(live) == before
    provider.mode()
    assert (await sign_in(live)).status_code == 200


@pytest.mark.parametrize("algorithm", oidc_provider.ALGORITHMS)
async def test_each_algorithm_that_is_taken(live: Live, provider: Obedient, algorithm: str) -> None:
    provider.mode(sign=algorithm)
    assert (await sign_in(live)).status_code == 200


async def test_new_keys_are_fetched_when_a_token_names_one(live: Live, provider: Obedient) -> None:
    assert (await sign_in(live)).status_code == 200
    provider.rotate()
    assert (await sign_in(live)).status_code == 200
    assert provider.seen("/jwks") == 2
    provider.mode(sign="unknown_kid")
    for _ in range(3):
        assert code(await sign_in(live)) == BAD_TOKEN
    assert provider.seen("/jwks") == 0  # it was asked again a moment ago


EXAMPLE = "http://example.com/x"
BROKEN: dict[str, dict[str, Any]] = {
    f"{what} at {path}": {what: value(path)}
    for path in (DISCOVERY, "/token", "/jwks")
    for what, value in {
        "status": lambda path: {path: 500},
        "redirect": lambda path: {path: f"/moved{path}"},
        "huge": lambda path: [path],
        "garbage": lambda path: [path],
        "slow": lambda path: [path],
    }.items()
} | {
    "another issuer": {"discovery": {"issuer": "https://accounts.example.com"}},
    "an issuer with a slash": {"discovery": {"issuer": "http://127.0.0.1/"}},
    "keys in the clear": {"discovery": {"jwks_uri": EXAMPLE}},
    "tokens in the clear": {"discovery": {"token_endpoint": EXAMPLE}},
    "sign-in in the clear": {"discovery": {"authorization_endpoint": EXAMPLE}},
    "a script to sign in with": {"discovery": {"authorization_endpoint": "javascript:alert(1)"}},
    "keys in a file": {"discovery": {"jwks_uri": "file:///etc/passwd"}},
    "no keys": {"discovery": {"jwks_uri": None}},
    "keys that are none": {"discovery": {"jwks_uri": 7}},
    "the secret is wrong": {"status": {"/token": 401}},
    "no ID token": {"answer": {"id_token": None}},
    "an ID token that is none": {"answer": {"id_token": 7}},
}


@pytest.mark.parametrize("mode", BROKEN.values(), ids=BROKEN.keys())
async def test_a_provider_gone_wrong_is_no_defect_of_ours(
    live: Live, provider: Obedient, mode: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    known(live).timeout = aiohttp.ClientTimeout(total=1 if "slow" in mode else 30)
    before = await written(live)
    provider.mode(**mode)
    async with Browser(live) as browser:
        begun = await browser.api.get(f"{PATHS[Kind.CUSTOMER]}/start")
        if begun.status_code == 303:
            callback = await browser.at_provider(begun.headers["location"])
            begun = await browser.back(callback)
    assert code(begun) == FAILED
    assert ("TimeoutError" in caplog.text) == ("slow" in mode)  # what is huge ends by its size
    assert await written(live) == before
    provider.mode()
    known(live).timeout = oidc_provider.TIMEOUT
    assert (await sign_in(live)).status_code == 200  # nothing wrong was kept


def test_a_provider_far_away_cannot_send_us_to_this_machine() -> None:
    far = Provider("https://accounts.example.com", CLIENT, SECRET, "", "openid")
    near = Provider("http://127.0.0.1:9", CLIENT, SECRET, "", "openid")
    assert not far.may_call("http://127.0.0.1:8000/token")
    assert near.may_call("http://127.0.0.1:8000/token")
    assert far.may_call("https://login.example.com/token")


async def test_no_transaction_is_open_and_no_more_than_a_few_wait(
    live: Live, provider: Obedient
) -> None:
    provider.mode(slow=["/token"])
    known(live).timeout = aiohttp.ClientTimeout(total=60)
    async with Browser(live) as browser:
        callback = await browser.at_provider(await browser.start())
        waiting = asyncio.create_task(browser.back(callback))
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(provider.seen, "/token"):
                assert not waiting.done()
        [row] = await rows(
            live,
            "select count(*) from pg_stat_activity where xact_start is not null "
            "and datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'",
        )
        assert row["count"] == 0
        known(live)._calls = oidc_provider.CALLS_AT_ONCE
        busy = await sign_in(live)
        assert code(busy) == (503, "accounts.oidc_busy")
        assert busy.headers["retry-after"] == "5"
        waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_link_opens_nothing_in_another_browser(live: Live) -> None:
    """A stolen link, and login CSRF: the victim's browser has no cookie, or one of its own flow."""
    async with Browser(live) as mallory, Browser(live) as victim:
        link = await mallory.at_provider(await mallory.start())
        assert code(await victim.back(link)) == BAD_FLOW
        await victim.start()
        assert code(await victim.back(link)) == BAD_FLOW
        own = await victim.at_provider(await victim.start())
        for state in (None, "", "x", "é", "\x00"):
            assert code(await victim.back(own, state=state)) == BAD_FLOW
        assert code(await victim.back(own, iss="https://evil.example.com")) == BAD_FLOW
        assert (await mallory.back(link)).status_code == 200  # none of which has used it up


async def test_a_link_is_good_once_even_if_the_code_is_not(live: Live, provider: Obedient) -> None:
    provider.mode(reuse=True)
    await rows(live, "delete from sessions")
    async with Browser(live) as browser:
        callback = await browser.at_provider(await browser.start())
        cookies = dict(browser.api.cookies)
        answers = await asyncio.gather(*(browser.back(callback) for _ in range(5)))
        browser.api.cookies.update(cookies)
        later = await browser.api.get(callback, headers={"Cookie": cookie_header(cookies)})
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    assert code(later) == BAD_FLOW
    assert provider.seen("/token") == 1
    assert len(await rows(live, "select from sessions")) == 1


def cookie_header(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


async def test_a_code_that_the_provider_does_not_take(live: Live) -> None:
    async with Browser(live) as browser:
        callback = await browser.at_provider(await browser.start())
        answer = await browser.back(callback, code="guessed")
        assert code(answer) == (401, "accounts.oidc_code_refused")
        callback = await browser.at_provider(await browser.start())
        assert code(await browser.back(callback, code=None)) == BAD_FLOW


async def test_a_stolen_code_is_worth_nothing_in_the_thiefs_own_flow(live: Live) -> None:
    """PKCE: the thief's verifier does not answer the challenge of Carl's flow."""
    async with Browser(live) as carl, Browser(live) as thief:
        stolen = httpx2.URL(await carl.at_provider(await carl.start())).params["code"]
        own = await thief.at_provider(await thief.start())
        answer = await thief.back(own, code=stolen)
    assert code(answer) == (401, "accounts.oidc_code_refused")


async def test_a_flow_of_customers_does_not_end_as_staff(live: Live) -> None:
    async with Browser(live) as browser:
        callback = await browser.at_provider(await browser.start())
        [(_, cookie)] = dict(browser.api.cookies).items()
        as_staff = callback.replace("/auth/oidc", "/admin/auth/oidc")
        named = {"Cookie": f"bursar_oidc_staff={cookie}"}
        assert (
            code(await browser.api.get(httpx2.URL(as_staff).raw_path.decode(), headers=named))
            == BAD_FLOW
        )
        body = {"continuation": cookie, "code": "123456"}
        assert code(await browser.api.post(f"{PATHS[Kind.STAFF]}/code", json=body)) == BAD_FLOW


@pytest.mark.parametrize("seconds", [60, -1])
@pytest.mark.parametrize("purpose", ["flow customer", "flow staff", "code"])
@pytest.mark.parametrize("client", [CLIENT, "another"])
async def test_only_a_fresh_cookie_of_ours_for_this_is_taken(
    live: Live, provider: Obedient, seconds: int, purpose: str, client: str
) -> None:
    flow = Flow("state", "nonce", "v" * 64)
    kept = {"flow": asdict(flow), "issuer": provider.issuer, "client_id": client}
    sealed = oidc.sealed(door(live), purpose, kept, seconds)
    good = (seconds, purpose, client) == (60, "flow customer", CLIENT)
    for cookie, sound in ((sealed, good), (sealed[:-4], False), ("é", False), ("", False)):
        headers = {"Cookie": f"bursar_oidc_customer={cookie}".encode()}
        async with live.api() as api:
            answer = await api.get(
                f"{PATHS[Kind.CUSTOMER]}/callback?code=x&state=state", headers=headers
            )
        assert code(answer) == ((401, "accounts.oidc_code_refused") if sound else BAD_FLOW)


async def test_saying_no_at_the_provider(live: Live, provider: Obedient) -> None:
    provider.mode(deny="access_denied")
    assert code(await sign_in(live)) == (403, "accounts.oidc_cancelled")
    provider.mode(deny="<script>alert(1)</script>")
    answer = await sign_in(live)
    assert code(answer) == FAILED
    assert "script" not in answer.text


async def test_attempts_from_one_address_are_counted(live: Live) -> None:
    limit = oidc.FROM_ADDRESS
    await sign_in(live)
    await rows(live, "update attempts set count = $1 where count = 2", limit.times)
    async with live.api() as api:
        answer = await api.get(f"{PATHS[Kind.CUSTOMER]}/start")
    assert code(answer) == (429, "auth.too_many_attempts")


async def test_nothing_secret_is_logged_or_shown(
    live: Live, provider: Obedient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets, shown = [SECRET], ""
    for mode in ({}, {"sign": "stranger"}, {"status": {"/token": 401}}, {"garbage": ["/jwks"]}):
        provider.mode(**mode)
        known(live)._kept.clear()
        async with Browser(live) as browser:
            location = await browser.start()
            callback = await browser.at_provider(location)
            secrets += [httpx2.URL(callback).params[name] for name in ("code", "state")]
            secrets += [*dict(browser.api.cookies).values(), httpx2.URL(location).params["nonce"]]
            answer = await browser.back(callback)
        if answer.status_code == 200:
            tokens = answer.json()
            secrets += [tokens["access_token"], tokens["refresh_token"]]
        else:
            shown += answer.text
    ours = [record for record in caplog.records if record.name.startswith("bursar")]
    said = shown + "\n".join(json.dumps(record.__dict__, default=str) for record in ours)
    assert "an ID token failed its check of" in said
    assert [secret for secret in secrets if secret in said] == []
