"""The mail to whoever answers for an endpoint: who made it, or the owners if they have left."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import AdminUser, StaffStatus
from bursar.auth.permissions import StaffRole
from bursar.core import mail
from bursar.core.mail_settings import is_address
from bursar.system import queries as system
from bursar.system.catalogue import COMPANY_NAME
from bursar.webhooks.models import OffReason, WebhookEndpoint

WHY = {
    OffReason.GONE: "It answered 410 Gone, which says that nobody wants to be told there any more.",
    OffReason.FAILING: "Nothing has arrived there for a week.",
}


async def send_switched_off(db: AsyncSession, endpoint: WebhookEndpoint, why: OffReason) -> None:
    company = await system.value(db, COMPANY_NAME)
    for person in await answerable_for(db, endpoint):
        await mail.send(
            db,
            "webhook_switched_off",
            person.email,
            about=person.id,
            name=person.name,
            url=endpoint.url,
            why=WHY[why],
            company=company,
        )


async def answerable_for(db: AsyncSession, endpoint: WebhookEndpoint) -> list[AdminUser]:
    active = select(AdminUser).where(AdminUser.status == StaffStatus.ACTIVE)
    found = list(await db.scalars(active.where(AdminUser.id == endpoint.created_by)))
    if not found:
        owners = active.where(AdminUser.role == StaffRole.OWNER).order_by(AdminUser.id)
        found = list(await db.scalars(owners))
    return [person for person in found if is_address(person.email)]
