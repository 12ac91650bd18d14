"""The end of a deleted account: what names the person goes, money and audit stay."""

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import Identity, User, UserPreferences
from bursar.audit import service as audit
from bursar.auth import one_time, sessions
from bursar.auth.actor import Kind
from bursar.core import events, idempotency, mail

AT_ONCE = 1000  # each night; the rest is next night's


class UserErased(events.Event, name="users.erased", public=True):
    """The personal data of a deleted account is gone; whoever keeps more of it erases that too."""

    user_id: str


async def erase(db: AsyncSession, user: User) -> None:
    """The row stays, for what points at it: a number without a name."""
    await mail.forget(db, user.email, about=user.id)
    await idempotency.forget(db, user.id)
    await one_time.forget(db, user.id)
    await sessions.forget(db, Kind.CUSTOMER, user.id)
    await db.execute(delete(Identity).where(Identity.user_id == user.id))
    await db.execute(delete(UserPreferences).where(UserPreferences.user_id == user.id))
    user.email, user.email_verified = f"{user.id}@erased.invalid", False
    user.username, user.name, user.first_name, user.last_name = None, "", "", ""
    user.password_hash = user.locked_until = user.last_login = None
    user.login_attempts = 0
    user.erased_at = func.now()
    await events.publish(db, UserErased(user_id=str(user.id)))
    await audit.record(db, "users.erased", "user", user.id)
