"""Follows the whole chain, makes every digest and hash again, and says where one differs.

Streamed by ranges of the chain, so that it takes little memory. What it cannot see, because the
chain by itself does not tell, is for audit/witnesses.py: a missing tail, a chain written anew.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bursar.audit import chain

PIECE = 5_000
MOST_FINDINGS = 1_000  # of one kind of trouble; whoever has more has seen enough
BACKDATED = timedelta(hours=1)  # no transaction lives so long, and clocks differ by less

# Each seal beside its row, by ranges: a nested loop over two indexes, whatever the planner thinks.
SETTINGS = """
  set local enable_hashjoin = off; set local enable_mergejoin = off; set local enable_seqscan = off;
  set local enable_bitmapscan = off; set local jit = off; set local work_mem = '64MB'
"""
SEALED = f"""
  select seal.seq, seal.log_id::text, seal.digest, seal.hash, {chain.CANONICAL}
  from audit_seals as seal left join audit_logs as log on log.id = seal.log_id
  where seal.seq > $1 and seal.seq <= $2 order by seal.seq
"""  # noqa: S608 - its own text


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was left: what, where in the chain, which row, of when."""

    kind: str
    detail: str
    seq: int | None = None
    log_id: str | None = None
    at: datetime | None = None


@dataclass(slots=True)
class Part:
    """What the chain turned out to be."""

    seals: int = 0
    rows: int = 0
    last: int = 0
    newest: int = 0  # microseconds: the latest time that a row has
    edited: list[tuple[int, str, int, bytes, bytes]] = field(default_factory=list)
    unlinked: list[tuple[int, str, int, bytes, bytes, bytes]] = field(default_factory=list)
    deleted: list[tuple[int, str]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    backdated: list[tuple[int, str, int]] = field(default_factory=list)
    marks: dict[int, bytes] = field(default_factory=dict)  # hashes at the checkpoints


class Walk:
    """Follows the seals in order."""

    def __init__(self, before: bytes, wanted: frozenset[int]) -> None:
        self.part = Part()
        self.before: bytes | None = before
        self.wanted = wanted
        self.margin = int(BACKDATED.total_seconds() * 1e6)

    def over(self, rows: Sequence[Sequence[Any]]) -> None:
        part, before, wanted = self.part, self.before, self.wanted
        digest_of, link = chain.digest, chain.link
        expected = part.last + 1
        for row in rows:
            seq, log_id, digest, hash_, *_ = row
            values = tuple(row)[4:]
            if seq != expected:
                self.note(part.gaps, (expected, seq - 1))
                before = None  # what stood there is gone: the chain is taken up again here
            expected = seq + 1
            part.seals += 1
            if values[chain.ID] is None:
                self.note(part.deleted, (seq, log_id))
            else:
                part.rows += 1
                at = int(values[chain.OCCURRED_AT])
                if at > part.newest:
                    part.newest = at
                elif at < part.newest - self.margin:
                    self.note(part.backdated, (seq, log_id, at))
                made = digest_of(values)
                if made != digest:
                    self.note(part.edited, (seq, log_id, at, made, digest))
            if before is not None and link(before, digest) != hash_:
                self.note(part.unlinked, (seq, log_id, 0, before, digest, hash_))
            before = hash_
            if seq in wanted:
                part.marks[seq] = hash_
        part.last, self.before = expected - 1, before

    @staticmethod
    def note(where: list[Any], what: Any) -> None:
        if len(where) < MOST_FINDINGS:
            where.append(what)


async def walk(
    connection: Any,
    end: int,
    before: bytes,
    wanted: frozenset[int],
    progress: Callable[[int], None],
) -> Part:
    """All seals up to `end`, in the connection's transaction; keeps the hashes that are wanted."""
    await connection.execute(SETTINGS)
    statement = await connection.prepare(SEALED)
    steps = Walk(before, wanted)
    for low in range(0, end, PIECE):
        high = min(low + PIECE, end)
        steps.over(await statement.fetch(low, high))
        progress(high)
    return steps.part


def findings_of(part: Part) -> Iterator[Finding]:
    """One sentence for each thing that is wrong."""
    for low, high in part.gaps:
        many = f"Seals {low} to {high} are" if high > low else f"Seal {low} is"
        yield Finding("seal_deleted", f"{many} missing from the chain.", low)
    for seq, log_id in part.deleted:
        detail = f"The row {log_id} of seal {seq} was deleted{when(log_id)}."
        yield Finding("row_deleted", detail, seq, log_id, time_of_id(log_id))
    yield from edited(part)
    yield from unlinked(part)


def edited(part: Part) -> Iterator[Finding]:
    """A row whose content stands under another seal was exchanged; any other one was edited."""
    places = {digest: seq for seq, _, _, _, digest in part.edited}
    for seq, log_id, micros, made, _ in part.edited:
        at = moment(micros)
        if made in places:
            detail = f"Seal {seq} has the row of seal {places[made]}: rows were reordered."
            yield Finding("reordered", detail, seq, log_id, at)
        else:
            detail = f"The row {log_id} of seal {seq} was edited; it says it is of {at:%F %T} UTC."
            yield Finding("row_edited", detail, seq, log_id, at)


def unlinked(part: Part) -> Iterator[Finding]:
    digests = {digest: seq for seq, _, _, _, digest, _ in part.unlinked}
    for seq, log_id, _, before, _, hash_ in part.unlinked:
        belongs = next((s for d, s in digests.items() if chain.link(before, d) == hash_), None)
        if belongs is not None:
            detail = f"Where seal {seq} stands belongs what stands at {belongs}: seals were moved."
            yield Finding("reordered", detail, seq, log_id, time_of_id(log_id))
        else:
            detail = f"Seal {seq} does not follow from the one before it: it was rewritten."
            yield Finding("seal_edited", detail, seq, log_id, time_of_id(log_id))


def notes_of(part: Part) -> Iterator[str]:
    if part.backdated:
        seq, log_id, micros = part.backdated[0]
        yield (
            f"{len(part.backdated)} row(s) say they are over an hour older than rows sealed before "
            f"them: the first is {log_id} of seal {seq}, {moment(micros):%F %T} UTC. Either a "
            "clock was wrong, or somebody wrote them past record_audit."
        )


def moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def time_of_id(log_id: str) -> datetime | None:
    """When an id of version 7 was made."""
    parsed = UUID(log_id)
    return datetime.fromtimestamp((parsed.int >> 80) / 1000, UTC) if parsed.version == 7 else None


def when(log_id: str) -> str:
    at = time_of_id(log_id)
    return f"; it was of {at:%F %T} UTC" if at else ""
