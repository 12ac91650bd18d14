"""A job is added in the transaction that needs it: rolled back it never was, committed it will run.

    @jobs.job("accounts.forget_tokens")
    async def forget_tokens(db: AsyncSession, payload: dict[str, Any]) -> None: ...

runs in one transaction with the end of the job, so its effect in the database happens exactly once.

    @jobs.steps("payments.ask_provider")
    async def ask_provider(run: Run) -> None: ...

is for work that calls the outside between transactions. It may start more than once, so the call
outside carries `run.key`, which is the same each time.

A job runs as the worker, which may do more than whoever added it, and a login role in the wrong
hands can add any job with any payload. So a job never trusts its payload: it takes ids from it,
reads the rest from the database and checks again what the caller was allowed to do. What only some
may ask for says so (`added_by={Role.STAFF, Role.WORKER}`): PostgreSQL writes down the login role
that added a job, and the worker gives up one that came from another. Cron jobs are the worker's.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform
from typing import Any, TypeVar

import orjson
from croniter import croniter  # type: ignore[import-untyped]
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import queue
from bursar.core.database import Role
from bursar.core.errors import BursarError
from bursar.core.queue import Held

MAX_PAYLOAD_BYTES = 65_536
MAX_KEY_LENGTH = 200
LONGEST_DELAY = timedelta(hours=1)
NAME = re.compile(r"(?=.{1,100}$)[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")

InOneTransaction = Callable[[AsyncSession, dict[str, Any]], Awaitable[None]]
InSteps = Callable[["Run"], Awaitable[None]]
Function = InOneTransaction | InSteps
Kind = TypeVar("Kind", InOneTransaction, InSteps)
OpenTransaction = Callable[[], AbstractAsyncContextManager[AsyncSession]]

ANYBODY = frozenset({Role.CUSTOMER, Role.DOOR, Role.STAFF, Role.WORKER})


@dataclass(frozen=True, slots=True)
class Definition:
    """What the worker knows about a kind of job; its docstring is its line in the docs."""

    name: str
    function: Function
    carry_out: InSteps
    added_by: Set[Role]
    retries: int
    retry_seconds: float
    timeout_seconds: float
    at_once: int
    schedule: str | None
    description: str


registry: dict[str, Definition] = {}
names_of: dict[Function, str] = {}


class Run:
    """One start of one job: what it was given, and transactions that only its holder can commit."""

    def __init__(
        self, held: Held, payload: dict[str, Any], open_transaction: OpenTransaction
    ) -> None:
        self.held = held
        self.payload = payload
        self.finished = False
        self._open = open_transaction

    @property
    def attempt(self) -> int:
        return self.held.attempt

    @property
    def key(self) -> str:
        """The same at every start of this job: the idempotency key for calls outside."""
        return f"job-{self.held.id}"

    @asynccontextmanager
    async def transaction(self, *, last: bool = False) -> AsyncIterator[AsyncSession]:
        """Commits when the block ends well; `last` ends the job in the same transaction."""
        async with self._open() as db:
            await queue.hold(db, self.held)
            yield db
            await (queue.finish if last else queue.refresh)(db, self.held)
        self.finished = last


def job(
    name: str,
    *,
    retries: int = 8,
    retry_seconds: float = 5,
    timeout_seconds: float = 60,
    at_once: int = 0,
    added_by: Set[Role] = ANYBODY,
) -> Callable[[InOneTransaction], InOneTransaction]:
    """Defines a job of one transaction.

    It is retried after `retry_seconds`, then after twice as long and so on, up to an hour.
    `at_once` bounds how many of its name run in the whole system; 0 is no bound.
    """
    return define(
        name,
        whole,
        added_by=added_by,
        retries=retries,
        retry_seconds=retry_seconds,
        timeout_seconds=timeout_seconds,
        at_once=at_once,
    )


def cron(
    expression: str, name: str, *, retries: int = 3, timeout_seconds: float = 300
) -> Callable[[InOneTransaction], InOneTransaction]:
    """Defines a job of one transaction that is added at these times (UTC), once for all workers.

    A time that passed while no worker was there is made up for once, not once for each miss. Its
    payload says for when it is, as `{"scheduled_for": "2026-11-20T03:00:00+00:00"}`.
    """
    if not croniter.is_valid(expression):
        raise ValueError(f"{expression!r} is no cron expression")

    return define(
        name,
        whole,
        added_by={Role.WORKER},
        retries=retries,
        timeout_seconds=timeout_seconds,
        at_once=1,
        schedule=expression,
    )


def steps(
    name: str,
    *,
    retries: int = 8,
    retry_seconds: float = 5,
    timeout_seconds: float = 300,
    at_once: int = 0,
    added_by: Set[Role] = ANYBODY,
) -> Callable[[InSteps], InSteps]:
    """Defines a job that opens its own short transactions and may call the outside between them."""
    return define(
        name,
        lambda function: function,
        added_by=added_by,
        retries=retries,
        retry_seconds=retry_seconds,
        timeout_seconds=timeout_seconds,
        at_once=at_once,
    )


def whole(function: InOneTransaction) -> InSteps:
    async def carry_out(run: Run) -> None:
        async with run.transaction(last=True) as db:
            await function(db, run.payload)

    return carry_out


def define(
    name: str,
    carried_out: Callable[[Kind], InSteps],
    *,
    added_by: Set[Role],
    retries: int,
    timeout_seconds: float,
    at_once: int,
    retry_seconds: float = 5,
    schedule: str | None = None,
) -> Callable[[Kind], Kind]:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a job's name such as 'system.prune_history'")
    if name in registry:
        raise ValueError(f"two jobs share the name {name}")

    def register(function: Kind) -> Kind:
        registry[name] = Definition(
            name=name,
            function=function,
            carry_out=carried_out(function),
            added_by=added_by,
            retries=retries,
            retry_seconds=retry_seconds,
            timeout_seconds=timeout_seconds,
            at_once=at_once,
            schedule=schedule,
            description=" ".join((function.__doc__ or "").split()),
        )
        names_of[function] = name
        return function

    return register


class PayloadTooLarge(BursarError, status=413, code="jobs.payload_too_large"):
    """A job or an event carries at most 64 KiB of JSON; store the rest and pass its id."""


async def enqueue(
    db: AsyncSession,
    function: Function,
    payload: dict[str, Any] | None = None,
    *,
    unique_key: str | None = None,
    run_at: datetime | None = None,
) -> int | None:
    """Adds a job in the caller's transaction and answers its id.

    With a `unique_key` it answers None and adds nothing while a job of that name and key waits or
    runs. One that runs may have read the old state already: where that matters, use no key.
    """
    if function not in names_of:
        raise LookupError(f"{function!r} is not a job: @jobs.job makes it one")
    if unique_key is not None and not 0 < len(unique_key) <= MAX_KEY_LENGTH:
        raise ValueError(f"a unique key has 1 to {MAX_KEY_LENGTH} characters")
    if run_at is not None and run_at.tzinfo is None:
        raise ValueError("the time of a job has a zone")
    encoded = as_json(payload or {}).decode()
    return await queue.add(db, names_of[function], encoded, unique_key=unique_key, run_at=run_at)


class NotAnObject(ValueError):
    """What stands in a payload is not what `as_json` writes."""


def from_json(payload: bytes | str) -> dict[str, Any]:
    """The payload as it is handed on; its text is left out of the error, it may be anything."""
    try:
        decoded = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise NotAnObject("the payload cannot be read as JSON") from None
    if not isinstance(decoded, dict):
        raise NotAnObject("the payload is no JSON object")
    return decoded


def as_json(payload: dict[str, Any]) -> bytes:
    """The payload as it is stored; what JSON cannot say exactly (a Decimal) is refused."""
    encoded = orjson.dumps(payload)
    if len(encoded) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(
            f"The payload has {len(encoded)} bytes of JSON; at most {MAX_PAYLOAD_BYTES} are taken."
        )
    return encoded


def delay_before(definition: Definition, attempt: int) -> timedelta:
    """Doubles with each failed attempt up to an hour; spread, so that failures do not march."""
    doubled = timedelta(seconds=definition.retry_seconds * 2.0 ** min(attempt - 1, 20))
    return min(doubled, LONGEST_DELAY) * uniform(0.75, 1.25)  # noqa: S311 - not a secret


def at_once() -> dict[str, int]:
    """The names that this process can run, with their bounds."""
    return {name: definition.at_once for name, definition in registry.items()}


def scheduled() -> Iterable[Definition]:
    return [definition for definition in registry.values() if definition.schedule]
