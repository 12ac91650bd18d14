"""Taking over the people of older systems: nobody twice, nobody changed who is there already.

A batch is one transaction, with its audit row and its event: what was committed stays, whatever
happens after it, and the same file again takes up where the last run ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.import_files import Format, records
from bursar.accounts.import_people import Person, Reader, Rejected
from bursar.accounts.service import UsersImported
from bursar.audit import service as audit
from bursar.auth.actor import Origin
from bursar.core import events
from bursar.core.database import Claim, Database, Role
from bursar.core.database_errors import SQL_ERRORS, state_of

BATCH = 1000  # lines; the ids of so many people fit into one event
MOST_TRIES = 5
IN_THE_WAY = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available


@dataclass(frozen=True, slots=True)
class Batch:
    """Some lines of a file, in their order."""

    people: list[Person] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.people) + len(self.rejected)


def batches(source: BinaryIO, kind: Format, reader: Reader) -> Iterator[Batch]:
    """The whole file; only one batch of it is in memory."""
    batch = Batch()
    for record in records(source, kind):
        read = reader.read(record)
        if isinstance(read, Person):
            batch.people.append(read)
        else:
            batch.rejected.append(read)
        if len(batch) == BATCH:
            yield batch
            batch = Batch()
    yield batch


@dataclass(slots=True)
class Outcome:
    """What became of the lines of a batch."""

    rejected: list[Rejected]
    added: int = 0
    already_there: int = 0
    without_password: int = 0  # of those who were added


async def take(
    database: Database, origin: Origin, batch: Batch, *, file: str, dry_run: bool = False
) -> Outcome:
    """Stores whoever is not there yet. A dry run only looks, and finds the same."""
    for left in reversed(range(MOST_TRIES)):
        try:
            async with database.transaction(claim_of(origin), origin=origin) as db:
                if dry_run:
                    return await look(db, batch)
                return await store(db, batch, file)
        except SQL_ERRORS as error:
            if state_of(error) not in IN_THE_WAY or not left:
                raise
    raise AssertionError("the last try ends the loop")


def claim_of(origin: Origin) -> Claim:
    """Only the door's login role may write a hash of a password."""
    return Claim(Role.DOOR, origin.actor.claim.subject)


async def look(db: AsyncSession, batch: Batch) -> Outcome:
    new, outcome = await compared(db, batch.people)
    outcome.rejected = in_order([*batch.rejected, *outcome.rejected])
    count(outcome, new)
    return outcome


async def store(db: AsyncSession, batch: Batch, file: str) -> Outcome:
    """Whoever comes in by another way between the look and the insert is found by a second look."""
    await db.execute(LOCK)
    new, outcome = await compared(db, batch.people)
    ids = await insert(db, new)
    late = [person for person in new if person.email not in ids]
    unexplained, second = await compared(db, late)
    outcome.already_there += second.already_there
    second.rejected += [refused(person, CHANGED_MEANWHILE) for person in unexplained]
    outcome.rejected = in_order([*batch.rejected, *outcome.rejected, *second.rejected])
    count(outcome, [person for person in new if person.email in ids])
    if ids:
        await publish(db, batch, file, outcome, sorted(ids.values()))
    return outcome


# Two imports that had the same people in another order would wait for each other in a circle.
LOCK = text("select pg_advisory_xact_lock(hashtextextended('bursar import users', 0))")
CHANGED_MEANWHILE = "somebody else was stored or changed at the same moment: run it again"

PRESENT = text("""
  select lower(email), lower(username), id from users
  where lower(email) = any(cast(:emails as varchar[]))
    or lower(username) = any(cast(:usernames as varchar[]))
    or id = any(cast(:ids as uuid[]))
""")


async def compared(db: AsyncSession, people: list[Person]) -> tuple[list[Person], Outcome]:
    """Who is new; who is there already, by the e-mail address; who wants what another one has."""
    outcome = Outcome([])
    if not people:
        return [], outcome
    emails, usernames, ids = await present(db, people)
    new = []
    for person in people:
        if person.email in emails:
            outcome.already_there += 1
        elif person.username and person.username.lower() in usernames:
            outcome.rejected.append(refused(person, "username: another account has it"))
        elif person.id in ids:
            outcome.rejected.append(refused(person, "id: another account has it"))
        else:
            new.append(person)
    return new, outcome


async def present(db: AsyncSession, people: list[Person]) -> tuple[set[Any], set[Any], set[Any]]:
    asked = {
        "emails": [person.email for person in people],
        "usernames": [person.username.lower() for person in people if person.username],
        "ids": [person.id for person in people if person.id],
    }
    rows = (await db.execute(PRESENT, asked)).all()
    return {row[0] for row in rows}, {row[1] for row in rows}, {row[2] for row in rows}


def refused(person: Person, reason: str) -> Rejected:
    return Rejected(person.line, person.line, [reason], person.email)


def in_order(rejected: list[Rejected]) -> list[Rejected]:
    return sorted(rejected, key=lambda each: each.line)


def count(outcome: Outcome, added: list[Person]) -> None:
    outcome.added = len(added)
    outcome.without_password = sum(person.password_hash is None for person in added)


TYPES = {
    "id": "uuid",
    "email_verified": "boolean",
    "created_at": "timestamptz",
    "last_login": "timestamptz",
}
COLUMNS = [each.name for each in fields(Person) if each.name != "line"]
ARRAYS = ", ".join(f"cast(:{name} as {TYPES.get(name, 'varchar')}[])" for name in COLUMNS)
DEFAULTS = {"id": "coalesce(id, uuid7())", "created_at": "coalesce(created_at, now())"}
INSERT = text(f"""
  insert into users ({", ".join(COLUMNS)})
  select {", ".join(DEFAULTS.get(name, name) for name in COLUMNS)}
  from unnest({ARRAYS}) as given ({", ".join(COLUMNS)})
  on conflict do nothing
  returning email, id
""")  # noqa: S608 - its own text


async def insert(db: AsyncSession, people: list[Person]) -> dict[str, str]:
    """The ids of those who are stored now, by their e-mail address."""
    if not people:
        return {}
    columns = {name: [getattr(person, name) for person in people] for name in COLUMNS}
    return {email: str(user_id) for email, user_id in await db.execute(INSERT, columns)}


async def publish(
    db: AsyncSession, batch: Batch, file: str, outcome: Outcome, ids: list[str]
) -> None:
    lines = [person.line for person in batch.people] + [each.line for each in batch.rejected]
    after = {
        "file": file,
        "first_line": min(lines),
        "last_line": max(lines),
        "added": outcome.added,
        "already_there": outcome.already_there,
        "rejected": len(outcome.rejected),
        "first_id": ids[0],
        "last_id": ids[-1],
    }
    await audit.record(db, "users.imported", "user", after=after)
    await events.publish(db, UsersImported(user_ids=ids))
