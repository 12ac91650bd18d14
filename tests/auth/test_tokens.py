"""Access tokens: only ours, only fresh, only of the kind that was asked for."""

import base64
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import jwt
import pytest

from bursar.auth.actor import Actor, Kind, Scope
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
HEADER = {"alg": ALGORITHM, "kid": key_id(KEY), "typ": TYPE}
SESSION = uuid4()


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
    return signed(encoded({**HEADER, **(headers or {})}), encoded(claims), key)


def signed(header: str, claims: str, key: bytes = KEY, algorithm: str = "sha256") -> str:
    signature = hmac.digest(key, f"{header}.{claims}".encode(), algorithm)
    return f"{header}.{claims}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def encoded(part: dict[str, Any]) -> str:
    """By hand: PyJWT refuses to write what a forger would write."""
    return raw(json.dumps(part))


def raw(part: str) -> str:
    return base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")


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
        forged(sub=7),
        forged(sub=["x"]),
        forged(sub=""),
        forged(aud=[]),
        forged(aud={}),
        forged(aud=True),
        forged(role=7),
        forged(role=["owner"]),
        forged(role={}),
        forged(role=""),
        forged(jti=7),
        forged(iss=["bursar"]),
        forged(iss=""),
        forged(exp=True),
        forged(exp=-1),
        forged(exp="Infinity"),
        forged(exp=float("inf")),
        forged(exp=float("-inf")),
        forged(exp=float("nan")),
        forged(exp=[]),
        forged(iat="yesterday"),
        forged(iat=float("nan")),
        forged(iat={}),
        forged(nbf="now"),
        forged(nbf=float("inf")),
        forged(sid="x"),
        forged(sid=7),
        forged(sid=""),
        forged(sid=[]),
        forged(sid={}),
        forged(sid=False),
        forged(act="x"),
        forged(act=[]),
        forged(act={}),
        forged(act=7),
        forged(act={"sub": None}),
        forged(act={"sub": 7}),
        forged(act={"sub": "root"}),
        forged(act={"sub": {"sub": "x"}}),
        forged(scope="everything"),
        forged(scope=""),
        forged(scope=7),
        forged(scope=["full"]),
        forged(scope={}),
        forged({"typ": None}),
        forged({"typ": 7}),
        forged({"typ": ["at+jwt"]}),
        forged({"crit": None}),
        forged({"crit": ["b64"], "b64": False}),
        forged({"b64": False}),
        forged({"kid": ["x"]}),
        forged({"kid": {}}),
        forged({"kid": key_id(KEY).upper() + "\n"}),
        forged({"kid": "../../../dev/null"}),
        forged({"alg": ["HS256"]}),
        forged({"alg": 7}),
        forged({"alg": None}),
        forged({"alg": "hs256"}),
        forged({"x": "x" * 3000}),
        forged(x="x" * 3000),
        forged().replace(".", "..", 1),
        forged() + ".x",
        forged() + "\n",
        " " + forged(),
        forged().replace(".", "\u2024"),
        "eyJ\ud800.x.y",
        "." * 2048,
        "[" * 2048,
        raw("[" * 700) + ".x.y",
        raw('{"a":' * 300) + ".x.y",
        raw("null") + ".x.y",
        raw("[]") + ".x.y",
        raw("7") + ".x.y",
        signed(raw(json.dumps(HEADER)), raw("[]")),
        signed(raw(json.dumps(HEADER)), raw("null")),
        signed(raw(json.dumps(HEADER)), raw("7")),
        signed(raw(json.dumps(HEADER)), raw('"x"')),
        signed(raw(json.dumps(HEADER)), raw("[" * 700)),
        signed(raw(json.dumps(HEADER)), raw('{"exp":' + "9" * 1000 + "}")),
        signed(raw(json.dumps(HEADER)), "\u00e9"),
        signed(raw(json.dumps(HEADER)), ""),
        forged(exp=10**400),
        forged(iat=10**400),
        forged(nbf=10**400),
        forged(exp=10**400, iat=0),
    ],
)
def test_everything_else_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(BadToken):
        tokens.actor(token)


ALGORITHMS = ["none", "None", "NONE", "nOnE", "HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_algorithms_are_refused(tokens: Tokens, algorithm: str) -> None:
    """Unsigned, signed as the one that we take, or rightly signed as the one that it names."""
    _, body, signature = forged().split(".")
    head = encoded({**HEADER, "alg": algorithm})
    strong = {"HS384": "sha384", "HS512": "sha512"}.get(algorithm, "sha256")
    right = signed(head, body, algorithm=strong)
    for token in (f"{head}.{body}.", f"{head}.{body}.{signature}", f"{head}.{body}", right):
        with pytest.raises(BadToken):
            tokens.actor(token)


def test_the_key_that_we_publish_nowhere_is_no_public_key(tokens: Tokens) -> None:
    """RS256 confusion: a token that names its own key, by value or by address."""
    for given in ({"jwk": {"kty": "oct", "k": "AA"}}, {"jku": "http://127.0.0.1/"}, {"x5c": ["x"]}):
        for key in (b"\x00", b""):
            with pytest.raises(BadToken):
                tokens.actor(forged(given, key=key))


def test_not_one_character_may_be_changed(tokens: Tokens) -> None:
    token = forged()
    last = len(token) - 1  # its last two bits are no part of the signature
    for place in range(last):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(BadToken):
            tokens.actor(changed)
    assert tokens.actor(token) == OLIVIA


def test_a_payload_cannot_be_put_under_another_signature(tokens: Tokens) -> None:
    mine, hers = tokens.sign(CARL).split("."), tokens.sign(OLIVIA).split(".")
    with pytest.raises(BadToken):
        tokens.actor(".".join([mine[0], hers[1], mine[2]]))
    with pytest.raises(BadToken):
        tokens.actor(".".join([hers[0], hers[1], mine[2]]))


def test_what_is_signed_with_the_secret_itself_is_refused(tokens: Tokens) -> None:
    for key in (NEW.encode(), b"", key_id(KEY).encode(), derive(OLD)):
        with pytest.raises(BadToken):
            tokens.actor(forged(key=key))


@pytest.mark.parametrize(
    "actor",
    [
        Actor(Kind.CUSTOMER, uuid4(), session=SESSION),
        Actor(Kind.CUSTOMER, uuid4(), session=SESSION, impersonator=OLIVIA.id, scope=Scope.READ),
        Actor(Kind.STAFF, uuid4(), StaffRole.SUPPORT, session=SESSION, scope=Scope.ENROL),
    ],
)
def test_session_impersonator_and_scope_come_back(tokens: Tokens, actor: Actor) -> None:
    assert tokens.actor(tokens.sign(actor)) == actor


def test_a_customer_has_no_role_whatever_the_token_says(tokens: Tokens) -> None:
    found = tokens.actor(forged(aud="customer", role="owner"))
    assert (found.kind, found.role) == (Kind.CUSTOMER, None)


LATER = ("nbf", 3, 30), ("iat", 3, 30)


def test_clocks_may_differ_by_the_leeway_and_no_more(tokens: Tokens) -> None:
    now = int(time.time())
    for claim, good, bad in (("exp", 2 - LEEWAY_SECONDS, -LEEWAY_SECONDS), *LATER):
        assert tokens.actor(forged(None, KEY, **{claim: now + good})) == OLIVIA
        with pytest.raises(BadToken):
            tokens.actor(forged(None, KEY, **{claim: now + bad}))


def test_an_expired_one_says_so(tokens: Tokens) -> None:
    with pytest.raises(BadToken, match="expired"):
        tokens.actor(forged(exp=int(time.time()) - 60))


def test_a_change_of_keys_signs_nobody_out() -> None:
    before, during, after = Tokens([OLD]), Tokens([NEW, OLD]), Tokens([NEW])
    token = before.sign(OLIVIA)
    assert during.actor(token) == OLIVIA
    assert after.actor(during.sign(OLIVIA)) == OLIVIA
    with pytest.raises(BadToken):
        before.actor(during.sign(OLIVIA))  # the new ones are signed with the new key
    with pytest.raises(BadToken):
        after.actor(token)


def test_a_known_token_still_expires(tokens: Tokens) -> None:
    token = forged(exp=int(time.time()) - LEEWAY_SECONDS + 5)  # for some seconds more
    assert tokens.actor(token) == OLIVIA
    deadline = time.monotonic() + 30
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
