"""Signing in, staying in and signing out: for customers and for staff, in one way.

A known and an unknown e-mail address cost the same work and get the same answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from bursar.accounts import emails, second_factor, strangers
from bursar.accounts.models import AdminUser, StaffStatus, Status, User
from bursar.accounts.rules import LOCK_AFTER, LOCK_FOR, STAFF_SECOND_FACTOR
from bursar.audit import service as audit
from bursar.auth import passwords, sessions, throttle
from bursar.auth.actor import Actor, Kind, Scope
from bursar.auth.door import Door
from bursar.auth.models import Session
from bursar.auth.permissions import StaffRole
from bursar.core.database import DOOR
from bursar.core.errors import BursarError
from bursar.system import queries as system

PEOPLE: dict[Kind, type[User] | type[AdminUser]] = {Kind.CUSTOMER: User, Kind.STAFF: AdminUser}
AREAS = {Kind.CUSTOMER: "users", Kind.STAFF: "staff"}  # how their actions are called in the audit
TARGETS = {Kind.CUSTOMER: "user", Kind.STAFF: "staff"}
NOBODY_ID = UUID(int=0)  # the failure of an unknown address writes as much as that of a known one

READABLE = [each.key for each in inspect(User).column_attrs if not each.deferred]
CREDENTIALS = {
    Kind.CUSTOMER: """
      select *, false as has_second_factor from users
      where lower(email) = $2 and status <> 'deleted'""",
    Kind.STAFF: """
      select id, password_hash, totp_confirmed_at is not null as has_second_factor from admin_users
      where lower(email) = $2 and status in ('active', 'suspended')""",
}
SEEN = ("version", "stored", "replace", "request_id", "forgiven")
LET_IN = "select * from let_in({})"
BY_NAME = text(LET_IN.format(", ".join(f":{name}" for name in (*SEEN, *sessions.ASKED))))
BY_NAME = BY_NAME.bindparams(*sessions.TYPES)
BY_PLACE = LET_IN.format(", ".join(f"${n + 2}" for n in range(len(SEEN) + len(sessions.ASKED))))


class WrongCredentials(BursarError, status=401, code="accounts.wrong_credentials"):
    """The e-mail address and the password do not belong together; nothing says which is wrong."""


class Locked(BursarError, status=423, code="accounts.locked"):
    """The password is right, but too many wrong ones came before; Retry-After says for how long."""


class Suspended(BursarError, status=403, code="accounts.suspended"):
    """The password is right, but the account is suspended; write to support."""


class SecondFactorAsked(BursarError, status=401, code="accounts.second_factor_asked"):
    """The password is right; send it again with `code`, from the authenticator or a recovery."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody who has come in, with what they need to stay."""

    person: Any  # a User or an AdminUser
    access_token: str
    refresh_token: str
    expires_in: int
    scope: Scope


async def sign_in(
    door: Door, kind: Kind, email: str, password: str, *, code: str | None = None
) -> SignedIn:
    """With a password, and for staff who have one with their second factor."""
    email = emails.typed(email)
    attempts = throttle.login(kind, email, door.origin.address)
    await throttle.count(door.database, attempts)
    decoys = await strangers.decoys(door.database, kind)
    found = await door.database.fetch_one(DOOR, CREDENTIALS[kind], email)
    stored = found["password_hash"] if found else None
    verdict = await passwords.verify(password, stored or decoys.of(email))
    if found is None or not verdict.right:
        await note_failure(door, kind, found["id"] if found else None)
        raise wrong()
    if found["has_second_factor"]:
        if code is None:
            raise SecondFactorAsked("Send the code of your authenticator as well, as `code`.")
        await throttle.count(door.database, throttle.second_factor(found["id"]))
        attempts = (*attempts, *throttle.second_factor(found["id"]))
    given = {"replace": verdict.replace, "forgiven": throttle.forgiven(door.database, attempts)}
    if kind is Kind.CUSTOMER:
        return await enter_at_once(door, found, given)
    return await enter_looking(door, kind, found, code, given)


async def enter_at_once(door: Door, found: Mapping[str, Any], given: Mapping[str, Any]) -> SignedIn:
    """A customer in one statement, unless anything has changed while the password was checked."""
    user = User(**{name: found[name] for name in READABLE if name != "is_active"})
    scope = scope_of_customer(user)
    asked = asked_for(door, Kind.CUSTOMER, user.id, "password", scope)
    seen = {"version": user.version, "stored": found["password_hash"], **given}
    seen |= {"request_id": door.origin.request_id, **asked.values}
    values = [seen[name] for name in (*SEEN, *sessions.ASKED)]
    row = await door.database.write_one(door.claim, BY_PLACE, *values)
    if row is None:
        return await enter_looking(door, Kind.CUSTOMER, found, None, given)
    user.last_login, user.is_active = row["created_at"], user.status == Status.ACTIVE
    return signed_in_as(door, Kind.CUSTOMER, user, asked.opened(row, door.settings.secret_keys))


async def enter_looking(
    door: Door,
    kind: Kind,
    found: Mapping[str, Any],
    code: str | None,
    given: Mapping[str, Any],
) -> SignedIn:
    """With the row in hand: a second factor is used up, and who is refused is told why."""
    async with second_factor.misses_noted(door, found["id"]), door.transaction() as db:
        person = await held(db, kind, found["id"])
        if person is None or person.password_hash != found["password_hash"]:
            raise wrong()  # it was changed while this one was checked
        if getattr(person, "has_second_factor", False) != found["has_second_factor"]:
            raise wrong()  # so was this: a second factor that is new now was not shown
        check_may_enter(person)
        if found["has_second_factor"]:
            await second_factor.use(db, person, code or "", door.settings)
        return await open_session(db, door, kind, person, method="password", given=given)


def wrong() -> WrongCredentials:
    return WrongCredentials("The e-mail address or the password is wrong.")


async def note_failure(door: Door, kind: Kind, person_id: UUID | None) -> None:
    """Counts it, and locks the account for a while at every tenth.

    Anybody can fail at the door as often as they are let: so that nobody fills the audit trail,
    which is for ever, it has only the locks of customers, and of staff each failure.
    """
    model: Any = PEOPLE[kind]
    attempts = model.login_attempts + 1
    async with door.transaction() as db:
        await db.execute(IN_NO_HURRY)
        counted = await db.scalar(
            update(model)
            .where(model.id == (person_id or NOBODY_ID))
            .values(
                login_attempts=attempts,
                locked_until=case(
                    (attempts % LOCK_AFTER == 0, func.now() + LOCK_FOR),
                    else_=model.locked_until,
                ),
            )
            .returning(model.login_attempts)
        )
        if counted and counted % LOCK_AFTER == 0:
            after = {"attempts": counted}
            await audit.record(db, f"{AREAS[kind]}.locked", TARGETS[kind], person_id, after=after)
        elif counted and kind is Kind.STAFF:
            await audit.record(db, "staff.sign_in_failed", "staff", person_id)
        else:
            audit.nothing_changed(db)


# A wait for the disk would tell a known address, which writes, from an unknown one; and a count
# that a crash takes back is nothing.
IN_NO_HURRY = text("select set_config('synchronous_commit', 'off', true)")


async def held(db: AsyncSession, kind: Kind, person_id: UUID) -> Any:
    """The person with what only the door may read, locked until the transaction ends."""
    model: Any = PEOPLE[kind]
    secrets = [undefer(model.password_hash), undefer(model.locked_until)]
    secrets.append(undefer(model.login_attempts))
    if kind is Kind.STAFF:
        secrets += [undefer(AdminUser.totp_secret), undefer(AdminUser.totp_pending)]
        secrets.append(undefer(AdminUser.totp_last_step))
    query = select(model).where(model.id == person_id).options(*secrets).with_for_update()
    return await db.scalar(query.execution_options(populate_existing=True))


def check_may_enter(person: Any) -> None:
    """Only told to somebody who has the right password, so it tells nobody anything new."""
    now = datetime.now(UTC)
    if person.locked_until and person.locked_until > now:
        seconds = int((person.locked_until - now).total_seconds()) + 1
        raise Locked(
            f"Too many wrong passwords: the account is locked for another {-(-seconds // 60)} "
            "minutes. A new password by e-mail opens it at once.",
            headers={"Retry-After": str(seconds)},
        )
    if person.status == Status.SUSPENDED:
        raise Suspended("This account is suspended; write to support.")
    if person.status in (Status.DELETED, StaffStatus.INVITED):
        raise wrong()


async def open_session(
    db: AsyncSession,
    door: Door,
    kind: Kind,
    person: Any,
    *,
    method: str,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> SignedIn:
    """Whoever has proved who they are, with their row held in this transaction."""
    await db.flush()
    asked = asked_for(door, kind, person.id, method, await scope_of(db, kind, person))
    seen = dict.fromkeys(SEEN) | {"request_id": door.origin.request_id, **given}
    row = (await db.execute(BY_NAME, seen | asked.values)).mappings().one_or_none()
    if row is None:
        raise wrong()  # not active: whoever calls has looked, but this is the one that decides
    db.info["audited"] = True
    await db.refresh(person)
    return signed_in_as(door, kind, person, asked.opened(row, door.settings.secret_keys))


def asked_for(
    door: Door, kind: Kind, person_id: UUID, method: str, scope: Scope
) -> sessions.Opening:
    address, agent = door.origin.address, door.user_agent
    return sessions.opening(
        kind, person_id, method=method, address=address, user_agent=agent, scope=scope
    )


def signed_in_as(door: Door, kind: Kind, person: Any, opened: sessions.Opened) -> SignedIn:
    role = StaffRole(person.role) if kind is Kind.STAFF else None
    token = door.tokens.sign(opened.actor(role), lifetime_seconds=opened.access_seconds)
    return SignedIn(person, token, opened.refresh_token, opened.access_seconds, opened.scope)


async def scope_of(db: AsyncSession, kind: Kind, person: Any) -> Scope:
    """Full, unless the person still owes a proof that the settings ask for."""
    if kind is Kind.CUSTOMER:
        return scope_of_customer(person)
    if person.totp_confirmed_at or not await system.value(db, STAFF_SECOND_FACTOR):
        return Scope.FULL
    return Scope.ENROL


def scope_of_customer(user: User) -> Scope:
    return Scope.ENROL if user.status == Status.PENDING else Scope.FULL


async def refresh(door: Door, kind: Kind, refresh_token: str) -> SignedIn:
    """A new pair for the old one, which is good no more; what has changed since is looked up."""
    person: Any = None
    scope = Scope.FULL

    async def look(db: AsyncSession, session: sessions.Opened) -> None:
        nonlocal person, scope
        person = await db.get(PEOPLE[kind], session.subject)
        if person is None or person.status not in (Status.ACTIVE, Status.PENDING):
            raise sessions.bad_refresh_token()
        scope = await scope_of(db, kind, person)

    rotated = await sessions.rotate(
        door.database,
        refresh_token,
        kind,
        origin=door.origin,
        on_renewal=look,
        on_replay=note_replay,
    )
    return signed_in_as(door, kind, person, replaced(rotated, scope=scope))


async def note_replay(db: AsyncSession, session: sessions.Opened) -> None:
    """Somebody has a copy of a refresh token: the thief, or the owner after the thief."""
    await audit.record(
        db,
        f"{AREAS[session.kind]}.refresh_token_replayed",
        TARGETS[session.kind],
        session.subject,
        after={"ended_session": str(session.session_id)},
        actor=Actor(session.kind, session.subject),
    )


async def sign_out(door: Door) -> None:
    """Ends the session of the token that was sent; a second time changes nothing."""
    actor = door.actor
    if actor.session is None or actor.id is None:
        return  # a token that an operator has signed by hand has no session
    async with door.transaction() as db:
        if actor.kind is Kind.STAFF:
            await sessions.end_impersonations(db, actor.id)
        if await sessions.end(db, actor.session, reason="signed_out"):
            area = AREAS[actor.kind]
            await audit.record(db, f"{area}.signed_out", TARGETS[actor.kind], actor.id)


async def end_session(door: Door, session_id: UUID) -> bool:
    """One of the caller's own; False where it is nobody's, somebody else's or over already."""
    actor = door.actor
    async with door.transaction() as db:
        mine = {each.id for each in await sessions.of(db, actor.kind, owner(actor))}
        if session_id not in mine:
            return False
        await sessions.end(db, session_id, reason="ended_by_owner")
        after = {"session": str(session_id)}
        area = AREAS[actor.kind]
        await audit.record(
            db, f"{area}.session_ended", TARGETS[actor.kind], owner(actor), after=after
        )
    return True


async def end_other_sessions(door: Door) -> int:
    """Everywhere but here."""
    actor = door.actor
    async with door.transaction() as db:
        ended = await sessions.end_all(
            db, actor.kind, owner(actor), reason="ended_by_owner", except_=actor.session
        )
        if ended:
            area = AREAS[actor.kind]
            await audit.record(
                db,
                f"{area}.sessions_ended",
                TARGETS[actor.kind],
                owner(actor),
                after={"ended": ended},
            )
    return ended


def owner(actor: Actor) -> UUID:
    if actor.id is None:
        raise TypeError("the guard lets nobody through who is nobody")
    return actor.id


async def own_sessions(door: Door) -> list[Session]:
    async with door.transaction() as db:
        return list(await sessions.of(db, door.actor.kind, owner(door.actor)))
