"""Passwords and e-mail addresses: proved by a link, changed by who holds it or knows the old one.

A link is good once and for a while. A new password by a link signs everybody out: whoever stole
the old one too.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters, queries, tasks
from bursar.accounts import service as accounts
from bursar.accounts.models import StaffStatus, Status, User
from bursar.accounts.service import EmailTaken
from bursar.accounts.sign_in import AREAS, TARGETS, WrongCredentials, held, owner
from bursar.audit import service as audit
from bursar.auth import one_time, passwords, sessions, throttle
from bursar.auth.actor import Actor, Kind
from bursar.auth.door import Door
from bursar.auth.models import Session
from bursar.auth.one_time import Purpose
from bursar.core import jobs
from bursar.core.errors import BursarError

FRESH_FOR = timedelta(minutes=10)  # for so long a sign-in says as much as a password


async def ask_for_reset(door: Door, kind: Kind, email: str) -> None:
    """The same work for every address: whether anybody has it is looked up by the job."""
    await throttle.count(door.database, throttle.mails(kind, email, door.origin.address))
    async with door.transaction() as db:
        await jobs.enqueue(db, tasks.send_reset, {"kind": kind, "email": email})


async def reset(door: Door, kind: Kind, token: str, new_password: str) -> None:
    """Also opens a locked account and proves the address: the link came by mail."""
    await throttle.count(door.database, throttle.links(door.origin.address))
    passwords.check(new_password, about=(), pointer="/new_password")
    hashed = await passwords.hash(new_password)
    async with door.transaction() as db:
        used = await one_time.use(db, letters.RESETS[kind], token)
        person = await held(db, kind, used.subject)
        if person is None or person.status in (Status.DELETED, StaffStatus.INVITED):
            raise one_time.bad_token()
        if used.payload.get("email") != person.email:
            raise one_time.bad_token()  # it was mailed to an address that is not theirs any more
        passwords.check(new_password, about=known_of(person), pointer="/new_password")
        if isinstance(person, User):
            await accounts.prove_email(db, person, person.email)
        person.login_attempts, person.locked_until = 0, None
        await set_password(db, person, kind, hashed, by=Actor(kind, person.id), keep=None)
    attempts = throttle.login(kind, person.email, door.origin.address)
    await throttle.forget(door.database, attempts)  # whoever has guessed before shuts nobody out


async def change_password(door: Door, current_password: str, new_password: str) -> None:
    """By whoever is signed in; the other sessions end, this one stays."""
    kind, person_id = door.actor.kind, owner(door.actor)
    stored = await prove_password(door, current_password, pointer="/current_password")
    passwords.check(new_password, about=(), pointer="/new_password")
    hashed = await passwords.hash(new_password)
    async with door.transaction() as db:
        person = await held(db, kind, person_id)
        if person is None or person.password_hash != stored:
            raise wrong_password()
        passwords.check(new_password, about=known_of(person), pointer="/new_password")
        await set_password(db, person, kind, hashed, by=None, keep=door.actor.session)


class SignInAgain(BursarError, status=401, code="accounts.sign_in_again"):
    """The account has no password to prove who asks: sign in again, and ask within ten minutes."""


async def prove_password(
    door: Door, password: str | None, *, pointer: str = "/password"
) -> str | None:
    """The stored hash that the password fits; who has none (OpenID only) has just signed in."""
    kind, person_id = door.actor.kind, owner(door.actor)
    passwords.Typed.of(password or "", pointer)
    await throttle.count(door.database, throttle.proof(person_id))
    async with door.transaction() as db:
        person = await held(db, kind, person_id)
        stored: str | None = person.password_hash if person else None
        has_none = person is not None and stored is None and password is None
        if has_none:
            await refuse_unless_fresh(db, door.actor)
    if not has_none and not (await passwords.verify(password or "", stored)).right:
        raise wrong_password()
    await throttle.forget(door.database, throttle.proof(person_id))
    return stored


async def refuse_unless_fresh(db: AsyncSession, actor: Actor) -> None:
    """A session that was only renewed since is as old as its sign-in."""
    here = select(Session.id).where(
        Session.id == actor.session,
        Session.kind == actor.kind,
        Session.subject == actor.id,
        Session.impersonator.is_(None),
        Session.ended_at.is_(None),
        Session.created_at > func.now() - FRESH_FOR,
    )
    if await db.scalar(here) is None:
        raise SignInAgain("Sign in again first: your account has no password that could be asked.")


def wrong_password() -> WrongCredentials:
    return WrongCredentials("This is not your present password.")


async def set_password(
    db: AsyncSession, person: Any, kind: Kind, hashed: str, *, by: Actor | None, keep: UUID | None
) -> None:
    person.password_hash = hashed
    await one_time.forget(db, person.id)  # links that were made before are good no more
    await sessions.end_all(db, kind, person.id, reason="password_changed", except_=keep)
    await audit.record(db, f"{AREAS[kind]}.password_changed", TARGETS[kind], person.id, actor=by)
    await letters.send_password_changed(db, person)


def known_of(person: Any) -> tuple[str, ...]:
    """What must not be somebody's password."""
    return tuple(filter(None, (person.email, person.name, getattr(person, "username", None))))


async def ask_for_verification(door: Door) -> None:
    """To the address that the account has now; nothing is sent once it is verified."""
    person_id = owner(door.actor)
    async with door.transaction() as db:
        user = await db.get(User, person_id)
    if user is None or (user.email_verified and user.status != Status.PENDING):
        return
    await throttle.count(
        door.database, throttle.mails(Kind.CUSTOMER, user.email, door.origin.address)
    )
    async with door.transaction() as db:
        await letters.send_verification(db, user, user.email)
        await audit.record(db, "users.verification_asked", "user", user.id)


async def verify_email(door: Door, token: str) -> User:
    """Proves the address that the link was sent to, which becomes the account's."""
    await throttle.count(door.database, throttle.links(door.origin.address))
    async with door.transaction() as db:
        used = await one_time.use(db, Purpose.VERIFY_EMAIL, token)
        user: User | None = await held(db, Kind.CUSTOMER, used.subject)
        if user is None or user.status == Status.DELETED:
            raise one_time.bad_token()
        if (wanted := used.payload["email"]) != user.email:
            await refuse_if_taken(db, wanted)
        await accounts.prove_email(db, user, wanted)
    return user


async def refuse_if_taken(db: AsyncSession, email: str) -> None:
    """Holds the address until the transaction ends; the unique index is the last lock."""
    name = func.hashtextextended(f"email {email}", 0)
    await db.execute(select(func.pg_advisory_xact_lock(name)))
    if await queries.by_email(db, Kind.CUSTOMER, email):
        raise EmailTaken("Another account has this e-mail address.")


async def ask_for_email_change(door: Door, email: str, password: str | None) -> None:
    """The account keeps its address until the link in the new one's mailbox was followed.

    An address that somebody else has gets no link, and the caller is not told.
    """
    person_id = owner(door.actor)
    await prove_password(door, password)
    await throttle.count(door.database, throttle.mails(Kind.CUSTOMER, email, door.origin.address))
    async with door.transaction() as db:
        user = await db.get_one(User, person_id)
        await jobs.enqueue(db, tasks.send_email_change, {"user_id": str(user.id), "email": email})
        await audit.record(db, "users.email_change_asked", "user", user.id, after={"email": email})
