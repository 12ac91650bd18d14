"""Webhooks that come at once are written down together: one statement, one commit, one job.

    is_new = await intake.take("stripe", event, body, headers)   # it is on disk when this answers

Of those that wait while a batch is written the next batch is made. A full queue answers 503, and
the provider sends again, as after any failure; what was written all the same is known then.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextvars import Context
from typing import Any

from bursar.core import exact
from bursar.core.database import WORKER, Database
from bursar.core.errors import BursarError
from bursar.payments.providers import BadEvent, Event

MOST_AT_ONCE = 100
MOST_BYTES = 4 * 1024 * 1024  # of a batch
MOST_WAITING = 2_000
MOST_NAME = 255  # letters of an event's id or type: the index takes no more than a page
KEPT_HEADERS = ("content-type", "user-agent", "paypal-transmission-id", "paypal-transmission-time")
TAKE = "select its_provider, its_id from take_payment_events(cast($2::text as jsonb))"


class IntakeFull(BursarError, status=503, code="payments.intake_full"):
    """More webhooks wait than are taken in; the provider sends this one again."""


class Entry:
    """One webhook, and who waits for it to be written."""

    __slots__ = ("future", "key", "text")

    def __init__(
        self, provider: str, event: Event, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self.key = provider, event.event_id
        row: dict[str, Any] = {
            "provider": provider,
            "event_id": event.event_id,
            "type": event.type,
            "payload": body.decode(),
            "headers": {name: headers[name][:300] for name in KEPT_HEADERS if name in headers},
            "happened_at": event.happened_at,
        }
        self.text = exact.dumps(row)
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Intake:
    """The webhooks of one process on their way to the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[Entry] = deque()
        self._task: asyncio.Task[None] | None = None

    async def take(
        self, provider: str, event: Event, body: bytes, headers: Mapping[str, str]
    ) -> bool:
        """Written down with a job that reads it, once; whether it is new."""
        if not is_name(event.event_id) or not is_name(event.type):
            raise BadEvent("An event's id and type are at most 255 letters.")
        if len(self._waiting) >= MOST_WAITING:
            raise IntakeFull("Too many webhooks at once.", headers={"Retry-After": "5"})
        entry = Entry(provider, event, body, headers)
        self._waiting.append(entry)
        if self._task is None:  # in a context of its own: the work is not this caller's alone
            self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())
        return await asyncio.shield(entry.future)

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._write(self._batch())
        finally:
            self._task = None

    def _batch(self) -> list[Entry]:
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < MOST_AT_ONCE:
            size += len(self._waiting[0].text)
            if size > MOST_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self, batch: list[Entry]) -> None:
        """All of them or none; of two in a batch that are the same one is new."""
        try:
            text = f"[{','.join(entry.text for entry in batch)}]"
            rows = await self._database.fetch_all(WORKER, TAKE, text)
        except BaseException as error:
            for entry in batch:
                entry.future.set_exception(as_told(error))
                entry.future.exception()  # whoever has gone need not hear it
            if not isinstance(error, Exception):
                raise
            return
        new = {(row["its_provider"], row["its_id"]) for row in rows}
        for entry in batch:
            entry.future.set_result(entry.key in new)
            new.discard(entry.key)

    async def close(self) -> None:
        """Lets what is under way end."""
        if self._task is not None:
            await asyncio.wait([self._task])


def is_name(text: str) -> bool:
    return 0 < len(text) <= MOST_NAME and text.isprintable()


def as_told(error: BaseException) -> BaseException:
    """A cancelled batch is not a cancelled request."""
    if isinstance(error, Exception):
        return error
    return IntakeFull("This server is stopping.", headers={"Retry-After": "5"})
