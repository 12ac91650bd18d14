"""What the password of an unknown address is checked against: a hash like those that people have.

Hashes from older systems take another time than ours, until their owners sign in once. So a
stranger gets a decoy of a kind that is as frequent among strangers as among the people there are,
and always of the same kind: the time of an answer tells nobody whether an address has an account.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from bursar.auth import hashes
from bursar.auth.actor import Kind
from bursar.core.database import DOOR, Database
from bursar.core.seal import Seal

LOOKED_AT = 2_000  # people, every ten minutes
REMEMBERED_SECONDS = 600

SIZE = "select reltuples from pg_class where oid = $2::text::regclass"
SAMPLES = {
    Kind.CUSTOMER: """select password_hash from users tablesample system ($2)
      where password_hash is not null limit 2000""",
    Kind.STAFF: """select password_hash from admin_users tablesample system ($2)
      where password_hash is not null limit 2000""",
}
TABLES = {Kind.CUSTOMER: "users", Kind.STAFF: "admin_users"}


@dataclass(frozen=True, slots=True)
class Decoys:
    """In the order of their kinds, so that an address keeps its kind when they are made anew."""

    hashes: Sequence[str]
    made_at: float
    seal: Seal

    def of(self, email: str) -> str | None:
        """None stands for one of our own kind."""
        if not self.hashes:
            return None
        place = int.from_bytes(self.seal.mark(email.encode("utf-8", "surrogatepass"))[:6])
        return self.hashes[place * len(self.hashes) >> 48]


_known: WeakKeyDictionary[Database, dict[Kind, Decoys]] = WeakKeyDictionary()


async def decoys(database: Database, kind: Kind) -> Decoys:
    """Asked for at every sign-in, before anything is known of who it is."""
    known = _known.setdefault(database, {})
    now = time.monotonic()
    if kind not in known or known[kind].made_at + REMEMBERED_SECONDS < now:
        made = [hashes.like(text) for text in await sample(database, kind)]
        seal = Seal(database.settings.secret_keys, "decoys")
        known[kind] = Decoys(sorted(filter(None, made)), now, seal)
    return known[kind]


async def sample(database: Database, kind: Kind) -> list[str]:
    """Some of the table's pages: a walk through all of it would be felt."""
    size = await database.fetch_one(DOOR, SIZE, TABLES[kind])
    people = max(1.0, size["reltuples"] if size else 0)  # -1 where PostgreSQL has never counted
    percent = min(100.0, 100.0 * LOOKED_AT / people)
    rows = await database.fetch_all(DOOR, SAMPLES[kind], percent)
    return [row["password_hash"] for row in rows]
