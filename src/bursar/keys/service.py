"""The verbs of keys: make, change, rotate, revoke; each leaves its line in the audit trail.

A key itself is answered once, when it is made, and stands nowhere else.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.accounts.models import Status
from bursar.audit import service as audit
from bursar.core import etag
from bursar.core.errors import BursarError, InvalidInput
from bursar.keys import queries, rules, secret
from bursar.keys.models import ApiKey, KeyStatus

COPIED = ("user_id", "name", "scopes", "allowed_addresses", "per_second", "per_minute",
          "per_month", "expires_at")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """A new key with the secret, which nobody sees again."""

    row: ApiKey
    key: str


class TooManyKeys(BursarError, status=409, code="keys.too_many"):
    """You have as many keys as one customer may; revoke one first."""


class NotACustomer(BursarError, status=409, code="keys.not_a_customer"):
    """Whoever was suspended or has left gets no new key."""


async def make(db: AsyncSession, user_id: UUID, facts: dict[str, Any]) -> Made:
    """For a customer, by them."""
    user = await accounts.user(db, user_id)
    if user.status != Status.ACTIVE:
        raise NotACustomer("This account is not active, so it gets no key.")
    await demand_room(db, user_id)
    return await add(db, await checked(db, facts, service=False), user_id)


async def demand_room(db: AsyncSession, user_id: UUID) -> None:
    lock = func.hashtextextended(f"keys of {user_id}", 0)
    await db.execute(select(func.pg_advisory_xact_lock(lock)))
    if await queries.number_of_good(db, user_id) >= rules.MOST_KEYS:
        raise TooManyKeys(f"A customer has at most {rules.MOST_KEYS} keys that are good.")


async def make_service(db: AsyncSession, facts: dict[str, Any]) -> Made:
    """A credential for another service of the business; by staff alone."""
    return await add(db, await checked(db, facts, service=True, expiry="/expiresAt"), None)


async def checked(
    db: AsyncSession, facts: dict[str, Any], *, service: bool, expiry: str = "/expires_at"
) -> dict[str, Any]:
    """`expiry` is the pointer to it in the body: customers and staff write it differently."""
    if "scopes" in facts:
        facts["scopes"] = await rules.demand_scopes(db, facts["scopes"], service=service)
    if (facts.get("expires_at") or datetime.max.replace(tzinfo=UTC)) <= datetime.now(UTC):
        raise InvalidInput.at(expiry, "A key expires in the future, or never.", "in_the_past")
    if service and facts.get("per_month"):
        raise InvalidInput.at(
            "/perMonth",
            "Calls of a service cost no quota, so its key has none a month: limit it per second or "
            "per minute.",
            "not_for_services",
        )
    return facts


async def add(
    db: AsyncSession, facts: dict[str, Any], user_id: UUID | None, event: str = "keys.created"
) -> Made:
    key = secret.new()
    shown = {"start": key[: secret.SHOWN], "last_four": key[-4:]}
    values = {**facts, **shown, "user_id": user_id, "key_hash": secret.digest(key)}
    row = (await db.scalars(insert(ApiKey).values(values).returning(ApiKey))).one()
    await audit.record(db, event, "api_key", row.id, after=told(row))
    return Made(row, key)


def told(row: ApiKey) -> dict[str, Any]:
    """What the audit says of it."""
    names = (*COPIED, "status", "grace_until", "rotated_from")
    facts = {name: getattr(row, name) for name in names}
    return {**facts, "allowed_addresses": [str(each) for each in row.allowed_addresses]}


class KeyOver(BursarError, status=409, code="keys.over"):
    """The key was revoked, has expired, or was replaced by another one; make a new one."""


async def change(
    db: AsyncSession,
    key_id: UUID,
    facts: dict[str, Any],
    *,
    user_id: UUID | None = None,
    if_match: str | None = None,
    expiry: str = "/expires_at",
) -> ApiKey:
    """Changes what is given; felt by every process within a second."""
    row = await held(db, key_id, user_id, if_match)
    demand_alive(row)
    before = told(row)
    facts = await checked(db, facts, service=row.user_id is None, expiry=expiry)
    if row.user_id and row.standing == KeyStatus.EXPIRED and "expires_at" in facts:
        await demand_room(db, row.user_id)  # it becomes good again
    for name, value in facts.items():
        setattr(row, name, value)
    await db.flush()
    after = told(row)
    if before == after:
        audit.nothing_changed(db)
    else:
        await audit.record(db, "keys.changed", "api_key", row.id, before=before, after=after)
        await db.refresh(row)
    return row


def demand_alive(row: ApiKey) -> None:
    if row.status == KeyStatus.REVOKED or row.grace_until is not None:
        raise KeyOver("This key was revoked or replaced; make a new one.")


async def rotate(
    db: AsyncSession, key_id: UUID, *, grace: timedelta, user_id: UUID | None = None
) -> Made:
    """A new key with all that the old one may do; the old one goes on for the grace time."""
    old = await held(db, key_id, user_id, None)
    demand_alive(old)
    if old.standing == KeyStatus.EXPIRED:
        raise KeyOver("This key has expired: give it another expiry first, or make a new one.")
    if grace and old.user_id:  # both are good for a while
        await demand_room(db, old.user_id)
    facts = {name: getattr(old, name) for name in COPIED} | {"rotated_from": old.id}
    made = await add(db, facts, old.user_id, "keys.rotated")
    if grace:
        old.grace_until = datetime.now(UTC) + grace
    else:
        old.status, old.revoke_reason = KeyStatus.REVOKED, "rotated"
    await db.flush()
    return made


class NotAService(BursarError, status=409, code="keys.not_a_service"):
    """The key is a customer's: only they may see a new one in its place."""


async def rotate_service(db: AsyncSession, key_id: UUID, *, grace: timedelta) -> Made:
    if (await queries.key(db, key_id)).user_id is not None:
        raise NotAService("This key is a customer's; only they may see a new one in its place.")
    return await rotate(db, key_id, grace=grace)


async def revoke(
    db: AsyncSession,
    key_id: UUID,
    *,
    reason: str = "revoked",
    user_id: UUID | None = None,
    if_match: str | None = None,
) -> ApiKey:
    """Refused from now on, everywhere; once more changes nothing."""
    row = await held(db, key_id, user_id, if_match)
    if row.status == KeyStatus.REVOKED:
        audit.nothing_changed(db)
        return row
    await end(db, row, reason)
    await db.refresh(row)
    return row


async def end(db: AsyncSession, row: ApiKey, reason: str, **more: Any) -> None:
    """Of one that is active and locked; `more` stands in the audit trail beside the reason."""
    row.status, row.revoke_reason = KeyStatus.REVOKED, reason
    await db.flush()
    before, after = {"status": KeyStatus.ACTIVE}, {"status": KeyStatus.REVOKED, "reason": reason}
    await audit.record(db, "keys.revoked", "api_key", row.id, before=before, after=after | more)


async def held(
    db: AsyncSession, key_id: UUID, user_id: UUID | None, if_match: str | None
) -> ApiKey:
    """With it all of its line that are good are locked, in one order: their limits are one."""
    its_line = select(ApiKey.line_id).where(ApiKey.id == key_id).scalar_subquery()
    good = or_(ApiKey.status == KeyStatus.ACTIVE, ApiKey.id == key_id)
    query = select(ApiKey).where(ApiKey.line_id == its_line, good).order_by(ApiKey.id)
    query = query.with_for_update().execution_options(populate_existing=True)
    row = next((each for each in await db.scalars(query) if each.id == key_id), None)
    if row is None or (user_id is not None and row.user_id != user_id):
        raise queries.nothing()
    etag.check(if_match, row.version)
    return row
