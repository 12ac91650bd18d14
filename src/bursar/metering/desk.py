"""Keys that are shown together go to PostgreSQL as one statement, and each gets its own answer.

    verdict = await request.app.state.desk.ask(Question(digest, endpoint="/v1/things"))

While a batch commits, the next one fills, without any timer; two at once would be half as large,
and each statement has its price. Nothing is answered before its commit. What is not one of our keys
by its checksum never gets here. The queue is bounded: who finds it full is told so at once.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import asyncpg
import orjson
from prometheus_client import Counter, Histogram

from bursar.core.database import WORKER, Database
from bursar.core.database_errors import SQL_ERRORS, OutcomeUnknown, is_lost, state_of, translate
from bursar.core.errors import BursarError
from bursar.core.problems import Internal
from bursar.core.wire import as_json
from bursar.metering.events import TERMS, marks

log = logging.getLogger("bursar.desk")

MOST_IN_BATCH = 250
CLOSING_SECONDS = 5.0
HELD = "55P03"  # a row was locked for longer than verify_keys() waits
VERIFY = "select verify_keys($2::text::json, $3::text::jsonb)::text as answers"

batch_size = Histogram(
    "bursar_desk_batch_questions",
    "Questions of one statement of the desk.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 250),
)
verdicts = Counter("bursar_key_verdicts", "What was said of keys.", ["code"])


@cache
def verdicts_of(code: str) -> Counter:
    """As many as there are codes; `labels` would lock and check each time."""
    return verdicts.labels(code)


Verdict = dict[str, Any]  # as verify_keys() says it (metering/verify.sql)


class DeskFull(BursarError, status=429, code="usage.desk_full"):
    """More keys wait to be verified than the database takes; nothing was counted, ask again."""

    @classmethod
    def now(cls) -> "DeskFull":
        return cls("More keys wait than can be verified; try again.", headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True)
class KeyedQuestion:
    """The Idempotency-Key of a question, as it is kept (core/idempotency.py)."""

    subject: str
    key: str
    marks: list[bytes]
    body: bytes

    def document(self) -> dict[str, Any]:
        marks = [mark.hex() for mark in self.marks]
        return {"subject": self.subject, "given_key": self.key, "marks": marks,
                "body": self.body.hex()}  # fmt: skip


@dataclass(slots=True)
class Question:
    """A key by its hash, and the call that it is shown for; without `counts` the call is not
    counted, without `paces` it uses up no rate."""

    digest: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    scope: str | None = None
    address: str | None = None
    event_id: str | None = None
    counts: bool = True
    paces: bool = True
    keyed: KeyedQuestion | None = None

    def document(self) -> dict[str, Any]:
        return {
            **self.facts,
            **marks(self.event_id, self.facts),
            "hash": self.digest.hex(),
            "scope": self.scope,
            "address": self.address,
            "counts": self.counts,
            "paces": self.paces,
            **(self.keyed.document() if self.keyed else {}),
        }


class Entry:
    """A question, and who waits for its answer."""

    __slots__ = ("document", "future")

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.future: asyncio.Future[Verdict | BursarError] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, answer: Verdict | BursarError) -> None:
        if not self.future.done():
            self.future.set_result(answer)


class Desk:
    """One per process: a bounded queue. Its task works while something waits, batch after batch."""

    def __init__(self, database: Database, *, most_waiting: int = 8192) -> None:
        self._database = database
        self._most_waiting = most_waiting
        self._waiting: deque[Entry] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Verdict:
        """What is to be said of the key, once it is committed."""
        if len(self._waiting) >= self._most_waiting:
            raise DeskFull.now()
        entry = Entry(question.document())
        self._waiting.append(entry)
        if self._task is None:  # in a context of its own: the work is not this caller's alone
            self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())
        try:
            answer = await entry.future
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(entry)
            raise
        if isinstance(answer, BursarError):
            raise answer
        verdicts_of(answer["code"]).inc()
        return answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), MOST_IN_BATCH)
                await self._settle([self._waiting.popleft() for _ in range(size)])
        finally:
            self._task = None

    async def _settle(self, batch: list[Entry]) -> None:
        """Every entry of the batch has its answer in the end, whatever happens."""
        groups = [batch]
        try:
            batch_size.observe(len(batch))
            while groups:
                groups += await self._ask(groups.pop())
        except Exception:
            log.exception("a batch of the desk failed")
        finally:
            for entry in batch:
                entry.settle(OutcomeUnknown.now())

    async def _ask(self, group: list[Entry]) -> list[list[Entry]]:
        """Answers the group, or says in which parts it is to be tried: only what is bad itself is
        refused."""
        asked = [{"n": n, **entry.document} for n, entry in enumerate(group)]
        try:
            row = await self._database.write_one(WORKER, VERIFY, as_json(asked).decode(), TERMS)
        except SQL_ERRORS as error:
            parts = [] if is_lost(error) else apart(group, error)
            if len(parts) > 1:
                return parts
            settle_all(group, refusal(error))
        except BursarError as error:
            settle_all(group, error)
        else:
            for entry, answer in zip(
                group, orjson.loads(row["answers"] if row else ""), strict=True
            ):
                entry.settle(answer)
        return []

    async def close(self) -> None:
        if task := self._task:
            _, slow = await asyncio.wait([task], timeout=CLOSING_SECONDS)
            for each in slow:
                each.cancel()
        settle_all([*self._waiting], DeskFull.now())  # never asked


def apart(group: list[Entry], error: BaseException) -> list[list[Entry]]:
    """Halves; or where somebody holds a row, the questions of each key, so that the others wait for
    it once and not once for each halving. What PostgreSQL did not say holds for all of them."""
    if not isinstance(error, asyncpg.PostgresError):
        return [group]
    if state_of(error) != HELD:
        middle = len(group) // 2
        return [half for half in (group[middle:], group[:middle]) if half]
    by_key: dict[str, list[Entry]] = {}
    for entry in group:
        by_key.setdefault(entry.document["hash"], []).append(entry)
    return [*by_key.values()][::-1]


def settle_all(group: list[Entry], answer: BursarError) -> None:
    for entry in group:
        entry.settle(answer)


def refusal(error: BaseException) -> BursarError:
    if known := translate(error):
        return known
    log.error("a key cannot be verified: %s", state_of(error))
    return Internal("Something went wrong here; nothing was changed.")
