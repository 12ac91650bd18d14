"""Access tokens: signed for 15 minutes, checked in full once, then known until they expire."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import jwt

from bursar.auth.actor import Actor, Kind, Scope
from bursar.auth.permissions import StaffRole
from bursar.core.errors import BursarError

ALGORITHM = "HS256"
TYPE = "at+jwt"
ISSUER = "bursar"
LIFETIME_SECONDS = 15 * 60
LEEWAY_SECONDS = 5
REQUIRED = ["sub", "aud", "iss", "iat", "exp", "jti"]
KNOWN_AT_MOST = 10_000
LONGEST = 2048


class BadToken(BursarError, status=401, code="auth.bad_token", sqlstate="AU401"):
    """The access token is malformed, expired, or not signed by this installation."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


class Tokens:
    """Signs with the newest key and verifies with all of them, so that keys can be changed."""

    def __init__(self, secret_keys: Sequence[str]) -> None:
        derived = [derive(secret) for secret in secret_keys]
        self._keys = {key_id(key): key for key in derived}
        self._signing = derived[0]
        self._known: dict[str, tuple[Actor, float]] = {}

    def sign(self, actor: Actor, *, lifetime_seconds: int = LIFETIME_SECONDS) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": actor.kind,
            "sub": str(actor.id),
            "iat": now,
            "exp": now + lifetime_seconds,
            "jti": uuid4().hex,
        }
        if actor.role:
            claims["role"] = actor.role
        if actor.session:
            claims["sid"] = str(actor.session)
        if actor.impersonator:
            claims["act"] = {"sub": str(actor.impersonator)}  # RFC 8693
        if actor.scope is not Scope.FULL:
            claims["scope"] = actor.scope
        headers = {"kid": key_id(self._signing), "typ": TYPE}
        return jwt.encode(claims, self._signing, ALGORITHM, headers)

    def actor(self, token: str) -> Actor:
        """Who the token says it is, or BadToken; the second look at one is a dictionary's."""
        known = self._known.get(token)
        if known and known[1] > time.time():
            return known[0]
        self._known.pop(token, None)
        actor, expires_at = self._verify(token)
        if len(self._known) >= KNOWN_AT_MOST:
            self._known.clear()  # rare, and each comes back at the cost of one check
        self._known[token] = actor, expires_at
        return actor

    def _verify(self, token: str) -> tuple[Actor, float]:
        if len(token) > LONGEST:
            raise BadToken("The access token is malformed.")
        try:
            claims = jwt.decode(
                token,
                self._key_of(jwt.get_unverified_header(token)),
                algorithms=[ALGORITHM],
                audience=[Kind.CUSTOMER, Kind.STAFF],
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": REQUIRED, "strict_aud": False},
            )
            return actor_of(claims), float(claims["exp"])
        except jwt.ExpiredSignatureError:
            raise BadToken("The access token has expired; refresh it or sign in.") from None
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise BadToken("The access token is not valid; sign in again.") from None

    def _key_of(self, header: dict[str, object]) -> bytes:
        if header.get("typ") != TYPE or "crit" in header:
            raise jwt.InvalidTokenError("not an access token of ours")
        key = self._keys.get(str(header.get("kid")))
        if key is None:
            raise jwt.InvalidTokenError("signed with a key that is not ours")
        return key


def derive(secret: str) -> bytes:
    """A key of its own for tokens: the same secret also makes the passwords of the login roles."""
    return hmac.new(secret.encode(), b"access tokens", hashlib.sha256).digest()


def key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:8]


def actor_of(claims: dict[str, Any]) -> Actor:
    kind = Kind(claims["aud"])
    return Actor(
        kind,
        UUID(claims["sub"]),
        StaffRole(claims["role"]) if kind is Kind.STAFF else None,
        session=UUID(claims["sid"]) if "sid" in claims else None,
        impersonator=UUID(claims["act"]["sub"]) if "act" in claims else None,
        scope=Scope(claims.get("scope", Scope.FULL)),
    )
