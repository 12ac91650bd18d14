"""The verbs of customers: sign up, change, suspend, delete, restore; each leaves an audit row."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters, queries
from bursar.accounts.models import Status, User, UserPreferences
from bursar.accounts.rules import ERASE_AFTER_DAYS, SIGN_UP_OPEN, VERIFY_EMAIL
from bursar.audit import service as audit
from bursar.auth import one_time, passwords, sessions
from bursar.auth.actor import Actor, Kind
from bursar.auth.door import Door
from bursar.auth.permissions import NotAllowed, Permission
from bursar.core import etag, events
from bursar.core.errors import BursarError, NotFound
from bursar.system import queries as system

MOST_AT_ONCE = 1000


class UserSignedUp(events.Event, name="users.signed_up", public=True):
    """There is a new customer, by themselves or by staff; an import publishes `users.imported`."""

    user_id: str


class UsersImported(events.Event, name="users.imported", public=True):
    """There are new customers, taken over from another system: at most a thousand in one event."""

    user_ids: list[str]


class UserStatusChanged(events.Event, name="users.status_changed", public=True):
    """A customer was let in (also by proving an address), suspended, deleted or restored."""

    user_id: str
    status: str


class SignUpClosed(BursarError, status=403, code="accounts.sign_up_closed"):
    """Nobody may sign up by themselves here; ask the company for an account."""


class EmailTaken(BursarError, status=409, code="accounts.email_taken"):
    """Another account has this e-mail address, in whatever case."""


class UsernameTaken(BursarError, status=409, code="accounts.username_taken"):
    """Another account has this username, in whatever case."""


class Erased(BursarError, status=409, code="accounts.erased"):
    """The personal data of this account is erased; it cannot come back."""


async def hash_for_sign_up(door: Door, facts: Mapping[str, Any], password: str) -> str:
    """The work that comes before `sign_up`, without a connection held while it is done; where
    nobody may sign up there is none."""
    async with door.transaction() as db:
        if not await system.value(db, SIGN_UP_OPEN):
            raise SignUpClosed("Nobody may sign up by themselves here; ask the company.")
    passwords.check(password, about=about(facts), pointer="/password")
    return await passwords.hash(password)


async def sign_up(db: AsyncSession, facts: Mapping[str, Any], hashed: str) -> User:
    """A customer by their own doing."""
    verify = await system.value(db, VERIFY_EMAIL)
    status = Status.PENDING if verify else Status.ACTIVE
    user = await add(db, {**facts, "password_hash": hashed, "status": status})
    actor = Actor(Kind.CUSTOMER, user.id)
    await audit.record(db, "users.signed_up", "user", user.id, after=seen(user), actor=actor)
    if verify:
        await letters.send_verification(db, user, user.email)
    return user


def about(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What must not be somebody's password."""
    return tuple(str(v) for k in ("email", "username", "name") if (v := facts.get(k)))


async def create(db: AsyncSession, facts: Mapping[str, Any]) -> User:
    """A customer by staff's doing; they choose a password by a link that they ask for."""
    user = await add(db, facts)
    await audit.record(db, "users.created", "user", user.id, after=seen(user))
    return user


async def add(db: AsyncSession, facts: Mapping[str, Any]) -> User:
    """Racing for one address, one gets it and the others are told so."""
    row = insert(User).values(**facts).on_conflict_do_nothing().returning(User.id)
    user_id = await db.scalar(row)
    if user_id is None:
        raise await taken(db, facts)
    await events.publish(db, UserSignedUp(user_id=str(user_id)))
    return await queries.user(db, user_id)


async def taken(db: AsyncSession, facts: Mapping[str, Any]) -> BursarError:
    """Which of the two it was that somebody else has."""
    if await queries.by_email(db, Kind.CUSTOMER, facts["email"]):
        return EmailTaken("There is an account with this e-mail address: sign in instead.")
    return UsernameTaken("Another account has this username; choose another.")


async def change(
    db: AsyncSession,
    user_id: UUID,
    facts: Mapping[str, Any],
    *,
    by: Actor,
    if_match: str | None = None,
) -> User:
    """What is given, nothing else; a new address has to be verified again."""
    user = await held(db, user_id, if_match)
    facts = {key: value for key, value in facts.items() if getattr(user, key) != value}
    if not facts:
        return user
    if "email" in facts and not by.may(Permission.USERS_ACT_AS):
        raise NotAllowed(
            f"Whoever gives a customer another address gets the links for a new password: this "
            f"needs the permission {Permission.USERS_ACT_AS}."
        )
    await refuse_what_is_taken(db, user, facts)
    before = seen(user)
    if "email" in facts:
        await leave_address(db, user)
        user.email_verified = False
    for key, value in facts.items():
        setattr(user, key, value)
    await db.flush()
    await db.refresh(user)
    await audit.record(db, "users.changed", "user", user.id, before=before, after=seen(user))
    return user


async def held(db: AsyncSession, user_id: UUID, if_match: str | None = None) -> User:
    """The customer, locked until the transaction ends."""
    lock = {"key_share": True}  # what only names the customer, as a new wallet does, need not wait
    user = await db.get(User, user_id, with_for_update=lock, populate_existing=True)
    if user is None:
        raise NotFound("There is no such customer.")
    etag.check(if_match, user.version)
    if user.erased_at:
        raise Erased("The personal data of this account is erased; nothing can be changed.")
    return user


async def refuse_what_is_taken(db: AsyncSession, user: User, facts: Mapping[str, Any]) -> None:
    """Says it well; who is faster than this look meets the unique index, and a 409 all the same."""
    if "email" in facts:
        other = await queries.by_email(db, Kind.CUSTOMER, facts["email"])
        if other is not None and other.id != user.id:
            raise EmailTaken("Another account has this e-mail address.")
    if facts.get("username") and await queries.has_username(db, facts["username"], user.id):
        raise UsernameTaken("Another account has this username; choose another.")


async def leave_address(db: AsyncSession, user: User) -> None:
    """A link in the old mailbox opens nothing any more, and whoever reads it is told."""
    await one_time.forget(db, user.id)
    await letters.send_email_changed(db, user, user.email)


async def prove_email(db: AsyncSession, user: User, email: str) -> None:
    """Somebody has followed a link that was mailed there: it is the customer's address, and an
    account that waited for that is open. The caller holds the row."""
    before = seen(user)
    if email != user.email:
        await leave_address(db, user)
    user.email, user.email_verified = email, True
    if user.status == Status.PENDING:
        user.status = Status.ACTIVE
    await db.flush()
    await db.refresh(user)
    if (after := seen(user)) == before:
        audit.nothing_changed(db)
        return
    actor = Actor(Kind.CUSTOMER, user.id)
    action = "users.email_verified"
    await audit.record(db, action, "user", user.id, before=before, after=after, actor=actor)
    if after["status"] != before["status"]:
        await events.publish(db, UserStatusChanged(user_id=str(user.id), status=user.status))


async def change_status(
    db: AsyncSession,
    user_id: UUID,
    status: Status,
    *,
    reason: str | None = None,
    if_match: str | None = None,
) -> User:
    """Whoever may not come in any more is signed out at once."""
    user = await held(db, user_id, if_match)
    if user.status != status:
        await give_status(db, [user], status, reason)
        await db.refresh(user)
    return user


ACTIONS = {
    Status.ACTIVE: "users.activated",
    Status.SUSPENDED: "users.suspended",
    Status.PENDING: "users.set_pending",
    Status.DELETED: "users.deleted",
}


async def give_status(
    db: AsyncSession, users: Sequence[User], status: Status, reason: str | None
) -> None:
    """To customers who have another one and are held; those of a thousand go in batches."""
    before = {user.id: user.status for user in users}
    for user in users:
        user.status = status
    await db.flush()
    if status != Status.ACTIVE:
        await shut_out(db, list(before), reason=status)
    after = {"status": status, "reason": reason} if reason else {"status": status}
    for user_id, old in before.items():
        action = "users.restored" if old == Status.DELETED else ACTIONS[status]
        await audit.record(db, action, "user", user_id, before={"status": old}, after=after)
        await events.publish(db, UserStatusChanged(user_id=str(user_id), status=status))


async def shut_out(db: AsyncSession, user_ids: Sequence[UUID], reason: str) -> None:
    ends = {"kind": Kind.CUSTOMER, "reason": reason, "except": None}
    await db.execute(sessions.END_ALL, [{**ends, "subject": each} for each in user_ids])
    await db.execute(one_time.FORGET, [{"subject": each, "purpose": None} for each in user_ids])


async def change_statuses(
    db: AsyncSession, user_ids: Sequence[UUID], status: Status, *, reason: str | None = None
) -> list[UUID]:
    """All of them or none; answers those that changed. Locked in one order: no two of these wait
    for each other in a circle."""
    query = select(User).where(User.id.in_(set(user_ids)), User.erased_at.is_(None))
    users = (await db.scalars(query.order_by(User.id).with_for_update(key_share=True))).all()
    if missing := set(user_ids) - {user.id for user in users}:
        named = ", ".join(str(each) for each in sorted(missing)[:5])
        raise NotFound(f"{len(missing)} of them cannot be found, so nothing was changed: {named}.")
    wanted = [user for user in users if user.status != status]
    if wanted:
        await give_status(db, wanted, status, reason)
    return [user.id for user in wanted]


async def delete_own(db: AsyncSession, user_id: UUID) -> User:
    """Soft: staff can restore it until a job erases what names the person."""
    user = await held(db, user_id)
    if user.status != Status.DELETED:
        await letters.send_account_deleted(db, user, await system.value(db, ERASE_AFTER_DAYS))
        await give_status(db, [user], Status.DELETED, None)
    return user


async def change_preferences(
    db: AsyncSession, user_id: UUID, document: Mapping[str, Any], *, if_match: str | None = None
) -> UserPreferences:
    """Replaces what the customer has chosen as a whole."""
    await held(db, user_id)  # of two first choices the second waits, and sees the first
    stored = await db.get(UserPreferences, user_id, with_for_update=True, populate_existing=True)
    etag.check(if_match, stored.version if stored else 0)
    before = stored.document if stored else {}
    row = insert(UserPreferences).values(user_id=user_id, document=dict(document))
    row = row.on_conflict_do_update(
        index_elements=[UserPreferences.user_id], set_={"document": row.excluded.document}
    )
    await db.execute(row)
    await audit.record(
        db, "users.preferences_changed", "user", user_id, before=before, after=dict(document)
    )
    return await db.get_one(UserPreferences, user_id, populate_existing=True)


AUDITED = (
    "email",
    "email_verified",
    "username",
    "name",
    "first_name",
    "last_name",
    "user_type",
    "role",
    "tier",
    "status",
)


def seen(user: User) -> dict[str, Any]:
    """What the audit keeps of a customer: never a hash."""
    return {field: getattr(user, field) for field in AUDITED}
