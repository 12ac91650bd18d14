"""Tokens for links in mails: each works once, for one purpose and one person, until it expires.

What is kept is their SHA-256, which is of no use to whoever reads it: the token itself has 256 bits
of chance and stands only in the link.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.errors import BursarError

TOKEN_BYTES = 32
TOKEN_CHARACTERS = 43


class Purpose(StrEnum):
    """What a token is good for, and for nothing else."""

    VERIFY_EMAIL = "verify_email"
    RESET = "reset"
    STAFF_RESET = "staff_reset"
    INVITATION = "invitation"
    FIRST_RUN = "first_run"


@dataclass(frozen=True, slots=True)
class Used:
    """What a token stood for: compare the payload with how things are now."""

    subject: UUID
    payload: dict[str, Any]


KEEP = text(
    "select keep_one_time_token(:hash, :purpose, :subject, :payload, :lifetime)"
).bindparams(
    bindparam("subject", type_=Uuid),
    bindparam("payload", type_=JSONB),
    bindparam("lifetime", type_=INTERVAL),
)


async def make(
    db: AsyncSession,
    purpose: Purpose,
    subject: UUID,
    lifetime: timedelta,
    payload: dict[str, Any] | None = None,
) -> str:
    """A new token; one made before for the same purpose and subject does not work any more.

    The payload says what it was made for, such as the e-mail address that it proves.
    """
    if lifetime <= timedelta(0):
        raise ValueError("a token lives for some time")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    values = {"hash": digest(token), "purpose": purpose, "subject": subject, "lifetime": lifetime}
    await db.execute(KEEP, {**values, "payload": payload or {}})
    return token


class BadOneTimeToken(BursarError, status=422, code="auth.bad_one_time_token"):
    """The link is used, expired, replaced by a newer one, or was never made; ask for a new one."""


# One statement: of two at the same moment the second waits for the first, and finds nothing.
USE = text(
    "delete from one_time_tokens"
    " where hash = :hash and purpose = :purpose and expires_at > now()"
    " returning subject, payload"
).columns(subject=Uuid, payload=JSONB)


async def use(db: AsyncSession, purpose: Purpose, token: str) -> Used:
    """Uses it up in the caller's transaction: rolled back, it is as good as before.

    Every reason to refuse it has the same answer; which one it was helps only who is guessing.
    """
    row = None
    if len(token) == TOKEN_CHARACTERS:
        row = (await db.execute(USE, {"hash": digest(token), "purpose": purpose})).one_or_none()
    if row is None:
        raise bad_token()
    return Used(row.subject, row.payload)


def bad_token() -> BadOneTimeToken:
    return BadOneTimeToken("This link is not valid any more; ask for a new one.")


FORGET = text("select forget_one_time_tokens(:subject, :purpose)").bindparams(
    bindparam("subject", type_=Uuid)
)


async def forget(db: AsyncSession, subject: UUID, purpose: Purpose | None = None) -> None:
    """Takes back what was made for this subject, or what is for one purpose; a customer their own.

    Subjects are told apart by their id alone: those of customers and staff are never the same.
    """
    await db.execute(FORGET, {"subject": subject, "purpose": purpose})


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
