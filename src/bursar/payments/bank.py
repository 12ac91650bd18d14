"""Statements of the bank: each line is kept once, and proposed for the transfers that are awaited.

What a match is worth is a sum that anybody can do: 60 for the payment's reference (or its id) in
the words of the transfer, 30 for the very amount, 10 for the name. So reference and amount come
first, and an amount alone comes last. Only staff accept one, and the payment is confirmed with what
has really come.
"""

import asyncio
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.errors import BursarError, NotFound
from bursar.core.jobs import Run
from bursar.core.paging import Order, Page, PageQuery, fetch, only
from bursar.payments import bank_files, queries
from bursar.payments import service as payments
from bursar.payments.around_models import (
    BankLine,
    BankMatch,
    BankStatement,
    LineStatus,
    MatchStatus,
)
from bursar.payments.bank_files import Format, Hints, Line
from bursar.payments.models import Method, Payment

REFERENCE, AMOUNT, NAME = 60, 30, 10
MOST_FOR_ONE = 5  # proposals of one line
AT_ONCE = 500  # lines in one statement
SHORTEST = 4  # of a reference, below which it stands in anything
COUNT_TO = 10_000
Row = TypeVar("Row", BankLine, BankMatch)
STATEMENTS = Order(
    {"imported_at": BankStatement.imported_at}, key=BankStatement.id, default="-imported_at"
)
LINES = Order({"booked_on": BankLine.booked_on}, key=BankLine.id, default="-booked_on")
MATCHES = Order({"score": BankMatch.score}, key=BankMatch.id, default="-score")


@dataclass(frozen=True, slots=True)
class File:
    """A statement that was read, before any of it is kept."""

    name: str
    sha256: bytes
    format: Format
    lines: list[Line]


async def read(content: bytes, name: str, hints: Hints) -> File:
    """Beside everything else that this process does."""
    format_, lines = await asyncio.to_thread(bank_files.read, content, hints)
    return File(name[:200], sha256(content).digest(), format_, lines)


@dataclass(frozen=True, slots=True)
class Taken:
    """What has become of a file."""

    statement: BankStatement
    proposed: int
    is_new: bool


async def take(db: AsyncSession, file: File) -> Taken:
    """Keeps what is new of it, and proposes matches; as the worker, on behalf of staff."""
    row = insert(BankStatement).values(
        sha256=file.sha256,
        file_name=file.name,
        format=file.format,
        lines=len(file.lines),
        new_lines=await count_new(db, file),
        imported_by=db.info["origin"].actor.name,
    )
    statement_id = await db.scalar(row.on_conflict_do_nothing().returning(BankStatement.id))
    if statement_id is None:
        audit.nothing_changed(db)
        before = select(BankStatement).filter_by(sha256=file.sha256)
        return Taken((await db.scalars(before)).one(), 0, is_new=False)
    added = await keep(db, statement_id, file)
    proposed = await propose(db, added)
    statement = await db.get_one(BankStatement, statement_id)
    after = {"file": file.name, "lines": statement.lines, "new_lines": statement.new_lines}
    await audit.record(
        db, "payments.statement_imported", "bank_statement", statement_id, after=after
    )
    return Taken(statement, proposed, is_new=True)


async def count_new(db: AsyncSession, file: File) -> int:
    """One import after the other: what one has counted no other adds meanwhile."""
    await db.execute(text("select pg_advisory_xact_lock(hashtextextended('bank statements', 0))"))
    hashes = list(bank_files.hashes(file.lines))
    known = 0
    for start in range(0, len(hashes), AT_ONCE):
        here = BankLine.hash.in_(hashes[start : start + AT_ONCE])
        known += await db.scalar(select(func.count()).select_from(BankLine).where(here)) or 0
    return len(hashes) - known


async def keep(db: AsyncSession, statement_id: UUID, file: File) -> list[UUID]:
    """Those that were not there; answers their ids."""
    added: list[UUID] = []
    pairs = list(zip(bank_files.hashes(file.lines), file.lines, strict=True))
    for start in range(0, len(pairs), AT_ONCE):
        rows = [
            {
                "statement_id": statement_id,
                "hash": hash_,
                "account": line.account,
                "booked_on": line.booked_on,
                "amount": line.amount,
                "currency": line.currency,
                "name": line.name,
                "reference": line.reference,
                "bank_reference": line.bank_reference,
            }
            for hash_, line in pairs[start : start + AT_ONCE]
        ]
        row = insert(BankLine).values(rows).on_conflict_do_nothing(index_elements=["hash"])
        added += await db.scalars(row.returning(BankLine.id))
    return added


# What could be meant: transfers that are awaited, with the amount, or with a reference that stands
# there when everything but letters and digits is left out. What is exact is looked at in Python.
CANDIDATES = text("""
select line.id as line_id, line.amount, line.name, line.reference, payments.id as payment_id,
  payments.amount as wanted, payments.reference as wanted_reference, users.name as customer
from (
  select id, amount, currency, name, reference,
    upper(regexp_replace(coalesce(reference, ''), '[^[:alnum:]]', '', 'g')) as words
  from bank_lines
  where id = any (cast(:lines as uuid[])) and status = 'unmatched' and amount > 0
) as line
join payments on payments.status = 'pending' and payments.payment_method = 'bank_transfer'
  and payments.currency = line.currency
  and (payments.amount = line.amount
    or position(upper(replace(payments.id::text, '-', '')) in words) > 0
    or (length(payments.reference) >= :shortest and position(
      upper(regexp_replace(payments.reference, '[^[:alnum:]]', '', 'g')) in words) > 0))
left join users on users.id = payments.user_id
where not exists (
  select from bank_matches as known
  where known.line_id = line.id and known.payment_id = payments.id)
order by line.id, payments.created_at
""")


async def propose(db: AsyncSession, line_ids: Sequence[UUID]) -> int:
    """The best few for each line; answers how many were new."""
    proposed = 0
    for start in range(0, len(line_ids), AT_ONCE):
        lines = list(line_ids[start : start + AT_ONCE])
        found = await db.execute(CANDIDATES, {"lines": lines, "shortest": SHORTEST})
        best: dict[UUID, list[dict[str, Any]]] = {}
        for row in found.mappings():
            if (worth := score(row))[0]:
                match = {
                    "line_id": row["line_id"],
                    "payment_id": row["payment_id"],
                    "score": worth[0],
                    "reason": worth[1],
                }
                best.setdefault(row["line_id"], []).append(match)
        rows = [
            match
            for several in best.values()
            for match in sorted(several, key=lambda each: -each["score"])[:MOST_FOR_ONE]
        ]
        if rows:
            await db.execute(insert(BankMatch).values(rows).on_conflict_do_nothing())
        proposed += len(rows)
    return proposed


def score(row: Any) -> tuple[int, str]:
    """What a match is worth, and why; a name alone is worth nothing."""
    words, reasons, worth = row["reference"] or "", [], 0
    if stands_in(row["wanted_reference"], words) or stands_in(str(row["payment_id"]), words):
        worth, reasons = REFERENCE, ["reference"]
    if row["amount"] == row["wanted"]:
        worth, reasons = worth + AMOUNT, [*reasons, "amount"]
    if worth and is_named(row["customer"], row["name"]):
        worth, reasons = worth + NAME, [*reasons, "name"]
    return worth, ", ".join(reasons)


def stands_in(reference: str | None, words: str) -> bool:
    """As a word of its own: INV-12 is not in INV-123; a bank may have put spaces anywhere."""
    letters = [each for each in (reference or "").upper() if each.isalnum()]
    if len(letters) < SHORTEST:
        return False
    pattern = r"[\W_]*".join(map(re.escape, letters))
    return re.search(rf"(?<![^\W_]){pattern}(?![^\W_])", words.upper()) is not None


def is_named(customer: str | None, name: str | None) -> bool:
    """Each part of the customer's name stands in the bank's, however it is accented and ordered."""
    wanted, there = parts(customer), parts(name)
    return bool(wanted) and wanted <= there


def parts(name: str | None) -> set[str]:
    plain = unicodedata.normalize("NFKD", (name or "").casefold())
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    return set(re.findall(r"[^\W_]+", plain))


@jobs.cron("20 4 * * *", "payments.match_daily")
async def match_daily(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has lines of the last two months proposed for payments that were asked for since."""
    await jobs.enqueue(db, match_again, unique_key="one at a time")


@jobs.steps("payments.match_bank_lines", added_by={Role.WORKER}, at_once=1)
async def match_again(run: Run) -> None:
    """Proposes matches for lines that have none yet."""
    recent = select(BankLine.id).where(
        BankLine.status == LineStatus.UNMATCHED,
        BankLine.amount > 0,
        BankLine.booked_on > func.current_date() - 62,
    )
    async with run.transaction() as db:
        waiting = list(await db.scalars(recent))
    for start in range(0, len(waiting), AT_ONCE):
        async with run.transaction() as db:
            await propose(db, waiting[start : start + AT_ONCE])


class UnknownMatch(NotFound, status=404, code="payments.unknown_match"):
    """There is no such line of a statement, or no such match."""


class Decided(BursarError, status=409, code="payments.match_decided"):
    """This line, or this match, was decided on before."""


class PaidOtherwise(BursarError, status=409, code="payments.paid_otherwise"):
    """The payment is no awaited transfer: it has another currency or method, or another amount has
    come for it already."""


async def accept(db: AsyncSession, match_id: UUID) -> BankMatch:
    """The line is the money of the payment, which is confirmed with what has come; as the worker,
    on behalf of staff."""
    match = await locked(db, BankMatch, match_id)
    if match.status == MatchStatus.ACCEPTED:
        audit.nothing_changed(db)
        return match
    if match.status == MatchStatus.REJECTED:
        raise Decided("This match was rejected.")
    await settle(db, match)
    return match


async def assign(db: AsyncSession, line_id: UUID, payment_id: UUID) -> BankMatch:
    """Staff know better than any proposal."""
    await locked(db, BankLine, line_id)
    await queries.payment(db, payment_id)
    row = insert(BankMatch).values(
        line_id=line_id, payment_id=payment_id, score=1, reason="by staff"
    )
    await db.execute(row.on_conflict_do_nothing())
    query = select(BankMatch).filter_by(line_id=line_id, payment_id=payment_id)
    match = (await db.scalars(query.with_for_update())).one()
    if match.status == MatchStatus.ACCEPTED:
        audit.nothing_changed(db)
        return match
    await settle(db, match)
    return match


async def settle(db: AsyncSession, match: BankMatch) -> None:
    line = await locked(db, BankLine, match.line_id)
    if line.status != LineStatus.UNMATCHED:
        raise Decided(f"This line is {line.status} already.")
    payment = await queries.payment(db, match.payment_id, lock=True)
    check_awaited(payment, line)
    if await db.scalar(select(BankLine.id).filter_by(payment_id=payment.id)):
        raise PaidOtherwise("Another line is the money of this payment already.")
    if not payment.captured:
        reason = f"bank line of {line.booked_on}"
        await payments.confirm(db, payment.id, amount=line.amount, reason=reason)
    line.payment_id = payment.id
    await decide(db, line, LineStatus.MATCHED)
    await decide(db, match, MatchStatus.ACCEPTED)
    others = update(BankMatch).where(
        BankMatch.status == MatchStatus.PROPOSED,
        (BankMatch.line_id == line.id) | (BankMatch.payment_id == payment.id),
    )
    by = {"decided_by": match.decided_by, "decided_at": match.decided_at}
    await db.execute(others.values(status=MatchStatus.REJECTED, **by))
    after = {"line_id": line.id, "amount": line.amount}
    await audit.record(db, "payments.match_accepted", "payment", payment.id, after=after)


async def decide(db: AsyncSession, row: BankLine | BankMatch, status: str) -> None:
    """Who has said so stands beside it."""
    row.status, row.decided_by, row.decided_at = status, db.info["origin"].actor.name, func.now()
    await db.flush()
    await db.refresh(row)


def check_awaited(payment: Payment, line: BankLine) -> None:
    fits = payment.payment_method == Method.BANK_TRANSFER and payment.currency == line.currency
    if not fits or line.amount <= 0:
        raise PaidOtherwise("This line cannot be the money of that payment.")
    if payment.captured and payment.captured != line.amount:
        raise PaidOtherwise(f"For this payment {payment.captured} has come already.")


async def reject(db: AsyncSession, match_id: UUID) -> BankMatch:
    """It is not; the same match is not proposed again."""
    match = await locked(db, BankMatch, match_id)
    if match.status == MatchStatus.REJECTED:
        audit.nothing_changed(db)
        return match
    if match.status == MatchStatus.ACCEPTED:
        raise Decided("This match was accepted, and the payment is confirmed.")
    await decide(db, match, MatchStatus.REJECTED)
    await audit.record(db, "payments.match_rejected", "payment", match.payment_id)
    return match


async def dismiss(db: AsyncSession, line_id: UUID) -> BankLine:
    """The line is no payment of a customer's."""
    line = await locked(db, BankLine, line_id)
    if line.status == LineStatus.IGNORED:
        audit.nothing_changed(db)
        return line
    if line.status == LineStatus.MATCHED:
        raise Decided("This line is the money of a payment already.")
    await decide(db, line, LineStatus.IGNORED)
    await audit.record(db, "payments.bank_line_dismissed", "bank_line", line.id)
    return line


async def locked(db: AsyncSession, model: type[Row], row_id: UUID) -> Row:
    query = select(model).where(model.id == row_id).with_for_update()
    found: Row | None = await db.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise UnknownMatch("There is no such line or match.")
    return found


async def statements(db: AsyncSession, ask: PageQuery) -> Page[BankStatement]:
    return await fetch(db, select(BankStatement), ask, STATEMENTS, count_to=COUNT_TO)


async def lines(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: LineStatus | None = None,
    statement_id: UUID | None = None,
) -> Page[BankLine]:
    wanted = {BankLine.status: status, BankLine.statement_id: statement_id}
    query = only(select(BankLine), wanted)
    return await fetch(db, query, ask, LINES, count_to=COUNT_TO)


async def matches(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: MatchStatus | None = None,
    line_id: UUID | None = None,
) -> Page[BankMatch]:
    query = only(select(BankMatch), {BankMatch.status: status, BankMatch.line_id: line_id})
    return await fetch(db, query, ask, MATCHES, count_to=COUNT_TO)
