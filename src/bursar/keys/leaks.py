"""Whoever finds a key in a public place reports it here, and it is revoked at once.

The format is that of GitHub's secret scanning partner program, whose requests are signed. Where the
public key of the scanner stands in the settings, an unsigned report is refused. Without it the
proof is the key itself: who shows all of it may end it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import AdminUser, StaffStatus, User
from bursar.audit import service as audit
from bursar.auth.permissions import StaffRole
from bursar.core.errors import BursarError
from bursar.keys import secret
from bursar.keys.models import ApiKey, KeyStatus
from bursar.keys.service import end
from bursar.system import queries as system
from bursar.system.catalogue import setting

PLACE_LENGTH = 200
MOST_OWNERS = 20


def public_key(pem: str) -> EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("is no public key in PEM of a pair on the curve P-256")
    return key


def readable(pem: str) -> str:
    """Or every report would be refused from then on, the scanner's too."""
    if pem:
        public_key(pem)
    return pem


LEAKS_PUBLIC_KEY = setting(
    "leaks_public_key",
    str,
    "",
    "The public key (PEM, P-256) of the secret scanner that reports leaked API keys; with it, "
    "reports without its signature are refused.",
    check=readable,
    max_length=2000,
)


class BadSignature(BursarError, status=403, code="keys.bad_signature"):
    """The report is not signed by the scanner whose public key is in the settings."""


async def demand_signature(db: AsyncSession, body: bytes, signature: str | None) -> None:
    pem = await system.value(db, LEAKS_PUBLIC_KEY)
    if not pem:
        return
    try:
        given = base64.b64decode(signature or "", validate=True)
        public_key(pem).verify(given, body, ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise BadSignature("This report does not have the signature of our scanner.") from None


@dataclass(frozen=True, slots=True)
class Report:
    """A text that may be a key of ours, and where it was found."""

    token: str
    place: str | None


async def revoke(db: AsyncSession, reports: Sequence[Report]) -> list[bool]:
    """Ends each key that is one, tells its owner, and answers which were ours."""
    tokens = [report.token.strip() for report in reports]  # it may have been cut out with a blank
    digests = [secret.digest(each) if secret.is_sound(each) else b"" for each in tokens]
    query = select(ApiKey, ApiKey.key_hash).where(ApiKey.key_hash.in_({*digests} - {b""}))
    query = query.order_by(ApiKey.id).with_for_update(of=ApiKey)
    found = {digest: row for row, digest in await db.execute(query)}
    places = dict(zip(digests, (report.place for report in reports), strict=True))
    for digest, row in found.items():
        if row.status == KeyStatus.ACTIVE:
            await revoke_one(db, row, (places[digest] or "")[:PLACE_LENGTH] or None)
    if not found:
        audit.nothing_changed(db)
    return [digest in found for digest in digests]


async def revoke_one(db: AsyncSession, row: ApiKey, place: str | None) -> None:
    await end(db, row, "leaked", found_at=place)
    for person in await answerable(db, row):
        await letters.tell(db, "key_leaked", person, key_name=row.name, masked=row.masked)


async def answerable(db: AsyncSession, row: ApiKey) -> Sequence[User | AdminUser]:
    """The customer whose key it is; of a service's the owners of the company, whose API stands
    still without it."""
    if row.user_id is None:
        active = (AdminUser.role == StaffRole.OWNER, AdminUser.status == StaffStatus.ACTIVE)
        query = select(AdminUser).where(*active).order_by(AdminUser.id)
        return (await db.scalars(query.limit(MOST_OWNERS))).all()
    user = await db.get(User, row.user_id)
    return [user] if user else []
