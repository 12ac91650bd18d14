"""`bursar audit`: is the audit trail what it was, and if not, where it is not."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bursar.commands.options import Data, Json

if TYPE_CHECKING:
    from bursar.audit.verification import Report

app = typer.Typer(help="The audit trail.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The audit trail."""


@app.command()
def verify(
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Where shipped checkpoints lie, as in BURSAR_AUDIT_CHECKPOINTS.", metavar="URL"
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Verify every row, seal and checkpoint of the audit trail.

    Ends with 1 if anything was edited, deleted, reordered, cut off or put back.
    """
    import asyncio
    import sys

    from bursar.audit.checkpoints import place_of
    from bursar.commands.place import migrated_url, settings_of
    from bursar.commands.terminal import answer_json

    settings = settings_of(data, audit_checkpoints=checkpoints)
    with migrated_url(settings) as url:
        report = asyncio.run(examine(url, settings, place_of(settings)))
    if json:
        answer_json(as_dict(report))
    else:
        print_report(report)
    if not report.ok:
        sys.exit(1)


async def examine(url: str, settings: Any, place: str | None) -> "Report":
    from sqlalchemy.engine import make_url

    from bursar.audit.verification import verify
    from bursar.commands.terminal import say
    from bursar.core.database import connect
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    told = 0

    def progress(seq: int, end: int) -> None:
        nonlocal told
        if seq * 10 // end > told:
            told = seq * 10 // end
            say(f"{seq:,} of {end:,} seals")

    connection = await connect(make_url(url), settings)
    try:
        return await verify(connection, settings.secret_keys, place, progress)
    except DRIVER_ERRORS as error:
        raise translate(error) or error from error
    finally:
        await connection.close()


def as_dict(report: "Report") -> dict[str, Any]:
    return {
        "ok": report.ok,
        "sealed": report.sealed,
        "unsealed": report.unsealed,
        "confirmed_seq": report.confirmed_seq,
        "witnessed_seq": report.witnessed_seq,
        "seconds": report.seconds,
        "findings": report.findings,  # orjson writes dataclasses as they are
        "notes": report.notes,
    }


def print_report(report: "Report") -> None:
    from bursar.commands.terminal import answer, say

    for note in report.notes:
        say(f"note: {note}")
    for finding in report.findings:
        answer(f"{finding.kind}\t{finding.detail}")
    state = "unbroken" if report.ok else f"{len(report.findings)} finding(s)"
    waiting = f"{report.unsealed:,} not sealed yet"
    parts = [state, f"{report.sealed:,} rows sealed", waiting, confirmation(report)]
    answer(f"The audit trail: {', '.join(parts)} ({report.seconds} s).")


def confirmation(report: "Report") -> str:
    """How far it is vouched for, and whether only by what its owner could change as well."""
    if not report.confirmed_seq:
        return "confirmed by no checkpoint"
    up_to = f"confirmed up to seal {report.confirmed_seq:,}"
    if not report.witnessed_seq:
        return f"{up_to} by the database's own table only"
    if report.witnessed_seq < report.confirmed_seq:
        return f"{up_to}, from seal {report.witnessed_seq + 1:,} by the database's own table only"
    return up_to
