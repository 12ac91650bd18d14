"""Which sessions have ended: an access token of one is refused at once, in every process.

Access tokens are checked without the database. What is missing there, that a session is over, each
process keeps in its memory: it hears of an end when that commits (core/notices.py), and looks into
the table when it starts, after each time that it could not hear, and every half minute. While there
is no database at all, access tokens stay good, until they expire, and hardly any route works.
"""

import logging
import time
from datetime import datetime, timedelta
from uuid import UUID

from bursar.auth.sessions import LONGEST_ACCESS_SECONDS
from bursar.auth.tokens import LEEWAY_SECONDS
from bursar.core.database import DOOR, Database
from bursar.core.notices import Notices

log = logging.getLogger(__name__)

CHANNEL = "bursar_sessions_ended"
KEPT_SECONDS = LONGEST_ACCESS_SECONDS + LEEWAY_SECONDS + 60  # for clocks that do not quite agree
# A look goes back to the one before and this much further, for an end whose transaction was not
# committed then: transactions of requests live for seconds (BURSAR_DATABASE_IDLE_TIMEOUT_SECONDS).
OVERLAP = timedelta(minutes=2)
MOST_HEARD = 200_000  # more than this is not believed without a look: anybody may send a notice

LATELY = """
  select coalesce(array_agg(id order by ended_at), '{}') as ids, now() as looked_at from sessions
  where ended_at > greatest(now() - $2::interval, $3::timestamptz - $4::interval)
"""


class Endings:
    """The sessions that ended while an access token of theirs may still be about."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended: dict[UUID, float] = {}  # when to forget; the first to go stands first
        self._looked_at: datetime | None = None

    def __contains__(self, session_id: UUID) -> bool:
        return session_id in self._ended

    def __len__(self) -> int:
        return len(self._ended)

    def watch(self, notices: Notices) -> None:
        notices.on(CHANNEL, self.heard, look=self.look)

    def heard(self, payload: str) -> None:
        if len(self._ended) >= MOST_HEARD:
            return  # the next look brings what is true of it
        try:
            self.add(UUID(payload))
        except ValueError:
            log.warning("a notice of %s names no session", CHANNEL)

    def add(self, session_id: UUID) -> None:
        self._ended.setdefault(session_id, time.monotonic() + KEPT_SECONDS)

    async def look(self) -> None:
        """Takes what has ended since the last look; the first one goes back for a token's life."""
        kept = timedelta(seconds=KEPT_SECONDS)
        row = await self._database.fetch_one(DOOR, LATELY, kept, self._looked_at, OVERLAP)
        if row is None:
            return  # an aggregate is one row, always
        for session_id in row["ids"]:
            self.add(session_id)
        self._looked_at = row["looked_at"]
        self.forget()

    def forget(self) -> None:
        now = time.monotonic()
        while self._ended:
            first = next(iter(self._ended))
            if self._ended[first] > now:
                return
            del self._ended[first]
