"""A member of staff adds, changes and removes their second factor; an owner takes it from another.

A new one is pending until a code of it was shown, and the one before is good until then. Whoever
adds one ends every other session: they were opened without it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import second_factor, staff
from bursar.accounts.models import AdminUser, StaffStatus
from bursar.accounts.recovery import prove_password
from bursar.accounts.rules import STAFF_SECOND_FACTOR
from bursar.accounts.second_factor import wrong_code
from bursar.accounts.sign_in import SecondFactorAsked, held, owner
from bursar.audit import service as audit
from bursar.auth import sessions, throttle, totp
from bursar.auth.actor import Actor, Kind, Scope
from bursar.auth.door import Door
from bursar.auth.models import Session
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import LIFETIME_SECONDS
from bursar.core.errors import BursarError, NotFound
from bursar.system import queries as system
from bursar.system.catalogue import COMPANY_NAME


class NoAccount(BursarError, status=403, code="accounts.no_account"):
    """The token is no account's: an operator has signed it, or the account has ended since."""


class NotBegun(BursarError, status=409, code="accounts.second_factor_not_begun"):
    """There is no second factor to confirm: begin with POST admin/auth/totp."""


class NoSecondFactor(BursarError, status=409, code="accounts.no_second_factor"):
    """The account has no second factor."""


class SecondFactorRequired(BursarError, status=409, code="accounts.second_factor_required"):
    """This installation asks staff for a second factor: set up another one in its place."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What goes into the authenticator, told once."""

    secret: str
    uri: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The second factor holds: recovery codes, told once, and a token that carries all of it."""

    recovery_codes: Sequence[str]
    access_token: str
    expires_in: int


async def begin(door: Door, password: str | None, code: str | None) -> Begun:
    """Asks for the password again, and for a code where there is a second factor already."""
    async with door.transaction() as db:
        has_one = (await own(db, door)).has_second_factor
    await prove_password(door, password)
    if has_one:
        if code is None:
            raise SecondFactorAsked("Send a code of your present second factor as well, as `code`.")
        await throttle.count(door.database, throttle.second_factor(owner(door.actor)))
    secret = totp.new_secret()
    async with codes_tried(door) as db:
        person = await own(db, door)
        if person.has_second_factor:
            await second_factor.use(db, person, code or "", door.settings)
        person.totp_pending = second_factor.closed(secret, person.id, door.settings)
        await audit.record(db, "staff.second_factor_begun", "staff", person.id)
        company = await system.value(db, COMPANY_NAME)
    await forgive(door)
    return Begun(secret, totp.uri(secret, account=person.email, issuer=company))


async def own(db: AsyncSession, door: Door) -> AdminUser:
    """The caller's account with its secrets, locked until the transaction ends."""
    person: AdminUser | None = await held(db, Kind.STAFF, owner(door.actor))
    if person is None or person.status != StaffStatus.ACTIVE:
        raise NoAccount("This token is of no active account; sign in as yourself.")
    return person


@asynccontextmanager
async def codes_tried(door: Door) -> AsyncIterator[AsyncSession]:
    async with second_factor.misses_noted(door, owner(door.actor)), door.transaction() as db:
        yield db


async def forgive(door: Door) -> None:
    """Whoever has shown the right code has not been guessing it."""
    await throttle.forget(door.database, throttle.second_factor(owner(door.actor)))


async def confirm(door: Door, code: str) -> Confirmed:
    """From now on signing in takes a code; this session counts as signed in with one."""
    await throttle.count(door.database, throttle.second_factor(owner(door.actor)))
    async with codes_tried(door) as db:
        person = await own(db, door)
        if person.totp_pending is None:
            raise NotBegun("There is no second factor to confirm; begin one first.")
        step = second_factor.step_of(person.totp_pending, person, code, door.settings, last=None)
        if step is None:
            raise wrong_code()
        person.totp_secret, person.totp_pending = person.totp_pending, None
        person.totp_last_step, person.totp_confirmed_at = step, func.now()
        codes = await second_factor.replace_recovery_codes(db, person)
        actor, seconds = await open_fully(db, door, person)
        await audit.record(db, "staff.second_factor_added", "staff", person.id)
    await forgive(door)
    return Confirmed(codes, door.tokens.sign(actor, lifetime_seconds=seconds), seconds)


async def open_fully(db: AsyncSession, door: Door, person: AdminUser) -> tuple[Actor, int]:
    """This session, and no other one, has shown the new second factor; and the seconds that a
    token of it may be good for."""
    here = door.actor.session
    await sessions.end_all(db, Kind.STAFF, person.id, "second_factor_added", except_=here)
    opened = update(Session).where(Session.id == here).values(scope=Scope.FULL)
    ends: datetime | None = await db.scalar(opened.returning(Session.expires_at))
    left = int((ends - datetime.now(UTC)).total_seconds()) if ends else LIFETIME_SECONDS
    actor = replace(door.actor, role=StaffRole(person.role), scope=Scope.FULL)
    return actor, max(1, min(LIFETIME_SECONDS, left))


async def remove(door: Door, password: str | None, code: str) -> None:
    """Takes both, so that neither a found telephone nor a stolen token is enough."""
    async with door.transaction() as db:
        await own_with_factor(db, door)
    await prove_password(door, password)
    await throttle.count(door.database, throttle.second_factor(owner(door.actor)))
    async with codes_tried(door) as db:
        person = await own_with_factor(db, door)
        if await system.value(db, STAFF_SECOND_FACTOR):
            raise SecondFactorRequired(
                "Staff need a second factor here; set up another one in its place."
            )
        await second_factor.use(db, person, code, door.settings)
        await second_factor.forget(db, person)
        await audit.record(db, "staff.second_factor_removed", "staff", person.id)
    await forgive(door)


async def own_with_factor(db: AsyncSession, door: Door) -> AdminUser:
    person = await own(db, door)
    if not person.has_second_factor:
        raise NoSecondFactor("Your account has no second factor.")
    return person


async def renew_recovery_codes(door: Door, code: str) -> Sequence[str]:
    """Ten new ones; those from before are good no more."""
    await throttle.count(door.database, throttle.second_factor(owner(door.actor)))
    async with codes_tried(door) as db:
        person = await own_with_factor(db, door)
        await second_factor.use(db, person, code, door.settings)
        codes = await second_factor.replace_recovery_codes(db, person)
        await audit.record(db, "staff.recovery_codes_renewed", "staff", person.id)
    await forgive(door)
    return codes


async def take_away(door: Door, member_id: UUID) -> AdminUser:
    """An owner helps somebody who has lost everything; they sign in anew, with the password."""
    actor = door.actor
    if actor.role is not StaffRole.OWNER:
        raise staff.AboveYou("Only an owner can take somebody's second factor away.")
    async with door.transaction() as db:
        await staff.wait_for_others(db)
        person: AdminUser | None = await held(db, Kind.STAFF, member_id)
        if person is None or person.status == StaffStatus.DELETED:
            raise NotFound("There is no such member of staff.")
        staff.refuse_own(actor, person)
        await staff.refuse_if_outdated(db, actor)
        if not person.has_second_factor:
            raise NoSecondFactor("This member of staff has no second factor.")
        await second_factor.forget(db, person)
        await sessions.end_all(db, Kind.STAFF, person.id, "second_factor_reset")
        await audit.record(db, "staff.second_factor_reset", "staff", person.id)
        await db.flush()
        await db.refresh(person)
    return person
