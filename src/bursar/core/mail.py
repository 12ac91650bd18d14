"""A mail is sent in the transaction that needs it: rolled back it never was, committed it will be.

    link = mail.link(db, "/verify-email", token=token)
    await mail.send(db, "verify_email", address, company="Acme", name="Carl", link=link, hours=24)

It is rendered at once, so that a mistake in it is the caller's and not the worker's; its words are
sealed, for most of them hold a link that is as good as a password; and a job hands it to the mail
server (core/mail_sending.py). What the templates need stands in the first line of each
(core/templates), how they are made in core/mail_templates.py.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs, mail_outbox
from bursar.core.errors import BursarError
from bursar.core.mail_outbox import Attachment, Status
from bursar.core.mail_outbox import Mail as Mail  # for the metadata of all tables
from bursar.core.mail_sending import deliver
from bursar.core.mail_settings import is_address
from bursar.core.mail_templates import one_line, render

KEPT_SENT = timedelta(days=90)
KEPT_UNSENT = timedelta(days=30)  # the links in them are dead by then


class BadAddress(BursarError, status=422, code="mail.bad_address"):
    """A mail goes to one plain ASCII address, without a name, spaces or line breaks."""


def link(db: AsyncSession, path: str, **query: str) -> str:
    """A link for a mail, to where the operator says that people reach Bursar."""
    behind = f"?{urlencode(query)}" if query else ""
    return f"{mail_outbox.settings_of(db).public_url}{path}{behind}"


async def send(
    db: AsyncSession,
    template: str,
    to: str,
    *,
    about: UUID | None = None,
    attachment: Attachment | None = None,
    **context: Any,
) -> UUID:
    """Puts a mail on its way and answers its id.

    The context is what the template needs, and always `company`, which is the sender's name.
    `about` is the person whose mail it is, by whom it is forgotten whatever address it went to.
    """
    if not is_address(to):
        raise BadAddress("This is not an address that a mail can be sent to.")
    content = render(template, context)
    mail_id = uuid4()
    company = one_line(str(context["company"]))
    await mail_outbox.add(
        db,
        mail_id,
        template,
        to=to,
        about=about,
        company=company,
        content=content,
        attachment=attachment,
    )
    await enqueue(db, mail_id)
    return mail_id


async def enqueue(db: AsyncSession, mail_id: UUID) -> int | None:
    """None where a job has this mail already."""
    return await jobs.enqueue(db, deliver, {"mail": str(mail_id)}, unique_key=str(mail_id))


class MailEmptied(BursarError, status=409, code="mail.emptied"):
    """A mail that was sent cannot be sent again: its words were forgotten."""


class MailOnItsWay(BursarError, status=409, code="mail.on_its_way"):
    """A job has this mail already and sends it, now or when its next attempt is due."""


QUEUE_AGAIN = text("""
  update mails set status = :waiting, queued_at = now(), settled_at = null, reason = null
  where id = :id
""")


async def resend(db: AsyncSession, mail_id: UUID) -> None:
    """Puts a mail that was kept or refused on its way again, dated now; for the worker alone."""
    found = await mail_outbox.row(db, mail_id)
    if found["sealed"] is None:
        raise MailEmptied(f"The mail {mail_id} was sent, and its words were forgotten.")
    if await enqueue(db, mail_id) is None:
        raise MailOnItsWay(f"The mail {mail_id} is on its way already.")
    await db.execute(QUEUE_AGAIN, {"id": mail_id, "waiting": Status.WAITING})


FORGET = text("""
  delete from mails where lower(recipient) = lower(:address) or subject = cast(:about as uuid)
""")


async def forget(db: AsyncSession, address: str, *, about: UUID | None = None) -> None:
    """Deletes every mail to this address, in whatever case it was written, and every mail about
    this person, whatever address they had then; for the worker alone."""
    await db.execute(FORGET, {"address": address, "about": about})


PRUNE = text("""
  delete from mails
  where (status = 'sent' and settled_at < now() - cast(:sent as interval))
    or (status <> 'sent' and queued_at < now() - cast(:unsent as interval))
""")


async def prune(db: AsyncSession) -> None:
    await db.execute(PRUNE, {"sent": KEPT_SENT, "unsent": KEPT_UNSENT})
