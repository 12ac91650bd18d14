"""Access tokens: only ours, only fresh, only of the kind that was asked for."""

import base64
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import jwt
import pytest

from bursar.auth.actor import Actor, Kind
from bursar.auth.permissions import GRANTED, Permission, StaffRole
from bursar.auth.tokens import (
    ALGORITHM,
    ISSUER,
    LEEWAY_SECONDS,
    TYPE,
    BadToken,
    Tokens,
    derive,
    key_id,
)
from tests.conftest import Live
from tests.world import CARL, OLIVIA, STAFF

OLD, NEW = "an old key of at least 32 characters", "a new key of at least 32 characters!"
KEY = derive(NEW)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens([NEW, OLD])


def forged(headers: dict[str, Any] | None = None, key: bytes = KEY, **changes: Any) -> str:
    """A token signed with the right key and wrong in one thing."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": "staff",
        "sub": str(OLIVIA.id),
        "iat": now,
        "exp": now + 60,
        "jti": "x",
        "role": "owner",
    }
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    header = {"alg": ALGORITHM, "kid": key_id(KEY), "typ": TYPE, **(headers or {})}
    signed = f"{encoded(header)}.{encoded(claims)}"
    signature = hmac.digest(key, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def encoded(part: dict[str, Any]) -> str:
    """By hand: PyJWT refuses to write what a forger would write."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_the_good_one_is_good(tokens: Tokens) -> None:
    assert tokens.actor(forged()) == OLIVIA


@pytest.mark.parametrize("actor", [*STAFF, CARL])
def test_what_was_signed_comes_back(tokens: Tokens, actor: Actor) -> None:
    token = tokens.sign(actor)
    assert tokens.actor(token) == tokens.actor(token) == actor


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "ключ",
        "x" * 5000,
        forged(key=derive("somebody else's key of 32 characters")),
        forged({"kid": "00000000"}),
        forged({"kid": None}),
        forged({"kid": 7}),
        forged({"typ": "JWT"}),
        forged({"crit": ["exp"]}),
        forged({"crit": []}),
        forged(aud="bursar-refresh"),
        forged(aud=["staff", "customer"]),
        forged(aud="key"),
        forged(aud="system"),
        forged(aud="nobody"),
        forged(aud=None),
        forged(iss="somebody"),
        forged(iss=None),
        forged(exp=None),
        forged(iat=None),
        forged(jti=None),
        forged(sub=None),
        forged(sub="root"),
        forged(role=None),
        forged(role="emperor"),
        forged(exp=int(time.time()) - 60),
        forged(nbf=int(time.time()) + 60),
        forged(iat=int(time.time()) + 60),
        forged(exp="tomorrow"),
    ],
)
def test_everything_else_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(BadToken):
        tokens.actor(token)


def test_alg_none_and_other_algorithms_are_refused(tokens: Tokens) -> None:
    head, body, signature = forged().split(".")
    for algorithm in ("none", "None", "HS384", "RS256"):
        text = encoded({"alg": algorithm, "kid": key_id(KEY), "typ": TYPE})
        for end in ("", signature):
            with pytest.raises(BadToken):
                tokens.actor(f"{text}.{body}.{end}")
    with pytest.raises(BadToken):
        tokens.actor(f"{head}.{body}.{signature[:-2]}AA")


def test_a_change_of_keys_signs_nobody_out() -> None:
    before, during, after = Tokens([OLD]), Tokens([NEW, OLD]), Tokens([NEW])
    token = before.sign(OLIVIA)
    assert during.actor(token) == OLIVIA
    assert after.actor(during.sign(OLIVIA)) == OLIVIA
    with pytest.raises(BadToken):
        after.actor(token)


def test_a_known_token_still_expires(tokens: Tokens) -> None:
    token = forged(exp=int(time.time()) - LEEWAY_SECONDS + 2)  # for about two seconds more
    assert tokens.actor(token) == OLIVIA
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert tokens.actor(token) == OLIVIA
        except BadToken:
            return
    pytest.fail("a token that was known outlived its expiry")


def test_the_memory_of_known_tokens_is_bounded(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.auth.tokens.KNOWN_AT_MOST", 10)
    for _ in range(50):
        tokens.actor(tokens.sign(Actor(Kind.CUSTOMER, uuid4())))
    assert len(tokens._known) <= 10


def test_a_token_does_not_hold_the_secret_itself() -> None:
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(Tokens([NEW]).sign(OLIVIA), NEW, [ALGORITHM], audience="staff", issuer=ISSUER)


async def test_a_bad_token_is_a_401_that_says_why(live_db: Live) -> None:
    async with live_db.api(Authorization="Bearer nonsense") as api:
        answer = await api.get("/api/v1/admin/settings")
        public = await api.get("/health")
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.bad_token")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert public.status_code == 200


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "bearer  ", "Token x", ""])
async def test_no_token_is_a_401_that_says_how(live_db: Live, header: str) -> None:
    async with live_db.api(Authorization=header) as api:
        answer = await api.get("/api/v1/admin/settings")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_customers_token_opens_no_staff_route(live_db: Live) -> None:
    async with live_db.api(CARL) as api:
        answer = await api.get("/api/v1/admin/settings")
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.not_allowed")


def test_only_owner_and_administrator_have_everything() -> None:
    full = {role for role, granted in GRANTED.items() if granted == frozenset(Permission)}
    assert full == {StaffRole.OWNER, StaffRole.ADMINISTRATOR}
    assert set(GRANTED) == set(StaffRole)
