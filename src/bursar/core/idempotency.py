"""A POST sent again with its Idempotency-Key has one effect and one answer.

The answer is stored in the transaction of the effect: either both are there or neither is. A crash
before the commit leaves nothing, and the same key does the work then. An error that was raised
rolls everything back, so its key may be used again.

A key is claimed at the first statement of the transaction, and not before: what a route prepares
until then (a password is hashed) holds no connection that others wait for.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from fastapi import Request, Response
from sqlalchemy import Connection, LargeBinary, SmallInteger, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, SessionTransaction, mapped_column

from bursar.core import api_keys
from bursar.core.database import Base, Claim, ClaimedSession, Database, Role
from bursar.core.errors import BursarError
from bursar.core.seal import Seal

NOBODY = "nobody"
SHAPE = re.compile(r"[\x21-\x7e]{1,255}")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
KEPT_HEADERS = ("content-type", "location", "etag")
REPLAYED = {"Idempotent-Replayed": "true"}  # of an answer that was given before


class IdempotencyKey(Base):
    """The first answer to a key; whose it is says row-level security."""

    __tablename__ = "idempotency_keys"
    unaudited = True

    subject: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class BadKey(BursarError, status=422, code="idempotency.bad_key"):
    """An Idempotency-Key has 1 to 255 visible ASCII characters, and no API key in it."""


def operation_key(request: Request) -> str:
    """The caller's Idempotency-Key, or one that nobody has used."""
    return given_key(request) or str(uuid4())


def given_key(request: Request) -> str | None:
    """The caller's Idempotency-Key, if there is one."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not SHAPE.fullmatch(key):
        raise BadKey("An Idempotency-Key has 1 to 255 visible ASCII characters.")
    if api_keys.is_in(key):
        raise BadKey("This Idempotency-Key has an API key in it, which is kept nowhere.")
    return key


class KeyReused(BursarError, status=422, code="idempotency.key_reused"):
    """The key was used before with another request; a new request needs a new key."""

    @classmethod
    def now(cls) -> "KeyReused":
        return cls("This key was used before with another request; take a new one.")


class KeyInFlight(BursarError, status=409, code="idempotency.in_flight"):
    """The first request with this key is still at work; ask again in a moment."""

    @classmethod
    def now(cls) -> "KeyInFlight":
        return cls(
            "The first request with this key is still at work; ask again in a moment.",
            headers={"Retry-After": "1"},
        )


def own_key(endpoint: Endpoint) -> Endpoint:
    """Marks a route that keeps its Idempotency-Key itself: one that calls the outside between
    short transactions (its intent row has the key), or that streams its answer."""
    endpoint.own_key = True  # type: ignore[attr-defined]
    return endpoint


async def once(request: Request, handler: Callable[[Any], Awaitable[Response]]) -> Response:
    """Answers from the store, or does the work and stores its answer beside it.

    The route's guards have let the caller through: a stored answer too is only for who may ask.
    """
    claim: Claim = request.state.claim
    if not claim.subject and claim.role is not Role.DOOR:
        return await handler(request)  # nobody: the route answers 401, there is nothing to keep
    return await kept(request, handler, claim)


async def kept(
    request: Request, handler: Callable[[Any], Awaitable[Response]], claim: Claim
) -> Response:
    """The same for a route that works under another claim than its caller's."""
    subject, key = whose(request), operation_key(request)
    state = request.state
    content = await content_of(request)
    seal: Seal = request.app.state.seal
    database: Database = request.app.state.database
    if found := await database.fetch_one(claim, STORED, subject, key):
        return replay(Stored(**found), content, seal)  # before anything is prepared or counted
    try:
        async with database.transaction(claim, origin=state.origin) as db:
            db.info["claims_key"] = (subject, key)
            request.state.db = db  # the route works in this transaction
            response = await handler(request)
            db.add(record(subject, key, content, response, seal))
            return response
    except AnsweredBefore as answered:
        return replay(answered.stored, content, seal)


def whose(request: Request) -> str:
    """Whose keys these are, as the caller's claim says it (auth/actor.py). Who signs up is nobody
    yet; the request itself, password and all, is the proof."""
    claim: Claim = request.state.claim
    return claim.subject or NOBODY


STORED = """
  select fingerprint, status, headers, body from idempotency_keys where subject = $2 and key = $3
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """The first answer, as it is kept."""

    fingerprint: bytes
    status: int
    headers: dict[str, Any]
    body: bytes


class AnsweredBefore(Exception):
    """Another request with this key was faster; this one has done nothing."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored


async def content_of(request: Request) -> bytes:
    """What makes it this request: also what a CloudEvent says in headers. Only its mark is kept:
    there may be a password in it."""
    line = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    said = [name + b":" + value + b"\n" for name, value in request.scope["headers"]
            if name.startswith(b"ce-")]  # fmt: skip
    return hashlib.sha256(line + b"".join(said) + await request.body()).digest()


@event.listens_for(ClaimedSession, "after_begin")
def claim_key(session: Session, _: SessionTransaction, connection: Connection) -> None:
    """Locks the key until the transaction ends; two statements, so that the second one sees what
    was committed before the lock was ours."""
    if "claims_key" not in session.info:
        return
    subject, key = session.info.pop("claims_key")
    lock = text("select claim_idempotency_key(:subject, :key)")
    if not connection.scalar(lock, {"subject": subject, "key": key}):
        raise KeyInFlight.now()
    kept = [getattr(IdempotencyKey, field.name) for field in fields(Stored)]
    one = select(*kept).where(IdempotencyKey.subject == subject, IdempotencyKey.key == key)
    if row := connection.execute(one).one_or_none():
        raise AnsweredBefore(Stored(*row))


def replay(stored: Stored, content: bytes, seal: Seal) -> Response:
    if not seal.knows(content, stored.fingerprint):
        raise KeyReused.now()
    headers = {**stored.headers, **REPLAYED}
    return Response(seal.open(stored.body), status_code=stored.status, headers=headers)


FORGET = text("delete from idempotency_keys where subject = :subject")


async def forget(db: AsyncSession, subject: UUID) -> None:
    """Deletes every answer that somebody was given; for the worker alone."""
    await db.execute(FORGET, {"subject": str(subject)})


def record(
    subject: str, key: str, content: bytes, response: Response, seal: Seal
) -> IdempotencyKey:
    """Sealed, because an answer may hold a secret that is shown once."""
    body = getattr(response, "body", None)
    if not isinstance(body, bytes):
        raise TypeError(f"{response!r} streams: mark its route with @own_key")
    return IdempotencyKey(
        subject=subject,
        key=key,
        fingerprint=seal.mark(content),
        status=response.status_code,
        headers={name: value for name, value in response.headers.items() if name in KEPT_HEADERS},
        body=seal.close(body),
    )
