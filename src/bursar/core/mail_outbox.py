"""The table of mails: what stands in a mail is readable only here, with the secret key."""

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

import orjson
from sqlalchemy import Index, RowMapping, func, insert, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base
from bursar.core.errors import BursarError
from bursar.core.mail_templates import Content
from bursar.core.seal import Seal, SealBroken
from bursar.core.settings import Settings

MAX_LISTED = 1000
MAX_ATTACHMENT_BYTES = 262_144


class Status(StrEnum):
    """Where a mail is."""

    WAITING = "waiting"  # on its way: a job sends it
    KEPT = "kept"  # there was no mail server to give it to
    SENT = "sent"
    FAILED = "failed"


class Mail(Base):
    """One mail; its words are sealed, and gone once it is sent."""

    __tablename__ = "mails"
    __table_args__ = (
        Index("ix_mails_created_at", "created_at", "id"),
        Index("ix_mails_recipient", text("lower(recipient)")),
        Index("ix_mails_subject", "subject"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    template: Mapped[str]
    recipient: Mapped[str]
    subject: Mapped[UUID | None]  # whose it is: an address may change, and be forgotten
    sealed: Mapped[bytes | None]
    status: Mapped[str] = mapped_column(server_default="waiting")
    attempts: Mapped[int] = mapped_column(server_default="0")
    message_id: Mapped[str | None]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A small file that goes with a mail, sealed like its words; `content` is base64."""

    name: str
    media_type: str
    content: str

    @classmethod
    def of(cls, name: str, media_type: str, content: bytes) -> "Attachment":
        if len(content) > MAX_ATTACHMENT_BYTES:
            raise ValueError(f"an attachment has at most {MAX_ATTACHMENT_BYTES} bytes")
        return cls(name, media_type, b64encode(content).decode())

    @property
    def bytes(self) -> bytes:
        return b64decode(self.content)


@dataclass(frozen=True, slots=True)
class Words:
    """What is sealed: the address too, so that nobody can send these words to somebody else."""

    to: str
    company: str
    subject: str
    text: str
    html: str
    attachment: Attachment | None = None


@lru_cache(maxsize=8)
def seal_for(secret_keys: tuple[str, ...]) -> Seal:
    return Seal(secret_keys, "mail")


def settings_of(db: AsyncSession) -> Settings:
    """Those of the Database that opened this transaction."""
    settings: Settings = db.info["settings"]
    return settings


async def add(
    db: AsyncSession,
    mail_id: UUID,
    template: str,
    *,
    to: str,
    about: UUID | None,
    company: str,
    content: Content,
    attachment: Attachment | None = None,
) -> None:
    words = Words(to, company, content.subject, content.text, content.html, attachment)
    seal = seal_for(settings_of(db).secret_keys)
    values = {
        "id": mail_id,
        "template": template,
        "recipient": to,
        "subject": about,
        "sealed": seal.close(orjson.dumps(asdict(words))),
    }
    # The table and not the model, whose insert would ask for defaults that the adder may not read.
    await db.execute(insert(Mail.__table__), values)  # type: ignore[arg-type]


def opened(db: AsyncSession, sealed: bytes) -> Words:
    """What was sealed, or SealBroken."""
    seal = seal_for(settings_of(db).secret_keys)
    facts = orjson.loads(seal.open(sealed))
    attached = facts.pop("attachment", None)  # mails of an older release have none
    return Words(**facts, attachment=Attachment(**attached) if attached else None)


@dataclass(frozen=True, slots=True)
class Listed:
    """One mail as a list shows it, without its words."""

    id: UUID
    status: str
    template: str
    recipient: str
    attempts: int
    created_at: datetime
    queued_at: datetime
    settled_at: datetime | None
    message_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Shown(Listed):
    """One mail whole; no words where it is sent, or where they cannot be opened any more."""

    words: Words | None
    unreadable: str | None  # why


FACTS = """
  select id, status, template, recipient, attempts, created_at, queued_at, settled_at, message_id,
    reason
"""
LIST = text(f"""{FACTS} from mails
  where status = any(:statuses) order by created_at desc, id desc limit :limit
""")
ONE = text(f"{FACTS}, sealed from mails where id = :id")


async def listing(db: AsyncSession, statuses: list[Status], *, limit: int = 100) -> list[Listed]:
    """The newest first."""
    key = {"statuses": list(statuses or Status), "limit": min(limit, MAX_LISTED)}
    return [Listed(**row) for row in (await db.execute(LIST, key)).mappings()]


class UnknownMail(BursarError, status=404, code="mail.unknown"):
    """No mail has this id: it never was, or it was forgotten with its account or with time."""


async def row(db: AsyncSession, mail_id: UUID) -> RowMapping:
    found = (await db.execute(ONE, {"id": mail_id})).mappings().one_or_none()
    if found is None:
        raise UnknownMail(f"There is no mail {mail_id}.")
    return found


async def show(db: AsyncSession, mail_id: UUID) -> Shown:
    facts = dict(await row(db, mail_id))
    sealed = facts.pop("sealed")
    if sealed is None:
        return Shown(**facts, words=None, unreadable="its words were forgotten when it was sent")
    try:
        return Shown(**facts, words=opened(db, sealed), unreadable=None)
    except SealBroken as broken:
        return Shown(**facts, words=None, unreadable=broken.detail)
