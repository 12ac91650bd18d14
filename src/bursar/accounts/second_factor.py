"""The second factor of staff: codes of an authenticator and recovery codes, each good once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from bursar.accounts.models import AdminUser, RecoveryCode
from bursar.audit import service as audit
from bursar.auth import totp
from bursar.auth.actor import Actor, Kind
from bursar.auth.door import Door
from bursar.auth.permissions import StaffRole
from bursar.core.errors import BursarError
from bursar.core.seal import Seal, SealBroken, Seals, look_at
from bursar.core.settings import Settings


class WrongCode(BursarError, status=401, code="accounts.wrong_code"):
    """The code is wrong, was used before, or is over; the authenticator shows the next one."""


class SecondFactorUnreadable(BursarError, status=409, code="accounts.second_factor_unreadable"):
    """The second factor cannot be read by this installation; an owner has to reset it."""


def wrong_code() -> WrongCode:
    """One sentence for all reasons: which one it was helps only who is guessing."""
    return WrongCode("The code is wrong or was used before; wait for the next one.")


@asynccontextmanager
async def misses_noted(door: Door, person_id: UUID) -> AsyncIterator[None]:
    """Around the transaction that uses a code up, and so rolls back when the code is wrong.

    Somebody who has the password and not the code is worth a line in the audit trail.
    """
    try:
        yield
    except WrongCode:
        async with door.transaction() as db:
            await audit.record(db, "staff.second_factor_failed", "staff", person_id)
        raise


async def use(db: AsyncSession, person: AdminUser, code: str, settings: Settings) -> None:
    """Uses the code up, or WrongCode.

    `person` is locked with the secrets loaded (sign_in.held): of two requests with one code the
    second waits for the first, and finds it used.
    """
    if not person.has_second_factor:
        raise wrong_code()
    if (recovery := totp.recovery_hash(code)) is not None:
        await use_recovery_code(db, person, recovery)
        return
    step = step_of(person.totp_secret, person, code, settings, last=person.totp_last_step)
    if step is None:
        raise wrong_code()
    person.totp_last_step = step
    if person.totp_secret and (renewed := seal(settings).renewed(person.totp_secret)):
        person.totp_secret = renewed  # so that the key before can be dropped some day


def step_of(
    sealed: bytes | None, person: AdminUser, code: str, settings: Settings, *, last: int | None
) -> int | None:
    """The step whose code this is; None where it is of none, or of one that was used."""
    if sealed is None:
        return None
    try:
        secret = opened(sealed, person.id, settings)
    except SealBroken:
        raise SecondFactorUnreadable(
            "Your second factor was sealed with a secret key that is gone: sign in with a recovery "
            "code, or ask an owner to reset it."
        ) from None
    return totp.matching_step(secret, code, last, datetime.now(UTC))


def closed(secret: str, person_id: UUID, settings: Settings) -> bytes:
    """With the person inside: a secret that is copied to another row opens nothing there."""
    return seal(settings).close(f"{person_id} {secret}".encode())


def opened(sealed: bytes, person_id: UUID, settings: Settings) -> str:
    whose, _, secret = seal(settings).open(sealed).decode().partition(" ")
    if whose != str(person_id):
        raise SealBroken("This second factor was sealed for another member of staff.")
    return secret


def seal(settings: Settings) -> Seal:
    return Seal(settings.secret_keys, "second factor")


SEALED = (AdminUser.totp_secret, AdminUser.totp_pending)


async def renew_all(db: AsyncSession, settings: Settings) -> int:
    """Seals with the newest key what an older one has sealed, so that the older can be dropped;
    how many those were. What no key opens stays as it is. As the door."""
    newest, renewed = seal(settings), 0
    for person in await with_secrets(db, lock=True):
        for column in SEALED:
            with suppress(SealBroken):
                if again := newest.renewed(getattr(person, column.key) or b""):
                    setattr(person, column.key, again)
                    renewed += 1
    return renewed


async def with_secrets(db: AsyncSession, *, lock: bool = False) -> Sequence[AdminUser]:
    query = select(AdminUser).where(or_(*(column.is_not(None) for column in SEALED)))
    query = query.options(*map(undefer, SEALED)).order_by(AdminUser.id)
    return (await db.scalars(query.with_for_update() if lock else query)).all()


async def seals(db: AsyncSession, settings: Settings) -> Seals:
    """What would be lost with an older secret key, and what is already; as the door."""
    people = await with_secrets(db)
    kept = [value for each in people for column in SEALED if (value := getattr(each, column.key))]
    return look_at(seal(settings), kept)


async def use_recovery_code(db: AsyncSession, person: AdminUser, hashed: bytes) -> None:
    used = await db.execute(
        update(RecoveryCode)
        .where(
            RecoveryCode.admin_user_id == person.id,
            RecoveryCode.code_hash == hashed,
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=func.now())
        .returning(RecoveryCode.used_at)
    )
    if used.one_or_none() is None:
        raise wrong_code()
    after = {"left": await recovery_codes_left(db, person.id)}
    actor = Actor(Kind.STAFF, person.id, StaffRole(person.role))
    await audit.record(db, "staff.recovery_code_used", "staff", person.id, after=after, actor=actor)


async def recovery_codes_left(db: AsyncSession, person_id: UUID) -> int:
    unused = select(func.count()).where(
        RecoveryCode.admin_user_id == person_id, RecoveryCode.used_at.is_(None)
    )
    return await db.scalar(unused) or 0


async def replace_recovery_codes(db: AsyncSession, person: AdminUser) -> Sequence[str]:
    """New ones, told once; those from before are good no more."""
    codes = totp.new_recovery_codes()
    await forget_recovery_codes(db, person)
    rows = [{"admin_user_id": person.id, "code_hash": totp.recovery_hash(code)} for code in codes]
    await db.execute(insert(RecoveryCode), rows)
    return codes


async def forget_recovery_codes(db: AsyncSession, person: AdminUser) -> None:
    await db.execute(delete(RecoveryCode).where(RecoveryCode.admin_user_id == person.id))


async def forget(db: AsyncSession, person: AdminUser) -> None:
    """The person has none any more, not even one that was begun."""
    person.totp_secret = person.totp_pending = None
    person.totp_last_step = person.totp_confirmed_at = None
    await forget_recovery_codes(db, person)
