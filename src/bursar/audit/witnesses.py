"""Compares the chain with its checkpoints, those of the database and those that were shipped.

A signed checkpoint that agrees vouches for every seal up to its own. One that is ahead of the chain
tells that the tail was cut off or an older database restored; one that says another hash, that the
chain was written anew somewhere behind the last one that agrees.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from bursar.audit.checkpoints import BadCheckpoint, Checkpoint, UnknownKey, parse, read
from bursar.audit.walk import Finding, Part

TABLE = "the table audit_checkpoints"


@dataclass(frozen=True, slots=True)
class Witness:
    """One checkpoint, where it lies, and why it is not to be believed."""

    place: str
    name: str
    checkpoint: Checkpoint | None
    doubt: str | None = None
    known_key: bool = True

    def __str__(self) -> str:
        of = f" of {self.checkpoint.time:%F %T} UTC" if self.checkpoint else ""
        return f"the checkpoint {self.name}{of} in {self.place}"


def hear(place: str, name: str, document: str | bytes, secret_keys: Sequence[str]) -> Witness:
    try:
        return Witness(place, name, read(document, secret_keys))
    except UnknownKey as error:
        return Witness(place, name, parse(document)[0], str(error), known_key=False)
    except BadCheckpoint as error:
        return Witness(place, name, None, str(error))


@dataclass(slots=True)
class Judgement:
    """What all witnesses together say."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    confirmed: Checkpoint | None = None
    witnessed: Checkpoint | None = None  # the newest that agrees and lies outside of the database


def judge(part: Part, witnesses: Sequence[Witness], installation: UUID) -> Judgement:
    said = Judgement()
    heard = [w for w in witnesses if w.checkpoint and w.checkpoint.installation == installation]
    vouching = [
        (w.place, w.checkpoint)
        for w in heard
        if w.checkpoint and not w.doubt and agrees(part, w.checkpoint)
    ]
    agreeing = [checkpoint for _, checkpoint in vouching]
    said.confirmed = newest(agreeing)
    said.witnessed = newest(checkpoint for place, checkpoint in vouching if place != TABLE)
    said.findings += doubtful(witnesses, part, said)
    said.findings += foreign(witnesses, installation)
    believed = [w for w in heard if not w.doubt]
    said.findings += ahead(part, believed)
    said.findings += differing(part, believed, agreeing)
    return said


def newest(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    return max(checkpoints, key=lambda checkpoint: checkpoint.seq, default=None)


def agrees(part: Part, checkpoint: Checkpoint) -> bool:
    return part.marks.get(checkpoint.seq) == checkpoint.hash


def doubtful(witnesses: Iterable[Witness], part: Part, said: Judgement) -> Iterator[Finding]:
    """An old key may be gone for good: then a younger checkpoint has to vouch for what it said."""
    outdated = 0
    for witness in witnesses:
        if not witness.doubt:
            continue
        seq = witness.checkpoint.seq if witness.checkpoint else None
        vouched = said.confirmed is not None and seq is not None and seq <= said.confirmed.seq
        confirmed = vouched and witness.checkpoint and agrees(part, witness.checkpoint)
        if confirmed and not witness.known_key:
            outdated += 1
            continue
        yield Finding("bad_checkpoint", f"Not to be believed is {witness}: {witness.doubt}.", seq)
    if outdated:
        said.notes.append(
            f"{outdated} checkpoint(s) are signed with a key that is not made from "
            "BURSAR_SECRET_KEY; what they say is confirmed by younger ones."
        )


def foreign(witnesses: Iterable[Witness], installation: UUID) -> Iterator[Finding]:
    """Files of others may lie at the same place; in the table they can only be ours."""
    for witness in witnesses:
        checkpoint = witness.checkpoint
        if witness.place == TABLE and checkpoint and checkpoint.installation != installation:
            detail = (
                f"The installation's id was changed: {witness} was signed for "
                f"{checkpoint.installation}, the database says {installation}."
            )
            yield Finding("installation_changed", detail, checkpoint.seq, at=checkpoint.time)
            return


def ahead(part: Part, witnesses: Sequence[Witness]) -> Iterator[Finding]:
    beyond = {w.place: w for w in witnesses if w.checkpoint and w.checkpoint.seq > part.last}
    latest = max(
        beyond.values(), key=lambda w: w.checkpoint.seq if w.checkpoint else 0, default=None
    )
    if latest is None or latest.checkpoint is None:
        return
    checkpoint = latest.checkpoint
    where = f"The chain ends at seal {part.last}, but {latest} is of seal {checkpoint.seq}"
    if TABLE in beyond:
        yield Finding(
            "tail_cut_off", f"{where}: its tail was cut off.", part.last + 1, at=checkpoint.time
        )
    else:
        detail = f"{where}: an older database was restored, or the tail was cut off."
        yield Finding("database_restored", detail, part.last + 1, at=checkpoint.time)


def differing(
    part: Part, witnesses: Sequence[Witness], agreeing: Sequence[Checkpoint]
) -> Iterator[Finding]:
    """One sentence for all of a place: between which seals the chain was written anew."""
    told = set()
    for witness in sorted(witnesses, key=lambda w: w.checkpoint.seq if w.checkpoint else 0):
        checkpoint = witness.checkpoint
        if checkpoint is None or checkpoint.seq > part.last or witness.place in told:
            continue
        if agrees(part, checkpoint) or checkpoint.seq not in part.marks:
            continue  # where its seal is missing, the gap has been told
        told.add(witness.place)
        low = max((c.seq for c in agreeing if c.seq < checkpoint.seq), default=0)
        detail = (
            f"The chain was written anew between seal {low + 1} and {checkpoint.seq}: {witness} "
            "says another hash. Or an older database was restored and used."
        )
        yield Finding("chain_rewritten", detail, checkpoint.seq, at=checkpoint.time)


def missing(
    place: str, expected: Mapping[str, int], names: Iterable[str], table: Iterable[int]
) -> Iterator[Finding]:
    """What was shipped and is not there any more, and what is there but not in the table."""
    there = set(names)
    for name, seq in expected.items():
        if name not in there:
            detail = f"The checkpoint {name} was shipped to {place} and is not there any more."
            yield Finding("checkpoint_deleted", detail, seq)
    kept = set(table)
    lost = sorted(name for name in there if number(name) not in kept)
    if lost:
        detail = (
            f"{len(lost)} checkpoint(s) at {place} are not in {TABLE}, the first is {lost[0]}: "
            "they were deleted there, or an older database was restored."
        )
        yield Finding("checkpoint_deleted", detail, number(lost[0]))


def number(name: str) -> int:
    """The seal that a file is named for; -1 for what is no name of ours."""
    digits = name.rpartition("/")[2].removesuffix(".json")
    return int(digits) if digits.isdecimal() else -1
