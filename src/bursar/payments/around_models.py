"""The tables around payments: receipts, automatic top-ups, reconciliation, bank statements."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    LargeBinary,
    Numeric,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base

ID = text("uuid7()")
NOTHING = text("0")


class Series(StrEnum):
    """Which numbers a receipt is counted in; no real one is missing because of a test."""

    LIVE = "live"
    TEST = "test"


class Receipt(Base):
    """That a payment has a receipt, under which number, and who we were then."""

    __tablename__ = "receipts"
    __table_args__ = (UniqueConstraint("series", "year", "number", name="uq_receipts_number"),)
    unaudited = True

    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"), primary_key=True)
    series: Mapped[str]
    year: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    number: Mapped[int] = mapped_column(server_default=FetchedValue())
    company: Mapped[str]
    support_email: Mapped[str]
    issued_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def title(self) -> str:
        """2026-000042, or TEST-2026-000042."""
        return f"{'TEST-' if self.series == Series.TEST else ''}{self.year}-{self.number:06}"


class ForgottenMethod(Base):
    """A saved method that is gone here and is to be forgotten at its provider; by a trigger."""

    __tablename__ = "forgotten_methods"
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    provider: Mapped[str]
    token: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default=NOTHING)
    forgotten_at: Mapped[datetime] = mapped_column(server_default=func.now())


class MethodNotice(Base):
    """That somebody was told of the end of a saved method, once for each end."""

    __tablename__ = "method_notices"
    unaudited = True

    method_id: Mapped[UUID] = mapped_column(
        ForeignKey("payment_methods.id", ondelete="CASCADE"), primary_key=True
    )
    exp_year: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    exp_month: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    told_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AutoTopUp(Base):
    """When a customer's wallet is filled by itself, from which saved method, and how often."""

    __tablename__ = "auto_topups"
    __table_args__ = (
        Index(
            "ix_auto_topups_method_id",
            "method_id",
            postgresql_where=text("method_id is not null"),
        ),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    threshold: Mapped[Decimal] = mapped_column(Numeric)
    amount: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str] = mapped_column(ForeignKey("assets.code"), server_default="USD")
    method_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("payment_methods.id", ondelete="SET NULL")
    )
    at_most_per_day: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    declines: Mapped[int] = mapped_column(SmallInteger, server_default=NOTHING)  # one after another
    retry_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class ProviderBooking(Base):
    """A line of a provider's own books, as it was told when its period was read last."""

    __tablename__ = "provider_bookings"
    __table_args__ = (
        Index("ix_provider_bookings_object_id", "provider", "object_id"),
        Index("ix_provider_bookings_booked_at", "provider", "booked_at"),
        Index(
            "ix_provider_bookings_payment_id",
            "payment_id",
            postgresql_where=text("payment_id is not null"),
        ),
    )
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    read_id: Mapped[UUID]
    provider: Mapped[str]
    object_id: Mapped[str]
    what: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str]
    fee: Mapped[Decimal] = mapped_column(Numeric)
    booked_at: Mapped[datetime]
    reference: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"))


class Reconciliation(Base):
    """One comparison of a period."""

    __tablename__ = "reconciliations"
    __table_args__ = (Index("ix_reconciliations_started_at", "started_at", "id"),)
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    since: Mapped[datetime]
    until: Mapped[datetime]
    bookings: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    differences: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class DifferenceKind(StrEnum):
    """How the provider's books, our payments and the ledger can differ."""

    MISSING_HERE = "missing_here"  # the provider has booked it, we know nothing of it
    MISSING_THERE = "missing_there"
    OTHER_AMOUNT = "other_amount"
    OTHER_CURRENCY = "other_currency"
    OTHER_FEE = "other_fee"
    LEDGER_WITHOUT_PAYMENT = "ledger_without_payment"
    PAYMENT_WITHOUT_LEDGER = "payment_without_ledger"
    LEDGER_DIFFERS = "ledger_differs"  # another amount or currency than the payment has


class DifferenceStatus(StrEnum):
    """Where a difference stands."""

    OPEN = "open"
    GONE = "gone"  # the next comparison did not find it any more
    CLOSED = "closed"  # staff have said why it may be


class Difference(Base):
    """Something that does not agree, listed once however often it is found."""

    __tablename__ = "reconciliation_differences"
    __table_args__ = (
        UniqueConstraint(
            "kind", "provider", "subject", name="uq_reconciliation_differences_subject"
        ),
        Index("ix_reconciliation_differences_status", "status", "happened_at", "id"),
        Index("ix_reconciliation_differences_happened_at", "happened_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    kind: Mapped[str]
    provider: Mapped[str]
    subject: Mapped[str]  # the provider's id, our id, or the key in the ledger
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"))
    ours: Mapped[Decimal | None] = mapped_column(Numeric)
    our_currency: Mapped[str | None]
    theirs: Mapped[Decimal | None] = mapped_column(Numeric)
    their_currency: Mapped[str | None]
    happened_at: Mapped[datetime]
    status: Mapped[str] = mapped_column(server_default=DifferenceStatus.OPEN)
    note: Mapped[str | None]
    closed_by: Mapped[str | None]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_by: Mapped[UUID] = mapped_column(ForeignKey("reconciliations.id"))
    settled_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class BankStatement(Base):
    """A file of a bank that was read; the same file is read once."""

    __tablename__ = "bank_statements"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    sha256: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    file_name: Mapped[str]
    format: Mapped[str]
    lines: Mapped[int]
    new_lines: Mapped[int]
    imported_by: Mapped[str]
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LineStatus(StrEnum):
    """What has become of a line of a statement."""

    UNMATCHED = "unmatched"
    MATCHED = "matched"
    IGNORED = "ignored"


class BankLine(Base):
    """One line of a bank statement: money that came, or went where the amount is below zero."""

    __tablename__ = "bank_lines"
    __table_args__ = (
        Index("ix_bank_lines_status", "status", "booked_on", "id"),
        Index("ix_bank_lines_booked_on", "booked_on", "id"),
        Index("ix_bank_lines_statement_id", "statement_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    statement_id: Mapped[UUID] = mapped_column(ForeignKey("bank_statements.id"))
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    account: Mapped[str | None]
    booked_on: Mapped[date]
    amount: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str]
    name: Mapped[str | None]
    reference: Mapped[str | None]
    bank_reference: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=LineStatus.UNMATCHED)
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"), unique=True)
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class MatchStatus(StrEnum):
    """What staff have said to a proposal."""

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class BankMatch(Base):
    """That a line may be the money of a payment, how sure that is, and why."""

    __tablename__ = "bank_matches"
    __table_args__ = (
        UniqueConstraint("line_id", "payment_id", name="uq_bank_matches_line_id"),
        Index("ix_bank_matches_payment_id", "payment_id"),
        Index("ix_bank_matches_score", "status", "score", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=ID)
    line_id: Mapped[UUID] = mapped_column(ForeignKey("bank_lines.id"))
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    score: Mapped[int] = mapped_column(SmallInteger)
    reason: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=MatchStatus.PROPOSED)
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
