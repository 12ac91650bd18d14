"""`bursar reconcile`, `bursar import bank-statement`: our payments beside the books of others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bursar.commands.options import Data, Json

if TYPE_CHECKING:
    from bursar.core.database import Database
    from bursar.payments.around_models import Difference
    from bursar.payments.reconciliation import Compared

DAYS = 7  # that are compared where nothing is said
AT_ONCE, MOST_LISTED = 100, 10_000  # of differences


def reconcile(
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="The first day, in UTC.", metavar="DAY"),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, in UTC.", metavar="DAY"),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Compare payments with the providers' books and the ledger; the last 7 days unless said.

    Ends with 1 if something differs that nobody has closed.
    """
    import sys

    from bursar.commands.terminal import answer_json

    today = datetime.now(UTC).date()
    end = last.date() if last else today
    begin = first.date() if first else end - timedelta(days=DAYS - 1)
    if begin > end:
        raise typer.BadParameter("lies after --to", param_hint="--from")
    compared, listed = with_database(
        data, lambda database: comparing(database, midnight(begin), midnight(end, days=1))
    )
    if json:
        answer_json(as_dict(compared, listed))
    else:
        print_differences(compared, listed)
    if compared.unread:
        raise compared.unread[0]
    if compared.differences:
        sys.exit(1)


def midnight(day: date, *, days: int = 0) -> datetime:
    return datetime.combine(day + timedelta(days=days), time(), UTC)


def with_database(data: Path | None, work: Any) -> Any:
    """Runs it beside a server that may be running."""
    import asyncio

    from bursar.commands.place import migrated_url, settings_of
    from bursar.core.database import Database
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    settings = settings_of(data)

    async def run(url: str) -> Any:
        database = Database(url, settings)
        try:
            return await work(database)
        except DRIVER_ERRORS as error:
            raise translate(error) or error from error
        finally:
            await database.close()

    with migrated_url(settings) as url:
        return asyncio.run(run(url))


async def comparing(
    database: "Database", since: datetime, until: datetime
) -> "tuple[Compared, list[Difference]]":
    from bursar.core.database import WORKER
    from bursar.core.paging import PageQuery
    from bursar.payments import reconciliation
    from bursar.payments.around_models import DifferenceStatus
    from bursar.payments.providers.registry import Providers, providers
    from bursar.payments.reconciliation import Filters

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with database.transaction(WORKER) as db:
            yield db

    known: Providers = providers(database.settings)
    try:
        compared = await reconciliation.compare(transaction, known, since, until)
    finally:
        await known.close()
    only = Filters(status=DifferenceStatus.OPEN, since=since, until=until)
    listed: list[Difference] = []
    cursor: str | None = None
    while len(listed) < MOST_LISTED:
        async with transaction() as db:
            ask = PageQuery(per_page=AT_ONCE, cursor=cursor)
            page = await reconciliation.differences(db, ask, only)
        listed += page.items
        if (cursor := page.next_cursor) is None:
            break
    return compared, listed


SHOWN = ("kind", "provider", "subject", "payment_id", "ours", "our_currency", "theirs",
         "their_currency", "happened_at")  # fmt: skip


def as_dict(compared: "Compared", listed: "list[Difference]") -> dict[str, Any]:
    return {
        "ok": compared.differences == 0 and not compared.unread,
        "unread": [why.detail for why in compared.unread],
        "since": compared.since,
        "until": compared.until,
        "bookings": compared.bookings,
        "differences": compared.differences,
        "listed": [{name: getattr(row, name) for name in SHOWN} for row in listed],
    }


def print_differences(compared: "Compared", listed: "list[Difference]") -> None:
    from bursar.commands.terminal import answer, say

    for row in listed:
        sides = (
            f"{amount} {currency}" if amount is not None else "nothing"
            for amount, currency in ((row.ours, row.our_currency), (row.theirs, row.their_currency))
        )
        answer("\t".join((row.kind, row.provider, row.subject, *sides)))
    if compared.differences > len(listed):
        say(f"and {compared.differences - len(listed)} more: see the staff's list of differences")
    for why in compared.unread[1:]:
        say(why.detail)
    found = f"{compared.differences:,} difference(s)" if compared.differences else "all agrees"
    days = f"{compared.since:%Y-%m-%d} to {compared.until - timedelta(seconds=1):%Y-%m-%d}"
    answer(f"{days}: {found}, {compared.bookings:,} lines of the providers' books.")


def bank_statement(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or camt.053.", readable=False)],
    currency: Annotated[
        str | None, typer.Option(help="Of lines that name none, such as EUR.", metavar="CODE")
    ] = None,
    dates: Annotated[
        str | None,
        typer.Option(help="dmy or mdy: which comes first in 03/04/2026.", metavar="ORDER"),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Import a statement of the bank, and propose which lines are awaited transfers.

    What was imported before is passed over, so the same file may be imported again.
    """
    from bursar.commands.import_users import opened, printable
    from bursar.commands.terminal import answer, answer_json
    from bursar.payments.bank_files import MAX_BYTES, Hints

    if dates not in (None, "dmy", "mdy"):
        raise typer.BadParameter("is dmy or mdy", param_hint="--dates")
    with opened(str(file)) as source:
        content = source.read(MAX_BYTES + 1)
    hints = Hints(currency, dates)  # type: ignore[arg-type]
    name = printable(file.name)
    found = with_database(data, lambda database: taking(database, content, name, hints))
    if json:
        answer_json(found)
        return
    if not found["is_new"]:
        answer(f"{name} was imported before; nothing has changed.")
        return
    answer(
        f"{name}: {found['lines']:,} lines, {found['new_lines']:,} new,"
        f" {found['proposed']:,} matches proposed."
    )


async def taking(database: "Database", content: bytes, name: str, hints: Any) -> dict[str, Any]:
    from bursar.auth.actor import Origin, operator
    from bursar.auth.permissions import StaffRole
    from bursar.core.database import WORKER
    from bursar.payments import bank

    file = await bank.read(content, name, hints)
    origin = Origin(operator(StaffRole.OWNER))
    async with database.transaction(WORKER, origin=origin) as db:
        taken = await bank.take(db, file)
        return {
            "statement": str(taken.statement.id),
            "lines": taken.statement.lines,
            "new_lines": taken.statement.new_lines,
            "proposed": taken.proposed,
            "is_new": taken.is_new,
        }
