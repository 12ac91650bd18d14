"""The verbs of staff by staff: invite, change, suspend, remove; nobody rises above themselves.

Writes to the staff wait for each other, so each sees what the one before it did. A role is part of
every access token: whoever gets another one is signed out, as is whoever may not come in any more.
"""

from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters, queries
from bursar.accounts.models import AdminUser, StaffStatus
from bursar.accounts.service import EmailTaken
from bursar.audit import service as audit
from bursar.auth import one_time, sessions
from bursar.auth.actor import Actor, Kind
from bursar.auth.permissions import GRANTED, StaffRole
from bursar.core import etag
from bursar.core.errors import BursarError, NotFound

OWNER = StaffRole.OWNER


class LastOwner(BursarError, status=409, code="accounts.last_owner"):
    """The last active owner cannot be demoted, suspended or removed: make another owner first."""


class OwnAccount(BursarError, status=403, code="accounts.own_account"):
    """Nobody changes their own role, status or e-mail address here; another one has to."""


class AboveYou(BursarError, status=403, code="accounts.above_you"):
    """The role may do what yours may not, or it is an owner's: you can neither give nor take it."""


class RoleChanged(BursarError, status=403, code="accounts.role_changed"):
    """Your own role or status was changed a moment ago; sign in again."""


class StillInvited(BursarError, status=409, code="accounts.still_invited"):
    """The invitation is not accepted yet: send it again, or remove the member of staff."""


class NotInvited(BursarError, status=409, code="accounts.not_invited"):
    """The invitation was accepted already; a new password comes by auth/forgot-password."""


async def invite(
    db: AsyncSession, actor: Actor, *, email: str, name: str, role: StaffRole
) -> AdminUser:
    """Whoever follows the link in the mail chooses a password and is in."""
    refuse_above(actor, role)
    await wait_for_others(db)
    await refuse_if_outdated(db, actor)
    facts = {"email": email, "name": name, "role": role, "status": StaffStatus.INVITED}
    member = await add(db, {**facts, "invited_by": known(actor)})
    await audit.record(db, "staff.invited", "staff", member.id, after=seen(member))
    await letters.send_invitation(db, member)
    return member


async def wait_for_others(db: AsyncSession) -> None:
    """Writes to the staff are few; one after the other, none of them can be misled."""
    lock = func.pg_advisory_xact_lock(func.hashtextextended("staff", 0))
    await db.execute(select(lock))


def known(actor: Actor) -> Any:
    """An operator on the server's machine is nobody of the table."""
    return select(AdminUser.id).where(AdminUser.id == actor.id).scalar_subquery()


async def add(db: AsyncSession, facts: Mapping[str, Any]) -> AdminUser:
    """Racing for one address, one gets it and the others are told so."""
    row = insert(AdminUser).values(**facts).on_conflict_do_nothing().returning(AdminUser.id)
    member_id = await db.scalar(row)
    if member_id is None:
        raise taken()
    return await queries.staff_member(db, member_id)


def taken() -> EmailTaken:
    return EmailTaken("Another member of staff has this e-mail address.")


async def invite_again(db: AsyncSession, actor: Actor, member_id: UUID) -> AdminUser:
    """A new link; the one before is good no more."""
    member = await held(db, actor, member_id)
    if member.status != StaffStatus.INVITED:
        raise NotInvited("The invitation was accepted already.")
    await refuse_if_outdated(db, actor)
    await letters.send_invitation(db, member)
    await audit.record(db, "staff.invited_again", "staff", member.id)
    return member


async def held(
    db: AsyncSession, actor: Actor, member_id: UUID, if_match: str | None = None
) -> AdminUser:
    """Somebody whom this actor may touch, locked until the transaction ends."""
    await wait_for_others(db)
    member = await db.get(AdminUser, member_id, with_for_update=True, populate_existing=True)
    if member is None or member.status == StaffStatus.DELETED:
        raise NotFound("There is no such member of staff.")
    etag.check(if_match, member.version)
    refuse_above(actor, StaffRole(member.role))
    return member


def refuse_above(actor: Actor, role: StaffRole) -> None:
    """Owners are for owners; and nobody hands out, or takes over, what they may not do."""
    if actor.role is OWNER:
        return
    if actor.role is None or role is OWNER or not GRANTED[role] <= GRANTED[actor.role]:
        raise AboveYou(f"Only somebody who may do as much can touch the role {role}.")


async def refuse_if_outdated(db: AsyncSession, actor: Actor) -> None:
    """The token says what the actor was; while this waited for others that may have changed."""
    me = await db.get(AdminUser, actor.id, populate_existing=True)
    if me is not None and (me.role != actor.role or me.status != StaffStatus.ACTIVE):
        raise RoleChanged("Your own role or status was changed a moment ago; sign in again.")


async def change(
    db: AsyncSession,
    actor: Actor,
    member_id: UUID,
    facts: Mapping[str, Any],
    *,
    if_match: str | None = None,
) -> AdminUser:
    """Name, e-mail address and role: what is given, nothing else."""
    member = await held(db, actor, member_id, if_match)
    facts = {key: value for key, value in facts.items() if getattr(member, key) != value}
    if not facts:
        audit.nothing_changed(db)
        return member
    if "role" in facts:
        refuse_above(actor, facts["role"])
    if "email" in facts:
        other = await queries.by_email(db, Kind.STAFF, facts["email"])
        if other is not None and other.id != member.id:
            raise taken()
    old_email = member.email
    await put(db, actor, member, "staff.changed", facts)
    if "email" in facts:
        await forget_links(db, member)
        await letters.send_email_changed(db, member, old_email)
        if member.status == StaffStatus.INVITED:
            await letters.send_invitation(db, member)
    if "role" in facts:
        await sessions.end_all(db, Kind.STAFF, member.id, reason="role_changed")
    return member


async def put(
    db: AsyncSession, actor: Actor, member: AdminUser, action: str, facts: Mapping[str, Any]
) -> None:
    before = seen(member)
    after = {**before, **facts}
    if is_owner(before) and not is_owner(after):
        await keep_another_owner(db, member)
    if set(facts) - {"name"}:
        refuse_own(actor, member)
    await refuse_if_outdated(db, actor)
    for key, value in facts.items():
        setattr(member, key, value)
    await db.flush()
    await db.refresh(member)
    await audit.record(db, action, "staff", member.id, before=before, after=seen(member))


def is_owner(facts: Mapping[str, Any]) -> bool:
    return bool(facts["role"] == OWNER and facts["status"] == StaffStatus.ACTIVE)


async def keep_another_owner(db: AsyncSession, member: AdminUser) -> None:
    """Says it well; the trigger keep_an_owner holds it, whoever writes."""
    another = select(AdminUser.id).where(
        AdminUser.role == OWNER,
        AdminUser.status == StaffStatus.ACTIVE,
        AdminUser.id != member.id,
    )
    if await db.scalar(another.limit(1)) is None:
        raise LastOwner("This is the last owner: make another one first.")


def refuse_own(actor: Actor, member: AdminUser) -> None:
    """Also the address: a link for a new password goes there, and a token is all it would take."""
    if actor.id == member.id:
        raise OwnAccount("This is your own account; another member of staff has to do it.")


async def forget_links(db: AsyncSession, member: AdminUser) -> None:
    """A link in the old mailbox, or in that of somebody who has left, opens nothing any more."""
    await one_time.forget(db, member.id)


async def change_status(
    db: AsyncSession,
    actor: Actor,
    member_id: UUID,
    status: Literal[StaffStatus.ACTIVE, StaffStatus.SUSPENDED],
    *,
    if_match: str | None = None,
) -> AdminUser:
    """Whoever is suspended is signed out at once."""
    member = await held(db, actor, member_id, if_match)
    if member.status == StaffStatus.INVITED:
        raise StillInvited("The invitation is not accepted yet: nobody can come in by it so far.")
    if member.status == status:
        audit.nothing_changed(db)
        return member
    suspended = status == StaffStatus.SUSPENDED
    action = "staff.suspended" if suspended else "staff.activated"
    await put(db, actor, member, action, {"status": status})
    if suspended:
        await shut_out(db, member)
    return member


async def shut_out(db: AsyncSession, member: AdminUser) -> None:
    await sessions.end_all(db, Kind.STAFF, member.id, reason=member.status)
    await forget_links(db, member)


async def remove(
    db: AsyncSession, actor: Actor, member_id: UUID, *, if_match: str | None = None
) -> AdminUser:
    """For good. The row stays, for what points at it; the address is free for a new invitation."""
    member = await held(db, actor, member_id, if_match)
    await put(db, actor, member, "staff.removed", {"status": StaffStatus.DELETED})
    await shut_out(db, member)
    return member


def seen(member: AdminUser) -> dict[str, Any]:
    """What the audit keeps of a member of staff: nothing that is secret."""
    return {
        "email": member.email,
        "name": member.name,
        "role": member.role,
        "status": member.status,
    }
