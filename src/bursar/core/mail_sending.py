"""Hands a mail to the mail server: at least once, and each time as the same message.

The intent is committed, then the server is called outside of any transaction, then the outcome is
committed. If the worker dies after the server has taken the mail and before that is written down,
the mail is sent again: SMTP has no way to ask. Both times it has the same Message-ID, Date and
bytes, by which mail servers and programs know a repeat.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import failures, jobs, mail_outbox
from bursar.core.jobs import Run
from bursar.core.mail_outbox import Attachment, Status, Words
from bursar.core.mail_settings import Security
from bursar.core.mail_templates import one_line
from bursar.core.seal import SealBroken
from bursar.core.settings import Settings

log = logging.getLogger(__name__)

RETRIES = 18  # about half a day: until then a mail server is repaired, or its operator asleep
LONGEST_REASON = 300
NOT_KEPT = "there is no BURSAR_SMTP_HOST to give it to"
TROUBLE = (SMTPException, OSError, TimeoutError)
LONG_WORD = re.compile(r"[\w-]{16,}")
LINK = re.compile(r"\S*://\S*")


@jobs.steps("mail.send", retries=RETRIES, retry_seconds=20, timeout_seconds=300)
async def deliver(run: Run) -> None:
    """Gives one mail of the outbox to the mail server."""
    letter = await begin(run)
    if letter is None:
        return
    try:
        await hand_over(letter)
    except TROUBLE as error:
        await record_trouble(run, letter, error)
    else:
        async with run.transaction(last=True) as db:
            await db.execute(SENT, {"id": letter.id})


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent at each attempt, and where."""

    id: UUID
    message_id: str
    date: datetime
    words: Words
    settings: Settings


# The Message-ID of the first attempt stays, also when the sender's address is changed after it.
BEGIN = text("""
  update mails
  set attempts = attempts + 1, message_id = coalesce(message_id, :message_id)
  where id = :id and status = :waiting
  returning message_id, queued_at, sealed
""")
SENT = text("""
  update mails set status = 'sent', sealed = null, reason = null, settled_at = now()
  where id = :id
""")
SETTLE = text("""
  update mails set status = :status, reason = :reason, settled_at = now() where id = :id
""")
NOTE = text("update mails set reason = :reason where id = :id")
WAITS = text("select exists (select from mails where id = :id and status = :waiting)")


async def begin(run: Run) -> Letter | None:
    """Commits that it will be tried; nothing to do for a mail that is settled or forgotten."""
    mail_id = UUID(run.payload["mail"])
    async with run.transaction() as db:
        settings = mail_outbox.settings_of(db)
        if not settings.smtp_host:
            await keep(db, mail_id)
            return None
        key = {"id": mail_id, "message_id": message_id(mail_id, settings)}
        begun = (await db.execute(BEGIN, {**key, "waiting": Status.WAITING})).one_or_none()
        if begun is None:
            return None
        try:
            words = mail_outbox.opened(db, begun.sealed)
        except SealBroken as broken:
            await settle(db, mail_id, Status.FAILED, broken.detail)
            return None
    return Letter(mail_id, begun.message_id, begun.queued_at, words, settings)


async def keep(db: AsyncSession, mail_id: UUID) -> None:
    if await db.scalar(WAITS, {"id": mail_id, "waiting": Status.WAITING}):
        await settle(db, mail_id, Status.KEPT, NOT_KEPT)
        log.info("mail %s is kept: %s; see `bursar mail list`", mail_id, NOT_KEPT)


async def settle(db: AsyncSession, mail_id: UUID, status: Status, reason: str) -> None:
    await db.execute(SETTLE, {"id": mail_id, "status": status, "reason": reason})


def message_id(mail_id: UUID, settings: Settings) -> str:
    return f"<{mail_id}@{str(settings.mail_from).partition('@')[2]}>"


async def hand_over(letter: Letter) -> None:
    """Returns when the server has taken the mail; every other end is an error."""
    settings = letter.settings
    secret = settings.smtp_password
    client = SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username,
        password=secret.get_secret_value() if secret else None,
        local_hostname=own_name(settings),
        timeout=settings.smtp_timeout_seconds,
        use_tls=settings.smtp_security is Security.TLS,
        start_tls=settings.smtp_security is Security.STARTTLS,
    )
    content = written(letter).as_bytes()
    try:
        async with asyncio.timeout(settings.smtp_timeout_seconds):
            await client.connect()
            await client.sendmail(str(settings.mail_from), [letter.words.to], content)
        with suppress(*TROUBLE):  # it is sent, however the two part
            async with asyncio.timeout(min(5, settings.smtp_timeout_seconds)):
                await client.quit()
    finally:
        client.close()


def own_name(settings: Settings) -> str:
    """How we greet the server; looked up by the library it could wait for a name server."""
    name = urlsplit(settings.public_url).hostname or "localhost"
    with suppress(ValueError):
        version = ipaddress.ip_address(name).version
        return f"[IPv6:{name}]" if version == 6 else f"[{name}]"
    return name


def written(letter: Letter) -> EmailMessage:
    """The message, the same to the byte at each attempt; only ASCII goes over the wire."""
    words = letter.words
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = Address(words.company, addr_spec=str(letter.settings.mail_from))
    message["To"] = Address(addr_spec=words.to)
    message["Subject"] = words.subject
    message["Date"] = format_datetime(letter.date)
    message["Message-ID"] = letter.message_id
    message["Auto-Submitted"] = "auto-generated"  # no holiday replies to it
    message.set_content(words.text, cte="quoted-printable")
    message.add_alternative(words.html, subtype="html", cte="quoted-printable")
    message.set_boundary(f"bursar-{letter.id.hex}")
    if words.attachment:
        attach(message, words.attachment)
        message.set_boundary(f"bursar-{letter.id.hex}-with-file")
    return message


def attach(message: EmailMessage, attachment: Attachment) -> None:
    main, _, sub = attachment.media_type.partition("/")
    message.add_attachment(
        attachment.bytes, maintype=main, subtype=sub, filename=attachment.name, cte="base64"
    )


class NotTaken(Exception):
    """The mail server did not take a mail this time; the words of the server are kept with it."""


async def record_trouble(run: Run, letter: Letter, error: Exception) -> None:
    """Refused for good, or not taken this time, which the queue tries again."""
    reason = told(error, letter.words)
    if is_final(error) or run.attempt > RETRIES:
        async with run.transaction(last=True) as db:
            await settle(db, letter.id, Status.FAILED, reason)
        log.warning("mail %s failed; `bursar mail show %s` says why", letter.id, letter.id)
        return
    async with run.transaction() as db:
        await db.execute(NOTE, {"id": letter.id, "reason": reason})
    # Without the server's words, which may name the recipient: this line goes to the log.
    raise NotTaken(f"mail {letter.id} was not taken ({type(error).__name__})") from None


def is_final(error: Exception) -> bool:
    """A server that refuses this recipient or these words will refuse them again. What it says of
    us, of our sign-in or of our address is for the operator to mend, and the mail waits."""
    return any(
        isinstance(answer, SMTPRecipientRefused | SMTPDataError)
        and 500 <= answer.code <= 599
        and answer.code != 530  # first sign in, or first encrypt
        for answer in answers(error)
    )


def answers(error: Exception) -> Iterator[Any]:
    if isinstance(error, SMTPRecipientsRefused):
        yield from error.recipients
    elif isinstance(error, SMTPResponseException):
        yield error


def told(error: Exception, words: Words) -> str:
    """What went wrong, for an operator, without what the server may have quoted from the mail."""
    said = [f"{answer.code} {answer.message}" for answer in answers(error)]
    reason = one_line(" ".join(said) or failures.message(error))
    reason = LINK.sub(failures.HIDDEN, reason)
    return LONG_WORD.sub(lambda word: hide(word[0], words), reason)[:LONGEST_REASON]


def hide(word: str, words: Words) -> str:
    return failures.HIDDEN if word in words.text or word in words.html else word
