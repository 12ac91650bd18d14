"""Knows keys by heart: a request with one is let in without a look at the database.

A process keeps what it has once looked up, until it hears that the key or its owner has changed
(core/notices.py): within the second. While it is not sure to hear, it trusts nothing that it knows.
It forgets everything now and then anyway, and what is not good is never kept.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import UUID

from bursar.auth.actor import Actor, Kind
from bursar.auth.tokens import BadToken
from bursar.core.database import DOOR, Database
from bursar.core.notices import Notices
from bursar.keys import secret
from bursar.keys.models import Network

CHANNEL = "bursar_keys_changed"
MOST_KNOWN = 10_000

# keys/database.sql; what is refused here for its address is no use of the key, as in keys/verify.
FIND = """
  select found.*, case when cardinality(allowed_addresses) = 0
    or $3::inet <<= any (allowed_addresses::inet[]) then note_key_use(array[found.id]) end as noted
  from find_key($2) as found
"""


@dataclass(frozen=True, slots=True)
class Known:
    """A key that was good when it was looked up."""

    actor: Actor
    addresses: tuple[Network, ...]
    ends_at: datetime | None

    def is_over(self) -> bool:
        return self.ends_at is not None and self.ends_at <= datetime.now(UTC)

    def allows(self, address: str | None) -> bool:
        if not self.addresses:
            return True
        if address is None:
            return False
        here = ip_address(address)
        return any(here in network for network in self.addresses)


class Keyring:
    """Of one process."""

    def __init__(self, database: Database, notices: Notices) -> None:
        self._database = database
        self._notices = notices
        notices.on(CHANNEL, self.heard, look=self.look)
        self._known: dict[bytes, Known] = {}
        self._named: dict[str, set[bytes]] = {}  # what is known under the id of a key or its owner
        self._heard = 0  # changes so far: what was looked up before one of them is not kept

    def heard(self, payload: str) -> None:
        self._heard += 1
        for digest in self._named.pop(payload, ()):
            self._known.pop(digest, None)

    async def look(self) -> None:
        """There is nothing to look for: what is not known is looked up when it is shown."""
        self._heard += 1
        self._forget()

    async def actor(self, key: str, address: str | None) -> Actor:
        """Whose key it is, or BadToken; to whoever has none, it never says why."""
        digest = secret.digest(key)
        known = self._known.get(digest) if self._notices.hears else None
        if known is None and secret.is_sound(key):
            known = await self._look_up(digest, address)
        if known is None or known.is_over() or not known.allows(address):
            raise bad_key()
        return known.actor

    async def _look_up(self, digest: bytes, address: str | None) -> Known | None:
        heard = self._heard
        row = await self._database.fetch_one(DOOR, FIND, digest, address)
        if row is None:
            return None
        owner: UUID | None = row["user_id"] and UUID(bytes=row["user_id"].bytes)
        actor = Actor(
            Kind.KEY,
            UUID(bytes=row["id"].bytes),
            on_behalf_of=owner,
            line=UUID(bytes=row["line_id"].bytes),
            key_scopes=frozenset(row["scopes"]),
            is_paced=owner is not None or row["is_limited"],
        )
        known = Known(actor, tuple(row["allowed_addresses"]), row["ends_at"])
        if heard == self._heard and self._notices.hears:
            if len(self._known) >= MOST_KNOWN:
                self._forget()
            self._known[digest] = known
            for named in filter(None, (actor.id, owner)):
                self._named.setdefault(str(named), set()).add(digest)
        return known

    def _forget(self) -> None:
        self._known.clear()
        self._named.clear()


def bad_key() -> BadToken:
    return BadToken(
        "This API key is not good: it is unknown, has ended, or may not come from here."
    )
