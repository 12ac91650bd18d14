"""Charges that arrive together go to PostgreSQL as one statement, and each gets its own answer.

    outcome = await request.app.state.till.post(ledger.Request(…))

A lane is a queue and a connection: while a batch of it commits, the next one fills, without any
timer. What names the same wallet first takes the same lane, so its requests meet in one statement
and not at a row lock. Lanes share no shard of the company's accounts either (wallets/posting.sql).

Nothing is answered before its commit. A batch with a bad request in it is tried again in halves, so
that only the bad one is refused; one that lost its connection is sent again (wallets/till_link.py).
Queues are bounded: who finds one full is told so at once.
"""

import asyncio
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import asyncpg
import orjson
from prometheus_client import Histogram

from bursar.core.database import Database
from bursar.core.database_errors import DatabaseUnavailable, OutcomeUnknown, state_of
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.exact import as_number
from bursar.core.problems import Internal
from bursar.wallets import ledger
from bursar.wallets.ledger import Outcome, Request
from bursar.wallets.till_link import Effort, Link, Unreachable

log = logging.getLogger("bursar.till")

SHARDS = 16  # of the company's accounts: shard_for() in wallets/posting.sql
DIGITS = {digit: value for value, digit in enumerate("0123456789abcdef")}
MOST_AT_ONCE = 1000  # requests of one call of post_all
MOST_IN_BATCH = 250  # half of 512 callers: while theirs commits, the others' fills
MOST_LEGS = 2000  # of a batch
MOST_BYTES = 1_000_000  # the same, and of a request
MOST_WAITING_BYTES = 16_000_000  # of a lane
PATIENCE_SECONDS = 10.0  # how long one batch is tried
CLOSING_SECONDS = 5.0
RACES = {"40001", "40P01", "23505"}  # serialization, deadlock, a key that somebody wrote just now

batch_size = Histogram(
    "bursar_till_batch_requests",
    "Requests of one statement of the till.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)

Answer = dict[str, Any] | BursarError  # an outcome as post() says it, or why there is none


class TillFull(BursarError, status=429, code="wallet.till_full"):
    """More charges wait than the database takes at the moment; nothing was done, send it again."""

    @classmethod
    def now(cls) -> "TillFull":
        return cls("More charges wait than can be taken; try again.", headers={"Retry-After": "1"})


class TillClosed(BursarError, status=503, code="wallet.till_closed"):
    """This process is about to end and takes no more charges; nothing was done, send it again."""

    @classmethod
    def now(cls) -> "TillClosed":
        return cls("This server is stopping; try again.", headers={"Retry-After": "1"})


def usual_lanes() -> int:
    """A power of two, as near to the number of processors as it comes from below; at least two, so
    that not everybody waits for one batch. More only make smaller batches, and each statement has
    its price (bench/charges.py)."""
    return min(SHARDS, 1 << max(1, (os.cpu_count() or 1).bit_length() - 1))


class Till:
    """One per process. An outcome is answered only after its commit."""

    def __init__(
        self, database: Database, *, lanes: int | None = None, most_waiting: int = 4096
    ) -> None:
        """`most_waiting` is for each lane; the number of lanes divides that of the shards."""
        lanes = usual_lanes() if lanes is None else lanes
        if lanes < 1 or SHARDS % lanes:
            raise ValueError(f"{lanes} lanes would share shards: take 1, 2, 4, 8 or 16")
        self.database = database
        self._lanes = [Lane(Link(database), most_waiting) for _ in range(lanes)]
        self._closed = False

    async def post(self, request: Request) -> Outcome:
        """The outcome, or the refusal as the error that it is."""
        if self._closed:
            raise TillClosed.now()
        entry = Entry(request, self._lane(request))
        if not entry.lane.has_room(1, len(entry.body)):
            raise TillFull.now()
        entry.lane.put(entry)
        try:
            told = read(await entry.future)
        finally:
            entry.forget()
        if isinstance(told, BursarError):
            raise told
        return told

    async def post_all(self, requests: Sequence[Request]) -> list[Outcome | BursarError]:
        """Each one's own outcome or refusal, in order; takes all of them or none.

        Those of one wallet happen in their order; there is none between two wallets.
        """
        if self._closed:
            raise TillClosed.now()
        if len(requests) > MOST_AT_ONCE:
            raise InvalidInput(f"At most {MOST_AT_ONCE} requests go together.")
        taken = [self._entry(request) for request in requests]
        entries = [entry for entry in taken if isinstance(entry, Entry)]
        demand_room(entries)
        for entry in entries:
            entry.lane.put(entry)
        try:
            return [read(await each.future) if isinstance(each, Entry) else each for each in taken]
        finally:
            for entry in entries:
                entry.forget()

    def _entry(self, request: Request) -> "Entry | BursarError":
        try:
            return Entry(request, self._lane(request))
        except BursarError as refusal:
            return refusal

    def _lane(self, request: Request) -> "Lane":
        return self._lanes[digit(request) % len(self._lanes)]

    async def close(self) -> None:
        """Lets what is under way end, and closes the lanes."""
        self._closed = True
        await asyncio.gather(*(lane.close() for lane in self._lanes))


def digit(request: Request) -> int:
    """The last digit of the wallet, account, hold or transfer that is named first."""
    for leg in request.legs:
        for side in ("debit", "credit", "hold", "transfer"):
            name = str(leg.get(side))
            if name[:5] == "user:" or name[8:9] == "-":  # not the company's own
                return DIGITS.get(name[-1:], 0)
    return 0


def read(answer: Answer) -> Outcome | BursarError:
    """One answer that nobody here understands (the database may be newer) spoils no other."""
    if isinstance(answer, BursarError):
        return answer
    try:
        return ledger.result(answer)
    except Exception:
        log.exception("the till cannot read an answer of the ledger")
        if isinstance(answer, dict) and "error" in answer:
            return Internal("Something went wrong here; nothing was changed.")
        return OutcomeUnknown.now()


def demand_room(entries: "Sequence[Entry]") -> None:
    count, size = Counter[Lane](), Counter[Lane]()
    for entry in entries:
        count[entry.lane] += 1
        size[entry.lane] += len(entry.body)
    if not all(lane.has_room(number, size[lane]) for lane, number in count.items()):
        raise TillFull.now()


class Entry:
    """A request in the words of post(), and who waits for its answer."""

    __slots__ = ("body", "future", "lane", "legs")

    def __init__(self, request: Request, lane: "Lane") -> None:
        self.body = body(request)
        self.legs = len(request.legs)
        self.lane = lane
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not 0 < self.legs <= ledger.MOST_LEGS or len(self.body) > MOST_BYTES:
            raise InvalidInput(
                f"A request has 1 to {ledger.MOST_LEGS} legs and at most {MOST_BYTES} bytes."
            )

    def forget(self) -> None:
        """Nobody waits any more: what was not sent yet is not sent, the rest happens unseen."""
        self.future.cancel()
        if self.future.cancelled():  # by us or with its caller; not what has its answer
            self.lane.drop(self)

    def settle(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)


def body(request: Request) -> bytes:
    try:
        text = orjson.dumps(request.document(), default=as_number)
    except TypeError:  # a whole number beyond 64 bits, half a character
        text = None
    # What can be stored nowhere is refused before it spoils a batch; few texts have to be searched.
    if text is None or (b"\\u0000" in text and NUL.search(text)):
        raise InvalidInput("A value is out of range or has characters that cannot be stored.")
    return text


NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Lane:
    """A bounded queue. Its task works while something waits, one batch after the other."""

    def __init__(self, link: Link, most_waiting: int) -> None:
        self._link = link
        self._most_waiting = most_waiting
        self._waiting: deque[Entry] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None

    def has_room(self, count: int, size: int) -> bool:
        return (
            len(self._waiting) + count <= self._most_waiting
            and self._bytes + size <= MOST_WAITING_BYTES
        )

    def put(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._bytes += len(entry.body)
        if self._task is None:  # in a context of its own: the work is not this caller's alone
            self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())

    def drop(self, entry: Entry) -> None:
        with suppress(ValueError):
            self._waiting.remove(entry)
            self._bytes -= len(entry.body)

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._settle(batch)
        finally:
            self._task = None
            self._send_away()

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        legs = size = 0
        while self._waiting and len(batch) < MOST_IN_BATCH:
            entry = self._waiting[0]
            legs += entry.legs
            size += len(entry.body)
            if batch and (legs > MOST_LEGS or size > MOST_BYTES):
                break
            self._waiting.popleft()
            self._bytes -= len(entry.body)
            if not entry.future.done():  # cancelled a moment ago
                batch.append(entry)
        return batch

    async def _settle(self, batch: list[Entry]) -> None:
        """Every entry of the batch has its answer in the end, whatever happens."""
        effort = Effort(PATIENCE_SECONDS)
        groups = [batch]
        try:
            batch_size.observe(len(batch))
            while groups:
                groups += await self._post(groups.pop(), effort)
        except Unreachable:
            self._send_away()
        except Exception:
            log.exception("a batch of the till failed")
            effort.unknown = True
        finally:
            for entry in batch:
                entry.settle(OutcomeUnknown.now() if effort.unknown else DatabaseUnavailable.now())

    async def _post(self, group: list[Entry], effort: Effort) -> list[list[Entry]]:
        """Answers the group, or says in which halves it is to be tried, the second one first."""
        payload = (b"[" + b",".join([entry.body for entry in group]) + b"]").decode()
        try:
            answers = await self._ask(payload, effort)
        except asyncpg.PostgresError as error:
            if len(group) > 1 and not effort.is_over:
                middle = len(group) // 2
                return [group[middle:], group[:middle]]
            for entry in group:
                entry.settle(effort.refusal(error, alone=len(group) == 1))
        else:
            for entry, answer in zip(group, answers, strict=True):
                entry.settle(answer)
        return []

    async def _ask(self, payload: str, effort: Effort) -> list[dict[str, Any]]:
        """A batch that met another transaction is tried once more as it is."""
        try:
            return await self._link.ask(payload, effort)
        except asyncpg.PostgresError as error:
            if state_of(error) not in RACES:
                raise
        return await self._link.ask(payload, effort)

    def _send_away(self) -> None:
        """The database is not there: who has not been sent yet need not wait for that again."""
        for entry in self._waiting:
            entry.settle(DatabaseUnavailable.now())
        self._waiting.clear()
        self._bytes = 0

    async def close(self) -> None:
        if task := self._task:
            _, slow = await asyncio.wait([task], timeout=CLOSING_SECONDS)
            if slow:
                task.cancel()
                await asyncio.wait(slow)
        await self._link.close(CLOSING_SECONDS)
