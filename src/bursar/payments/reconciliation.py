"""The provider's books beside our payments and the ledger: what differs is listed, each once.

The provider's lines are read a few at a time, outside of any transaction, and kept; then sets of
rows are compared inside PostgreSQL (payments/comparisons.py). So it takes the same memory for a day
and for a year, and a period may be compared again: what is read replaces what was read before.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import etag, jobs
from bursar.core.database import Role
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.jobs import Run
from bursar.core.paging import Order, Page, PageQuery, fetch
from bursar.payments import comparisons, settling
from bursar.payments.around_models import (
    Difference,
    DifferenceKind,
    DifferenceStatus,
    ProviderBooking,
    Reconciliation,
)
from bursar.payments.providers import Booked, NotShown, Provider, Unknown
from bursar.payments.providers.demo import Demo
from bursar.payments.providers.registry import Providers, providers

log = logging.getLogger(__name__)

OpenTransaction = Callable[[], AbstractAsyncContextManager[AsyncSession]]
AT_ONCE = 500  # lines of a provider's books in one transaction
DAYS_BACK = 3  # of the daily run: what was late is found by the second look, and is gone then
SETTLED_BY = timedelta(hours=3)  # PayPal may take so long until it shows what it has booked
PASSED_OVER = ("payout", "transfer", "topup")  # between the provider and our bank
DIFFERENCES = Order(
    {"happened_at": Difference.happened_at}, key=Difference.id, default="-happened_at"
)
RUNS = Order(
    {"started_at": Reconciliation.started_at}, key=Reconciliation.id, default="-started_at"
)
COUNT_TO = 10_000


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one comparison."""

    since: datetime
    until: datetime
    bookings: int
    differences: int  # open ones of this period
    unread: tuple[BursarError, ...] = ()  # why some providers' books were not compared


async def compare(
    transaction: OpenTransaction, known: Providers, since: datetime, until: datetime
) -> Compared:
    """All providers that keep books, and the ledger, in one period; as the worker. One that does
    not show its books keeps nobody else from being compared."""
    if since >= until:
        raise InvalidInput.at("?to", "A period ends after it begins.", "bad_period")
    async with transaction() as db:
        await db.execute(comparisons.FORGET_BROKEN_OFF)
        begun = insert(Reconciliation).values(since=since, until=until)
        run = await db.scalar(begun.returning(Reconciliation.id))
    assert run is not None  # noqa: S101 - it was inserted
    read: list[str] = []
    unread: list[BursarError] = []
    lines = 0
    for provider in known.known.values():
        if provider.name == Demo.name:
            continue
        try:
            lines += await read_books(transaction, run, provider, since, until)
        except (BooksUnread, BooksRefused) as why:
            unread.append(why)
            async with transaction() as db:
                await db.execute(
                    delete(ProviderBooking).filter_by(read_id=run, provider=provider.name)
                )
        else:
            read.append(provider.name)
    async with transaction() as db:
        found = await settle(db, run, read, since, until)
        done = update(Reconciliation).where(Reconciliation.id == run)
        await db.execute(
            done.values(bookings=lines, differences=found, finished_at=func.clock_timestamp())
        )
    return Compared(since, until, lines, found, tuple(unread))


class BooksUnread(BursarError, status=503, code="payments.books_unread"):
    """The provider did not answer; its books were not compared, the others' were. Try again."""


class BooksRefused(BursarError, status=409, code="payments.books_refused"):
    """The provider does not show its books to us; its sentence says what to do. The others' were
    compared."""


async def read_books(
    transaction: OpenTransaction, run: UUID, provider: Provider, since: datetime, until: datetime
) -> int:
    """What is read counts when all of it is read (comparisons.py, STANDING)."""
    lines = 0
    try:
        async for batch in batches(provider, since, until):
            rows = [row_of(run, provider.name, each) for each in batch]
            async with transaction() as db:
                await db.execute(insert(ProviderBooking), rows)
            lines += len(rows)
    except Unknown as why:
        raise BooksUnread(f"{provider.name} did not show its books: {why}.") from why
    except NotShown as why:
        raise BooksRefused(str(why)) from why
    return lines


async def batches(
    provider: Provider, since: datetime, until: datetime
) -> AsyncIterator[list[Booked]]:
    batch = []
    async for each in provider.booked(since, until):
        if each.what.startswith(PASSED_OVER):
            continue
        batch.append(each)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def row_of(run: UUID, provider: str, line: Booked) -> dict[str, Any]:
    reference = {name: line.payment[name] for name in settling.REFERENCES if name in line.payment}
    if own := settling.uuid(line.payment.get("id")):
        reference["id"] = str(own)
    return {
        "read_id": run,
        "provider": provider,
        "object_id": line.object_id,
        "what": line.what,
        "amount": line.amount,
        "currency": line.currency,
        "fee": line.fee,
        "booked_at": line.booked_at,
        "reference": reference,
    }


async def settle(
    db: AsyncSession, run: UUID, read: list[str], since: datetime, until: datetime
) -> int:
    """Compares what was read; answers how much is open."""
    period = {"since": since, "until": until}
    facts = {"run": run, "read": read, **period}
    await db.execute(comparisons.REPLACE, facts)
    await db.execute(comparisons.RESOLVE, {"run": run})
    for statement in comparisons.COMPARISONS:
        named = {name: facts[name] for name in facts if f":{name}" in statement.text}
        await db.execute(statement, named)
    await db.execute(comparisons.SETTLE, facts)
    return await db.scalar(comparisons.OPEN_IN_PERIOD, period) or 0


@jobs.cron("40 3 * * *", "payments.reconcile_daily")
async def reconcile_daily(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has the last days compared with the books of the providers."""
    await jobs.enqueue(db, reconcile, unique_key="one at a time")


@jobs.steps("payments.reconcile", added_by={Role.WORKER}, at_once=1, timeout_seconds=3600)
async def reconcile(run: Run) -> None:
    """Compares the last days with the books of the providers and with the ledger."""
    async with run.transaction() as db:
        known = providers(db.info["settings"])
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    until = now - SETTLED_BY
    found = await compare(run.transaction, known, today - timedelta(days=DAYS_BACK), until)
    if found.differences:
        log.warning("reconciliation: %d differences are open", found.differences)
    if found.unread:
        raise found.unread[0]  # the job comes again, and staff see why where failed jobs are


@dataclass(frozen=True, slots=True)
class Filters:
    """Which differences somebody wants to see."""

    kind: DifferenceKind | None = None
    status: DifferenceStatus | None = None
    provider: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def differences(db: AsyncSession, ask: PageQuery, only: Filters) -> Page[Difference]:
    query = select(Difference)
    wanted = {
        Difference.kind: only.kind,
        Difference.status: only.status,
        Difference.provider: only.provider,
    }
    query = query.where(*(column == value for column, value in wanted.items() if value is not None))
    if only.since:
        query = query.where(Difference.happened_at >= only.since)
    if only.until:
        query = query.where(Difference.happened_at < only.until)
    return await fetch(db, query, ask, DIFFERENCES, count_to=COUNT_TO)


async def runs(db: AsyncSession, ask: PageQuery) -> Page[Reconciliation]:
    return await fetch(db, select(Reconciliation), ask, RUNS, count_to=COUNT_TO)


class UnknownDifference(BursarError, status=404, code="payments.unknown_difference"):
    """There is no such difference."""


class NotOpen(BursarError, status=409, code="payments.difference_not_open"):
    """This difference is gone or was closed already."""


async def difference(db: AsyncSession, difference_id: UUID) -> Difference:
    found = await db.get(Difference, difference_id, populate_existing=True)
    if found is None:
        raise UnknownDifference("There is no such difference.")
    return found


async def close(
    db: AsyncSession, difference_id: UUID, note: str, *, if_match: str | None = None
) -> Difference:
    """Staff say why it may be so."""
    query = select(Difference).where(Difference.id == difference_id).with_for_update()
    found = await db.scalar(query)
    if found is None:
        raise UnknownDifference("There is no such difference.")
    etag.check(if_match, found.version)
    if found.status != DifferenceStatus.OPEN:
        raise NotOpen(f"This difference is {found.status} already.")
    found.status, found.note = DifferenceStatus.CLOSED, note
    found.closed_by, found.settled_at = db.info["origin"].actor.name, func.now()
    await db.flush()
    await db.refresh(found)
    await audit.record(
        db, "payments.difference_closed", "difference", found.id, after={"note": note}
    )
    return found
