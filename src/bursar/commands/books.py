"""`bursar verify` and `bursar export`: are the books right, and the books for other programs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from bursar.commands.options import Data, Json

if TYPE_CHECKING:
    from bursar.wallets.verification import Report

app = typer.Typer(help="The books for other programs.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The books for other programs."""


def verify(data: Data = None, json: Json = False) -> None:
    """Verify the books: replay every entry of every account.

    Ends with 1 if anything is wrong, and says which row is the first.
    """
    import sys

    from bursar.commands.terminal import answer_json, say

    def progress(number: int, end: int, what: str) -> None:
        say(f"{number + 1} of {end}: {what}")

    async def work(connection: Any) -> "Report":
        from bursar.wallets.verification import verify

        return await verify(connection, progress)

    report = as_owner(data, work)
    if json:
        answer_json(as_dict(report))
    else:
        print_report(report)
    if not report.ok:
        sys.exit(1)


def as_owner(data: Path | None, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Runs it on one connection of the owner, beside a server that may be running."""
    import asyncio

    from bursar.commands.place import migrated_url, settings_of

    settings = settings_of(data)
    with migrated_url(settings) as url:
        return asyncio.run(connected(url, settings, work))


async def connected(url: str, settings: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    from sqlalchemy.engine import make_url

    from bursar.core.database import connect
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    connection = await connect(make_url(url), settings)
    try:
        return await work(connection)
    except DRIVER_ERRORS as error:
        raise translate(error) or error from error
    finally:
        await connection.close()


def as_dict(report: "Report") -> dict[str, Any]:
    return {
        "ok": report.ok,
        "transfers": report.transfers,
        "accounts": report.accounts,
        "operations": report.operations,
        "holds": report.holds,
        "seconds": report.seconds,
        "findings": report.findings,  # the first one has the first row that is wrong
    }


def print_report(report: "Report") -> None:
    from bursar.commands.terminal import answer

    for finding in report.findings:
        answer(f"{finding.kind}\t{finding.rows:,}\t{finding.detail}")
    wrong = sum(finding.rows for finding in report.findings)
    parts = [
        "right" if report.ok else f"{wrong:,} finding(s)",
        f"{report.transfers:,} transfers",
        f"{report.operations:,} operations",
        f"{report.holds:,} holds",
        f"{report.accounts:,} accounts",
    ]
    answer(f"The books: {', '.join(parts)} ({report.seconds} s).")


@app.command()
def beancount(
    data: Data = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write it; stdout otherwise.", metavar="FILE", readable=False),
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="The first day, in UTC.", metavar="DAY"),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, in UTC.", metavar="DAY"),
    ] = None,
) -> None:
    """Write the books as beancount reads them; bean-check accepts them.

    With --from, what was before is brought forward.
    """

    async def work(connection: Any) -> None:
        from bursar.wallets.beancount import books

        days = [day.date() if day else None for day in (first, last)]
        with written(output) as file:
            await write(books(connection, *days), file)

    as_owner(data, work)


@contextmanager
def written(output: Path | None) -> Iterator[TextIO]:
    """The file is there when it is whole: whoever reads it never sees a part of the books."""
    import sys

    if output is None:
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


async def write(pieces: AsyncIterator[str], file: TextIO) -> None:
    async for piece in pieces:
        file.write(piece)
