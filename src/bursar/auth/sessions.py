"""Sessions: who is signed in, and the one refresh token that keeps each of them alive.

A refresh token is good once: `rotate` gives the next one for it. One that was used before tells
that two parties hold it, the owner and a thief, and nobody can say which is which; so it ends the
session for both. Of any number that race with one token, the first is answered and the second ends
the session; after that neither the token nor what the first one was given is good for anything.

That is also so for a client whose answer was lost on the way: it signs in again.
"""

import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_bytes
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.actor import Actor, Kind, Origin, Scope
from bursar.auth.models import Session
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import LIFETIME_SECONDS
from bursar.core.api_keys import masked
from bursar.core.database import DOOR, Database
from bursar.core.errors import BursarError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A session expires when it was not renewed for so long, and in the end whatever was done."""

    idle: timedelta
    absolute: timedelta
    renewable: bool = True


LIFETIMES = {
    Kind.CUSTOMER: Lifetime(idle=timedelta(days=30), absolute=timedelta(days=90)),
    Kind.STAFF: Lifetime(idle=timedelta(hours=12), absolute=timedelta(hours=12)),
}
# One access token for the whole of it: whoever looks in as somebody else says so anew each hour.
IMPERSONATION = Lifetime(timedelta(hours=1), timedelta(hours=1), renewable=False)
LONGEST_ACCESS_SECONDS = max(LIFETIME_SECONDS, int(IMPERSONATION.absolute.total_seconds()))

MOST_AT_ONCE = 50  # live sessions of one person; one more ends the one that rested longest
KEPT = timedelta(days=30)  # after the end, for "was that me?"

USER_AGENT_LENGTH = 300
ADDRESS_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened or renewed, with what its holder gets; nobody sees it again."""

    session_id: UUID
    kind: Kind
    subject: UUID
    scope: Scope
    method: str
    impersonator: UUID | None
    created_at: datetime
    expires_at: datetime
    refresh_token: str  # empty where the session cannot be renewed

    def actor(self, role: StaffRole | None = None) -> Actor:
        return Actor(
            self.kind,
            self.subject,
            role,
            session=self.session_id,
            impersonator=self.impersonator,
            scope=self.scope,
        )

    @property
    def access_seconds(self) -> int:
        """How long its access token may be good for: never for longer than the session."""
        left = (self.expires_at - datetime.now(UTC)).total_seconds()
        return max(1, min(int(left), LIFETIME_SECONDS if self.refresh_token else int(left)))


ASKED = (  # in the order of open_session(), auth/sessions.sql
    "kind", "subject", "scope", "method", "impersonator", "address", "user_agent",
    "idle_seconds", "first", "absolute", "refresh_hash", "most",
)  # fmt: skip
TYPES = [bindparam(name, type_=Interval) for name in ("first", "absolute")]
OPEN = text(
    "select * from open_session(" + ", ".join(f":{name}" for name in ASKED) + ")"  # noqa: S608
).bindparams(*TYPES)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new session is to be, and the secret of its refresh token, which is never kept."""

    values: dict[str, Any]
    secret: bytes | None

    def opened(self, row: Any, secret_keys: Sequence[str]) -> Opened:
        secret = self.secret
        return opened(row, refresh_token(secret_keys, row["id"], secret) if secret else "")


def opening(
    kind: Kind,
    subject: UUID,
    *,
    method: str,
    address: str | None = None,
    user_agent: str | None = None,
    scope: Scope = Scope.FULL,
    impersonator: UUID | None = None,
    lifetime: Lifetime | None = None,
) -> Opening:
    lifetime = lifetime or (IMPERSONATION if impersonator else LIFETIMES[kind])
    secret = token_bytes(32) if lifetime.renewable else None
    values = {
        "kind": kind,
        "subject": subject,
        "scope": scope,
        "method": method,
        "impersonator": impersonator,
        "address": printable(address, ADDRESS_LENGTH),
        "user_agent": printable(user_agent, USER_AGENT_LENGTH),
        "idle_seconds": int(lifetime.idle.total_seconds()),
        "first": min(lifetime.idle, lifetime.absolute),
        "absolute": lifetime.absolute,
        "refresh_hash": digest(secret) if secret else None,
        "most": MOST_AT_ONCE,
    }
    return Opening(values, secret)


async def open(  # noqa: A001 - read as sessions.open
    db: AsyncSession, kind: Kind, subject: UUID, **facts: Any
) -> Opened:
    """For somebody who has just proved who they are, at the door (`auth_user`)."""
    asked = opening(kind, subject, **facts)
    row = (await db.execute(OPEN, asked.values)).mappings().one()
    return asked.opened(row, db.info["settings"].secret_keys)


def opened(row: Any, refresh: str) -> Opened:
    return Opened(
        row["id"],
        Kind(row["kind"]),
        row["subject"],
        Scope(row["scope"]),
        row["method"],
        row["impersonator"],
        row["created_at"],
        row["expires_at"],
        refresh,
    )


def printable(given: str | None, length: int) -> str | None:
    """What a caller says of itself, fit to be shown: no control characters, no API key, not
    without end."""
    if given is None:
        return None
    text = "".join(each for each in given[: 4 * length] if each.isprintable())
    return masked(text)[:length] or None


# The token: a version, the session, a secret, and a mark by which we know our own. So what is not
# ours is refused without the database, and what is ours but not the present one was used before.
PREFIX = "brt_"
VERSION = b"\x01"
TOKEN = re.compile(PREFIX + r"[A-Za-z0-9_-]{108}")
SECRET_AT, MARK_AT = 17, 49


def refresh_token(secret_keys: Sequence[str], session_id: UUID, secret: bytes) -> str:
    content = VERSION + session_id.bytes + secret
    return PREFIX + base64.urlsafe_b64encode(content + mark(secret_keys[0], content)).decode()


def read_refresh_token(secret_keys: Sequence[str], token: str) -> tuple[UUID, bytes]:
    """The session and the secret of a token that we made, with any of our keys."""
    if not TOKEN.fullmatch(token):
        raise bad_refresh_token()
    decoded = base64.urlsafe_b64decode(token.removeprefix(PREFIX))
    content, its_mark = decoded[:MARK_AT], decoded[MARK_AT:]
    ours = any(hmac.compare_digest(its_mark, mark(key, content)) for key in secret_keys)
    if not ours or content[:1] != VERSION:
        raise bad_refresh_token()
    return UUID(bytes=content[1:SECRET_AT]), content[SECRET_AT:]


def mark(secret_key: str, content: bytes) -> bytes:
    """By a key of its own, as access tokens have one."""
    key = hmac.digest(secret_key.encode(), b"refresh tokens", "sha256")
    return hmac.digest(key, content, "sha256")


def digest(secret: bytes) -> bytes:
    """What is kept of a secret: it is random and long, so nobody can guess it back."""
    return hashlib.sha256(secret).digest()


class BadRefreshToken(BursarError, status=401, code="auth.bad_refresh_token"):
    """The refresh token is not good, or not any more; sign in again."""


def bad_refresh_token() -> BadRefreshToken:
    """One sentence for all reasons: which one it was helps nobody but a thief."""
    return BadRefreshToken("The refresh token is not good any more; sign in again.")


# One statement, so that nobody comes between the look and the change. Whoever waited for the row
# sees what the one before made of it: PostgreSQL works out the cases again on the newest version.
ROTATE = text("""
  update sessions set
    refresh_hash = case when refresh_hash = :presented then cast(:successor as bytea) end,
    ended_at = case when refresh_hash = :presented then null else now() end,
    end_reason = case when refresh_hash = :presented then null else 'replayed' end,
    expires_at = case when refresh_hash = :presented
      then least(now() + make_interval(secs => idle_seconds), renewable_until)
      else expires_at end,
    last_used_at = now(),
    generation = generation + 1,
    address = coalesce(cast(:address as varchar), address)
  where id = :id and kind = :kind and refresh_hash is not null
    and ended_at is null and expires_at > now()
  returning id, kind, subject, scope, method, impersonator, created_at, expires_at,
    ended_at is not null as replayed
""")

WithSession = Callable[[AsyncSession, Opened], Awaitable[None]]


async def rotate(
    database: Database,
    token: str,
    kind: Kind,
    *,
    origin: Origin | None = None,
    on_renewal: WithSession | None = None,
    on_replay: WithSession | None = None,
) -> Opened:
    """The next refresh token for this one, or BadRefreshToken, whatever the reason.

    In a transaction of its own: the end of a replayed session stands although the answer is an
    error. `on_renewal` looks at the person in it: whatever keeps it from the answer leaves the
    token that was sent as good as it was. `on_replay` is for the audit of a session that ended.
    """
    keys = database.settings.secret_keys
    session_id, presented = read_refresh_token(keys, token)
    secret = token_bytes(32)
    values = {
        "id": session_id,
        "kind": kind,
        "presented": digest(presented),
        "successor": digest(secret),
        "address": printable(origin.address, ADDRESS_LENGTH) if origin else None,
    }
    async with database.transaction(DOOR, origin=origin) as db:
        row = (await db.execute(ROTATE, values)).mappings().one_or_none()
        if row and row["replayed"]:
            log.warning("session %s ended: a used refresh token came again", session_id)
            if on_replay:
                await on_replay(db, opened(row, ""))
        elif row and on_renewal:
            await on_renewal(db, opened(row, ""))
    if row is None or row["replayed"]:
        raise bad_refresh_token()
    return opened(row, refresh_token(keys, session_id, secret))


END = text("""
  update sessions set ended_at = now(), end_reason = :reason
  where id = :id and ended_at is null
    and (cast(:subject as uuid) is null or subject = :subject)
  returning id
""")


async def end(
    db: AsyncSession, session_id: UUID, reason: str, *, subject: UUID | None = None
) -> bool:
    """False where it is nobody's, somebody else's or over already.

    Its access tokens are refused everywhere as soon as this commits (auth/endings.py).
    """
    values = {"id": session_id, "reason": reason, "subject": subject}
    return await db.scalar(END, values) is not None


# Locked in one order: two that end the same sessions never wait in a circle.
END_ALL = text("""
  update sessions set ended_at = now(), end_reason = :reason where id in (
    select id from sessions
    where ended_at is null and id is distinct from cast(:except as uuid)
      and ((kind = :kind and subject = :subject) or (:kind = 'staff' and impersonator = :subject))
    order by id for update
  )
  returning id
""")


async def end_all(
    db: AsyncSession, kind: Kind, subject: UUID, reason: str, *, except_: UUID | None = None
) -> int:
    """How many ended; for staff also those in which they look in as a customer."""
    values = {"kind": kind, "subject": subject, "reason": reason, "except": except_}
    return len((await db.execute(END_ALL, values)).all())


END_IMPERSONATIONS = text("""
  update sessions set ended_at = now(), end_reason = 'signed_out'
  where impersonator = :impersonator and ended_at is null
""")


async def end_impersonations(db: AsyncSession, impersonator: UUID) -> None:
    """Whoever signs out is not somebody else any more either."""
    await db.execute(END_IMPERSONATIONS, {"impersonator": impersonator})


async def of(db: AsyncSession, kind: Kind, subject: UUID) -> list[Session]:
    """The live ones, the one used last first; with those of staff who look in as this customer."""
    query = select(Session).where(
        Session.kind == kind,
        Session.subject == subject,
        Session.ended_at.is_(None),
        Session.expires_at > func.now(),
    )
    newest = query.order_by(Session.last_used_at.desc(), Session.id.desc()).limit(2 * MOST_AT_ONCE)
    return list(await db.scalars(newest.execution_options(populate_existing=True)))


FORGET = text("""
  update sessions set address = null, user_agent = null where kind = :kind and subject = :subject
""")


async def forget(db: AsyncSession, kind: Kind, subject: UUID) -> None:
    """Ends them all and forgets where somebody was; as the worker. `prune` takes the rest."""
    await end_all(db, kind, subject, "erased")
    await db.execute(FORGET, {"kind": kind, "subject": subject})


PRUNE = text("delete from sessions where expires_at < now() - :kept").bindparams(
    bindparam("kept", type_=Interval)
)


async def prune(db: AsyncSession) -> None:
    """Forgets what ended or expired a month ago; an end sets the expiry. As the worker."""
    await db.execute(PRUNE, {"kept": KEPT})
