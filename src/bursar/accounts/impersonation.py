"""A member of staff acts as a customer: for an hour, to look unless allowed more, never hidden."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import AdminUser, StaffStatus, Status, User
from bursar.accounts.staff import RoleChanged
from bursar.audit import service as audit
from bursar.auth import sessions
from bursar.auth.actor import Actor, Kind, Scope
from bursar.auth.door import Door
from bursar.auth.permissions import NotAllowed, Permission
from bursar.core.errors import BursarError, NotFound


class NotActive(BursarError, status=409, code="accounts.not_active"):
    """Only an active customer can be acted as."""


async def begin(
    door: Door, actor: Actor, user_id: UUID, *, reason: str, write: bool
) -> tuple[str, int, Scope]:
    """Answers an access token; there is nothing to refresh it with."""
    if write and not actor.may(Permission.USERS_ACT_AS):
        raise NotAllowed(f"To change things as a customer needs {Permission.USERS_ACT_AS}.")
    scope = Scope.FULL if write else Scope.READ
    async with door.transaction() as db:
        await refuse_if_outdated(db, actor)
        user = await db.get(User, user_id, with_for_update={"read": True})
        if user is None:
            raise NotFound("There is no such customer.")
        if user.status != Status.ACTIVE:
            raise NotActive("Only an active customer can be acted as.")
        opened = await sessions.open(
            db,
            Kind.CUSTOMER,
            user.id,
            address=door.origin.address,
            user_agent=door.user_agent,
            scope=scope,
            impersonator=actor.id,
            method="impersonation",
        )
        after = {"reason": reason, "scope": scope}
        await audit.record(db, "users.impersonated", "user", user.id, after=after)
    customer = Actor(
        Kind.CUSTOMER, user.id, session=opened.session_id, impersonator=actor.id, scope=scope
    )
    seconds = opened.access_seconds
    return door.tokens.sign(customer, lifetime_seconds=seconds), seconds, scope


async def refuse_if_outdated(db: AsyncSession, actor: Actor) -> None:
    """Held until the session is there: whoever is suspended at this moment waits for it, and then
    ends it with the others. An operator's token is of nobody in the table."""
    query = select(AdminUser).where(AdminUser.id == actor.id).with_for_update(read=True)
    me: AdminUser | None = await db.scalar(query)
    if me is not None and (me.role != actor.role or me.status != StaffStatus.ACTIVE):
        raise RoleChanged("Your own role or status was changed a moment ago; sign in again.")
