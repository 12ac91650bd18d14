"""Every mail that accounts send: its link, how long the link is good for, and who it is to."""

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import AdminUser, User
from bursar.accounts.rules import INVITATION_GOOD_FOR, RESET_GOOD_FOR, VERIFICATION_GOOD_FOR
from bursar.auth import one_time
from bursar.auth.actor import Kind
from bursar.auth.one_time import Purpose
from bursar.core import mail
from bursar.core.mail_settings import is_address
from bursar.system import queries as system
from bursar.system.catalogue import COMPANY_NAME

RESETS = {Kind.CUSTOMER: Purpose.RESET, Kind.STAFF: Purpose.STAFF_RESET}
RESET_PAGES = {Kind.CUSTOMER: "/reset-password", Kind.STAFF: "/console/reset-password"}


async def send_verification(db: AsyncSession, user: User, email: str) -> None:
    """To the address that is to be proved: the account's own, or the one it is to have."""
    token = await one_time.make(
        db,
        Purpose.VERIFY_EMAIL,
        user.id,
        VERIFICATION_GOOD_FOR,
        {"email": email},
    )
    link = mail.link(db, "/verify-email", token=token)
    await send(db, "verify_email", user, email, link=link, hours=hours(VERIFICATION_GOOD_FOR))


async def send_reset(db: AsyncSession, kind: Kind, person: User | AdminUser) -> None:
    payload = {"email": person.email}  # once the address is another one, the link opens nothing
    token = await one_time.make(db, RESETS[kind], person.id, RESET_GOOD_FOR, payload)
    link = mail.link(db, RESET_PAGES[kind], token=token)
    await send(db, "reset_password", person, link=link, minutes=60 * hours(RESET_GOOD_FOR))


async def send_password_changed(db: AsyncSession, person: User | AdminUser) -> None:
    await send(db, "password_changed", person)


async def send_email_changed(db: AsyncSession, person: User | AdminUser, old_email: str) -> None:
    """To the old address, where whoever did not want this still reads it. One that came from an
    older system may be none that mail can be sent to, and must not keep anybody from a better one.
    """
    if is_address(old_email):
        await send(db, "email_changed", person, old_email)


async def send_account_deleted(db: AsyncSession, user: User, days: int) -> None:
    await send(db, "account_deleted", user, days=days)


async def send_invitation(db: AsyncSession, person: AdminUser) -> None:
    token = await one_time.make(db, Purpose.INVITATION, person.id, INVITATION_GOOD_FOR)
    link = mail.link(db, "/console/invitation", token=token)
    await send(db, "invitation", person, link=link, hours=hours(INVITATION_GOOD_FOR))


async def tell(
    db: AsyncSession, template: str, person: User | AdminUser | None, **words: Any
) -> None:
    """What somebody owes, has bought or is warned of, whatever the status of their account: who is
    suspended is told too. A letter with a link that opens the account is not for this."""
    if person is not None and can_be_told(person):
        await send(db, template, person, **words)


def can_be_told(person: User | AdminUser) -> bool:
    """Not who is erased, nor who has no address that a mail can be sent to."""
    is_erased = isinstance(person, User) and person.erased_at is not None
    return not is_erased and is_address(person.email)


async def send(
    db: AsyncSession, template: str, person: User | AdminUser, to: str | None = None, **given: Any
) -> None:
    words = {"name": person.name, "company": await system.value(db, COMPANY_NAME), **given}
    await mail.send(db, template, to or person.email, about=person.id, **words)


def hours(time: timedelta) -> int:
    return int(time.total_seconds() // 3600)
