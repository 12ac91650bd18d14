"""Verifies the audit trail: one snapshot, the chain made again, checkpoints, all rows counted.

Shipped checkpoints are read before the snapshot is taken, so that a trail that goes on meanwhile is
never behind them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from bursar.audit import chain, checkpoints, walk, witnesses
from bursar.audit.walk import Finding, Part
from bursar.audit.witnesses import TABLE, Witness

NEWEST, SAMPLES = 100, 100  # files that are read: the newest, and some of the older to find a place
MOST_TOLD = 20  # rows of one kind that are named


@dataclass(slots=True)
class Report:
    """What verification found; `notes` are no findings, but somebody should know them."""

    sealed: int = 0
    unsealed: int = 0
    confirmed_seq: int | None = None
    witnessed_seq: int | None = None  # the same, by checkpoints outside of the database alone
    seconds: float = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


async def verify(
    connection: Any,
    secret_keys: Sequence[str],
    place: str | None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Report:
    """Everything, on a connection of the owner."""
    begun = time.monotonic()
    shipped = await checkpoints.listing(place) if place else []
    heard = await hear_place(place, shipped, secret_keys) if place else []
    async with snapshot(connection) as installation:
        report = await examine(connection, installation, secret_keys, heard, progress)
        if place:
            names = [name for name in shipped if name.startswith(f"{installation}/")]
            report.findings += await compare_files(connection, installation, place, names)
        else:
            report.notes.append(
                "Checkpoints are not shipped anywhere: whoever owns the database could take back "
                "the newest rows together with theirs. Set BURSAR_AUDIT_CHECKPOINTS."
            )
    report.seconds = round(time.monotonic() - begun, 1)
    return report


class snapshot:  # noqa: N801 - reads as a word where it is used
    """One view of all tables, which nothing can be written through; answers the installation."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.transaction = connection.transaction(isolation="repeatable_read", readonly=True)

    async def __aenter__(self) -> UUID:
        await self.transaction.start()
        installation: UUID = await self.connection.fetchval(
            "select installation from audit_chains order by started_at limit 1"
        )
        return installation

    async def __aexit__(self, *_: object) -> None:
        await self.transaction.rollback()


async def examine(
    connection: Any,
    installation: UUID,
    secret_keys: Sequence[str],
    heard: list[Witness],
    progress: Callable[[int, int], None],
) -> Report:
    rows = await connection.fetch("select seq, document from audit_checkpoints order by seq")
    heard = heard + [
        witnesses.hear(TABLE, str(row["seq"]), row["document"], secret_keys) for row in picked(rows)
    ]
    wanted = frozenset(w.checkpoint.seq for w in heard if w.checkpoint)
    end = await connection.fetchval("select coalesce(max(seq), 0) from audit_seals")
    begin = chain.beginning(installation)
    part = await walk.walk(connection, end, begin, wanted, lambda seq: progress(seq, end))
    said = witnesses.judge(part, heard, installation)
    report = Report(sealed=part.seals)
    report.findings = [*walk.findings_of(part), *said.findings]
    report.notes = [*walk.notes_of(part), *said.notes]
    report.confirmed_seq = said.confirmed.seq if said.confirmed else None
    report.witnessed_seq = said.witnessed.seq if said.witnessed else None
    await count(connection, part, report)
    return report


def picked(items: Sequence[Any]) -> Iterator[Any]:
    """The newest, and some of the older ones: each vouches for all before it."""
    older, newest = items[:-NEWEST], items[-NEWEST:]
    yield from older[:: max(1, len(older) // SAMPLES)]
    yield from newest


async def hear_place(place: str, names: list[str], secret_keys: Sequence[str]) -> list[Witness]:
    files = await checkpoints.fetch(place, list(picked(names)))
    return [witnesses.hear(place, name, text, secret_keys) for name, text in files.items()]


async def compare_files(
    connection: Any, installation: UUID, place: str, names: list[str]
) -> list[Finding]:
    rows = await connection.fetch("select seq from audit_shipments where place = $1", place)
    expected = {f"{installation}/{row['seq']:016}.json": row["seq"] for row in rows}
    if set(expected) - set(names):  # perhaps shipped since the first look
        names = await checkpoints.listing(place)
        names = [name for name in names if name in expected]
    table = [row["seq"] for row in await connection.fetch("select seq from audit_checkpoints")]
    return list(witnesses.missing(place, expected, names, table))


UNCLAIMED = """
  select id::text, occurred_at from audit_logs as log
  where not exists (select from audit_seals where log_id = log.id)
    and not exists (select from audit_unsealed where log_id = log.id)
  order by occurred_at, id
"""
LOST = """
  select waiting.log_id::text from audit_unsealed as waiting
  where not exists (select from audit_logs where id = waiting.log_id) order by 1
"""

LONG_IN_USE = """
  select exists (select from users where created_at < now() - interval '1 hour')
    or exists (select from admin_users where created_at < now() - interval '1 hour')
"""


async def count(connection: Any, part: Part, report: Report) -> None:
    """Every row has a seal or waits for one, and what waits is there."""
    await connection.execute("set local enable_hashjoin = on; set local enable_seqscan = on")
    rows = await connection.fetchval("select count(*) from audit_logs")
    if not rows and not part.seals and await connection.fetchval(LONG_IN_USE):
        report.notes.append(
            "The trail is empty, although customers or staff have been there for over an hour: "
            "all of it was taken away, or they were put there past Bursar."
        )
    lost = await connection.fetch(LOST)
    report.unsealed = await connection.fetchval("select count(*) from audit_unsealed") - len(lost)
    for row in lost[:MOST_TOLD]:
        log_id = row["log_id"]
        detail = f"The row {log_id} was deleted before it was sealed{walk.when(log_id)}."
        report.findings.append(
            Finding("row_deleted", detail, None, log_id, walk.time_of_id(log_id))
        )
    if rows == part.rows + report.unsealed:
        return
    unclaimed = await connection.fetch(UNCLAIMED)
    for row in unclaimed[:MOST_TOLD]:
        detail = (
            f"The row {row['id']} of {row['occurred_at']:%F %T} UTC has no seal, and waits for "
            "none: it was written past record_audit, or its seal was deleted."
        )
        report.findings.append(Finding("row_forged", detail, None, row["id"], row["occurred_at"]))
    if len(unclaimed) > MOST_TOLD:
        more = f"{len(unclaimed) - MOST_TOLD} more rows have no seal and wait for none."
        report.findings.append(Finding("row_forged", more))
