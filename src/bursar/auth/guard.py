"""Every route names who may call it; the Actor is resolved once, before anything else happens."""

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Protocol

from fastapi import Depends
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from bursar.auth.actor import ANYBODY, Actor, Kind, Origin, Scope
from bursar.auth.endings import Endings
from bursar.auth.permissions import NotAllowed, Permission
from bursar.auth.scopes import KeyScope, MissingScope
from bursar.auth.tokens import BadToken, Tokens
from bursar.core.addresses import canonical
from bursar.core.errors import BursarError
from bursar.core.problems import recognise


class SignInNeeded(BursarError, status=401, code="auth.sign_in_needed"):
    """The route is for somebody who is signed in; send an access token."""


KEY_PREFIX = "bur_"  # of every API key; no access token begins like that


class Keyring(Protocol):
    """Who knows API keys: a domain above this one."""

    async def actor(self, secret: str, address: str | None) -> Actor:
        """Whose key it is, or BadToken."""


class Identify:
    """ASGI middleware: puts the Actor into the request's state; the guard tells of a bad token."""

    def __init__(self, app: ASGIApp, tokens: Tokens, endings: Endings, keyring: Keyring) -> None:
        self.app, self.tokens, self.endings, self.keyring = app, tokens, endings, keyring

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            state = scope.setdefault("state", {})
            token, where = bearer(scope), address(scope)
            if token is not None and token.startswith(KEY_PREFIX):
                actor, state["bad_token"] = await self.resolve_key(token, where)
            else:
                actor, state["bad_token"] = self.resolve(token)
            state["actor"], state["claim"] = actor, actor.claim
            state["origin"] = Origin(actor, where, state.get("request_id"))
        await self.app(scope, receive, send)

    async def resolve_key(self, secret: str, where: str | None) -> tuple[Actor, BursarError | None]:
        """No handler of FastAPI's is around this, so errors are told apart here as there; it is
        the guard that answers them."""
        try:
            return await self.keyring.actor(secret, where), None
        except Exception as error:
            if known := recognise(error):
                return ANYBODY, known
            raise

    def resolve(self, token: str | None) -> tuple[Actor, BadToken | None]:
        if token is None:
            return ANYBODY, None
        try:
            actor = self.tokens.actor(token)
        except BadToken as error:
            return ANYBODY, error
        if actor.session is not None and actor.session in self.endings:
            return ANYBODY, BadToken("The session of this token has ended; sign in again.")
        return actor, None


def bearer(scope: Connection) -> str | None:
    """What the caller shows: Authorization counts, X-API-Key where there is none."""
    key = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
        if name == b"x-api-key":
            key = value.decode("latin-1").strip()
    return key


def address(scope: Connection) -> str | None:
    """Where the caller is; the server has put in what a trusted proxy says (X-Forwarded-For)."""
    client = scope.get("client")
    return known_address(client[0]) if client else None


@lru_cache(maxsize=4096)
def known_address(text: str) -> str | None:
    """None for what is none, such as the path of a socket, or what somebody has made up."""
    try:
        return str(canonical(text))
    except ValueError:
        return None


SAFE = {"GET", "HEAD", "OPTIONS"}


class StepOwed(BursarError, status=403, code="auth.step_owed"):
    """The settings ask for one more step first: a verified e-mail address, or a second factor."""

    @classmethod
    def by(cls, actor: Actor) -> "StepOwed":
        if actor.kind is Kind.STAFF:
            return cls("Set up your second factor first: POST /api/v1/admin/auth/totp.")
        return cls("Verify your e-mail address first, by the link that we have mailed to you.")


class ReadOnly(BursarError, status=403, code="auth.read_only"):
    """You look at this customer's account as a member of staff, without leave to change it."""


class NotForOthers(BursarError, status=403, code="auth.not_for_others"):
    """Only the customer may do this, nobody in their name."""


class Guard(SecurityBase):
    """A dependency that lets one kind of caller through, and gives the route its Actor."""

    is_guard = True  # how core, which knows nothing of auth, finds it among dependencies

    def __init__(
        self,
        *kinds: Kind,
        permission: Permission | None = None,
        scopes: Collection[KeyScope] = (),
        in_person: bool = False,
        enrolling: bool = False,
        leaving: bool = False,
    ) -> None:
        self.kinds, self.permission, self.scopes = kinds, permission, scopes
        self.in_person, self.enrolling, self.leaving = in_person, enrolling, leaving
        self.model = BearerModel(bearerFormat="JWT")
        self.scheme_name = "access_token"

    async def __call__(self, request: HTTPConnection) -> Actor:
        actor: Actor = request.state.actor
        if actor.kind is Kind.NOBODY:
            raise challenge(request.state.bad_token)
        if actor.kind not in self.kinds:
            raise NotAllowed(f"This is for {' and '.join(self.kinds)} only.")
        if self.permission and actor.kind is Kind.STAFF and not actor.may(self.permission):
            raise NotAllowed(f"This needs the permission {self.permission}.")
        if actor.kind is Kind.KEY and actor.key_scopes.isdisjoint(self.scopes):
            raise MissingScope(f"This key needs the scope {' or '.join(self.scopes)}.")
        if actor.scope is not Scope.FULL or actor.impersonator:
            self.narrow(actor, request.scope.get("method", "GET"))
        return actor

    def narrow(self, actor: Actor, method: str) -> None:
        """What a token that carries less than its bearer may do is refused for."""
        if actor.scope is Scope.ENROL and not self.enrolling:
            raise StepOwed.by(actor)
        if actor.impersonator and self.in_person:
            raise NotForOthers("Only the customer may do this, nobody in their name.")
        if actor.scope is Scope.READ and method not in SAFE and not self.leaving:
            raise ReadOnly("You act as this customer to look, not to change anything.")


def challenge(bad_token: BursarError | None) -> BursarError:
    hint = {"WWW-Authenticate": "Bearer"}
    if bad_token is None:
        return SignInNeeded(
            "Sign in first: send Authorization: Bearer <access token>.", headers=hint
        )
    return bad_token  # or a key could not be looked up at the moment


class Everyone:
    """A dependency that says: this route is for everyone, signed in or not."""

    is_guard = True

    async def __call__(self, request: HTTPConnection) -> Actor:
        actor: Actor = request.state.actor
        return actor


def staff(permission: Permission, *, scope: KeyScope | None = None) -> Any:
    """For staff with this permission; with a scope also for services whose key has it."""
    kinds = (Kind.STAFF, Kind.KEY) if scope else (Kind.STAFF,)
    return Depends(Guard(*kinds, permission=permission, scopes=(scope,) if scope else ()))


def customer_or_staff(permission: Permission, *, scope: KeyScope | None = None) -> Any:
    """For customers, about what is theirs, and for staff with this permission, about anybody's;
    with a scope also for customers' keys that have it."""
    kinds = (Kind.CUSTOMER, Kind.STAFF, Kind.KEY) if scope else (Kind.CUSTOMER, Kind.STAFF)
    return Depends(Guard(*kinds, permission=permission, scopes=(scope,) if scope else ()))


def customer_or_key(*scopes: KeyScope) -> Any:
    """For customers, and for keys with one of these scopes."""
    return Depends(Guard(Kind.CUSTOMER, Kind.KEY, scopes=scopes))


def service(scope: KeyScope) -> Any:
    """For other services of the business, by a key of staff's making with this scope."""
    return Depends(Guard(Kind.KEY, scopes=(scope,)))


customer: Any = Depends(Guard(Kind.CUSTOMER))
customer_enrolling: Any = Depends(Guard(Kind.CUSTOMER, enrolling=True))
customer_leaving: Any = Depends(Guard(Kind.CUSTOMER, enrolling=True, leaving=True))
in_person: Any = Depends(Guard(Kind.CUSTOMER, in_person=True))
in_person_enrolling: Any = Depends(Guard(Kind.CUSTOMER, in_person=True, enrolling=True))
staff_member: Any = Depends(Guard(Kind.STAFF, enrolling=True))
everyone: Any = Depends(Everyone())
