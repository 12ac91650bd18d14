"""Runs jobs, schedules and events until told to stop; outlives its database, loses no job.

The same in `bursar worker` and as a task of `bursar serve`. Each of its loops goes on by itself
after an error. When it is told to stop it takes nothing new, lets what runs end until a deadline,
and hands the rest back to the queue.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import tasks as accounts_tasks
from bursar.audit import tasks as audit_tasks
from bursar.auth import tasks as auth_tasks
from bursar.billing import tasks as billing_tasks
from bursar.booking import tasks as booking_tasks
from bursar.core import events, failures, jobs, queue, relay, schedule, tasks
from bursar.core.database import (
    WORKER,
    Database,
    Role,
    connect,
    role_url,
)
from bursar.core.database_errors import DRIVER_ERRORS, state_of
from bursar.core.errors import BursarError
from bursar.core.queue import Held, HoldLost
from bursar.core.settings import Settings
from bursar.metering import tasks as metering_tasks
from bursar.payments import automatic as payments_automatic
from bursar.payments import bank as payments_bank
from bursar.payments import inbox as payments_inbox
from bursar.payments import methods as payments_methods
from bursar.payments import receipt_mail as payments_receipts
from bursar.payments import reconciliation as payments_reconciliation
from bursar.payments import tasks as payments_tasks
from bursar.rewards import tasks as rewards_tasks
from bursar.system import tasks as system_tasks
from bursar.wallets import tasks as wallets_tasks
from bursar.webhooks import tasks as webhooks_tasks

log = logging.getLogger(__name__)

DOMAINS = (
    tasks,
    auth_tasks,
    audit_tasks,
    system_tasks,
    accounts_tasks,
    webhooks_tasks,
    wallets_tasks,
    rewards_tasks,
    payments_tasks,
    payments_inbox,
    billing_tasks,
    booking_tasks,
    metering_tasks,
    payments_methods,
    payments_automatic,
    payments_receipts,
    payments_reconciliation,
    payments_bank,
)  # importing a domain's tasks is what registers its jobs and subscribers

RELAYS = 2  # subscribers that are told at the same time
TROUBLE = (*DRIVER_ERRORS, BursarError, TimeoutError)  # what a database can do to a worker

Loop = Callable[[], Awaitable[float]]  # does one turn, answers how long to rest


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things happen; only tests are in a greater hurry."""

    lease_seconds: float = queue.LEASE_SECONDS
    poll_seconds: float = 5  # for whatever no notification has told
    schedule_seconds: float = 30
    retry_seconds: float = 0.25  # after an error, doubled up to poll_seconds


class Worker:
    """One of any number of workers on a database."""

    def __init__(self, database: Database, settings: Settings, pace: Pace | None = None) -> None:
        self.id = uuid4()
        self.database = database
        self.settings = settings
        self.pace = pace or Pace()
        self.concurrency = settings.worker_concurrency
        self.running: dict[asyncio.Task[None], Held] = {}
        self.job_added = asyncio.Event()
        self.event_added = {name: asyncio.Event() for name in events.subscribers}
        self._relays = asyncio.Semaphore(RELAYS)
        self._last_beat = time.monotonic()
        self._filling: asyncio.Task[float] | None = None
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then ends what runs or hands it back."""
        events.check()
        await self.sign_in(stop)
        beating = asyncio.create_task(self.forever(self.beat))
        working = [asyncio.create_task(self.forever(*loop)) for loop in self.loops()]
        working.append(asyncio.create_task(self.forever(self.listen)))
        try:
            await stop.wait()
        finally:
            self._stopping = True
            await self.cancel(working)
            await self.end_running()
            await self.cancel([beating])
            with suppress(*TROUBLE):
                async with asyncio.timeout(self.pace.poll_seconds):
                    await self.leave()

    async def sign_in(self, stop: asyncio.Event) -> None:
        """Waits for a database that is not there yet, but not for one that refuses this worker."""
        failed = 0
        while not stop.is_set():
            try:
                async with self.database.transaction(WORKER) as db:
                    await db.execute(text("select 1"))
                return
            except TROUBLE as error:
                if state_of(error) in SIGN_IN_REFUSED:
                    raise CannotSignIn.because(failures.message(error)) from None
                failed += 1
                await self.rest_after(error, failed, wake=stop)

    def loops(self) -> list[tuple[Loop, asyncio.Event]]:
        """Each has an event that ends its rest early."""
        told = [
            (self.telling(subscriber), self.event_added[subscriber.name])
            for subscriber in events.subscribers.values()
        ]
        return [(self.take, self.job_added), (self.scheduling(), asyncio.Event()), *told]

    async def forever(self, loop: Loop, wake: asyncio.Event | None = None) -> None:
        """Turn after turn; an error is written down and the next turn comes a little later."""
        wake = wake or asyncio.Event()
        failed = 0
        while True:
            try:
                rest, failed = await loop(), 0
                await wait_for(wake, rest)
            except Exception as error:
                failed += 1
                await self.rest_after(error, failed, wake=wake)
            wake.clear()

    async def rest_after(self, error: Exception, failed: int, *, wake: asyncio.Event) -> None:
        rest = min(self.pace.retry_seconds * 2 ** min(failed, 20), self.pace.poll_seconds)
        line = failures.message(error)
        if isinstance(error, TROUBLE):
            log.warning("worker: %s; again in %.1f s", line, rest)
        else:
            log.error("worker: %s; again in %.1f s\n%s", line, rest, failures.where(error))
        await wait_for(wake, rest)

    async def take(self) -> float:
        """Fills the free places. Not cancelled half-way: what was taken has to be started."""
        self._filling = asyncio.create_task(self.fill())
        return await asyncio.shield(self._filling)

    async def fill(self) -> float:
        free = self.concurrency - len(self.running)
        if free <= 0:
            return self.pace.poll_seconds  # a job that ends ends this rest
        lease = timedelta(seconds=self.pace.lease_seconds)
        async with self.database.transaction(WORKER) as db:
            taken = await queue.take(db, jobs.at_once(), limit=free, lease=lease)
            due = None if taken else await queue.seconds_to_next(db, list(jobs.registry))
        for held in taken:
            task = asyncio.create_task(self.perform(held), name=f"job {held.id} {held.name}")
            self.running[task] = held
            task.add_done_callback(self.ended)
        if taken:
            return 0
        return self.pace.poll_seconds if due is None else min(due + 0.01, self.pace.poll_seconds)

    def ended(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self.job_added.set()
        if not task.cancelled() and (error := task.exception()):
            line, where = failures.message(error), failures.where(error)
            log.error("worker: a job ended in a way it must not: %s\n%s", line, where)

    async def perform(self, held: Held) -> None:
        """Carries out one job and settles how it ended."""
        definition = jobs.registry[held.name]
        limit = asyncio.timeout(definition.timeout_seconds)
        try:
            if held.attempt > definition.retries + 1:
                raise WorkerDied(f"the worker died in each of {held.attempt - 1} attempts")
            if held.added_by not in definition.added_by:
                raise NotTheirs(f"this job is not for {held.added_by or 'anybody'} to add")
            run = jobs.Run(held, jobs.from_json(held.payload), self.open_for(held))
            async with limit:
                await definition.carry_out(run)
        except HoldLost:
            log.warning("worker: job %s was lost to another worker", held.id)
        except asyncio.CancelledError:
            if self._stopping:
                await self.settle(held, lambda db: queue.hand_back(db, held))
        except Exception as error:
            if limit.expired() and isinstance(error, TimeoutError):
                error = OutOfTime(f"it ran for longer than {definition.timeout_seconds:g} s")
            await self.settle_failure(held, definition, error)
        else:
            if not run.finished:
                await self.settle(held, lambda db: queue.finish(db, held))

    def open_for(self, held: Held) -> jobs.OpenTransaction:
        @asynccontextmanager
        async def open_transaction() -> AsyncIterator[AsyncSession]:
            async with self.database.transaction(WORKER) as db:
                yield db

        return open_transaction

    async def settle_failure(
        self, held: Held, definition: jobs.Definition, error: Exception
    ) -> None:
        report = failures.report(held.id, error)
        line = failures.message(error)
        if held.attempt > definition.retries or isinstance(error, HOPELESS):
            log.error("job %s %s is dead: %s", held.id, held.name, line)
            await self.settle(held, lambda db: queue.give_up(db, held, report))
            return
        delay = jobs.delay_before(definition, held.attempt)
        log.warning("job %s %s failed, again in %s: %s", held.id, held.name, delay, line)
        await self.settle(held, lambda db: queue.try_again(db, held, delay, report))

    async def settle(self, held: Held, ending: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """Written as soon as the database takes it; after the lease it is another worker's turn."""
        deadline = time.monotonic() + self.pace.lease_seconds
        while True:
            try:
                async with self.database.transaction(WORKER) as db:
                    await ending(db)
                return
            except HoldLost:
                log.warning("worker: job %s was lost to another worker", held.id)
                return
            except TROUBLE as error:
                if time.monotonic() > deadline:
                    line = failures.message(error)
                    log.error("worker: how job %s ended cannot be written: %s", held.id, line)
                    return
                await asyncio.sleep(self.pace.retry_seconds)

    async def beat(self) -> float:
        """Tells that this worker lives, and stops jobs that are no longer its own."""
        holding = list(self.running.items())
        if time.monotonic() - self._last_beat > self.pace.lease_seconds:
            self.drop(holding)  # nobody has heard of us for so long: others have our jobs by now
        async with self.database.transaction(WORKER) as db:
            await queue.seen(db, self.id, len(holding))
            held = await queue.beat(db, [held for _, held in holding]) if holding else set()
        self._last_beat = time.monotonic()
        self.drop([(task, held_) for task, held_ in holding if held_.id not in held])
        return self.pace.lease_seconds / 4

    def drop(self, lost: list[tuple[asyncio.Task[None], Held]]) -> None:
        for task, _ in lost:
            task.cancel()

    def scheduling(self) -> Loop:
        known = False

        async def turn() -> float:
            nonlocal known
            async with self.database.transaction(WORKER) as db:
                if not known:
                    await schedule.register(db)
                wait = await schedule.add_due(db)
            known = True
            return min(wait + 0.05, self.pace.schedule_seconds)

        return turn

    def telling(self, subscriber: events.Subscriber) -> Loop:
        known = False

        async def turn() -> float:
            nonlocal known
            if not known:
                await relay.register(self.database, [subscriber])
                known = True
            async with self._relays:
                delivery = await relay.deliver(self.database, subscriber)
            if delivery.next_in_seconds is None:
                return self.pace.poll_seconds
            return min(delivery.next_in_seconds, self.pace.poll_seconds)

        return turn

    async def listen(self) -> float:
        """Waits for notifications on a connection of its own, until that dies."""
        direct = self.settings.database_direct_url
        url = make_url(direct.get_secret_value()) if direct else self.database.url
        connection = await connect(role_url(url, Role.WORKER, self.settings), self.settings)
        try:
            await connection.add_listener(queue.CHANNEL, lambda *_: self.job_added.set())
            await connection.add_listener(events.CHANNEL, lambda *_: self.wake_relays())
            self.job_added.set()
            self.wake_relays()  # for what was told while nobody listened
            while True:
                await asyncio.sleep(self.pace.poll_seconds)
                await connection.execute("select 1", timeout=self.pace.poll_seconds)
        finally:
            connection.terminate()

    def wake_relays(self) -> None:
        for wake in self.event_added.values():
            wake.set()

    async def end_running(self) -> None:
        """Until the deadline jobs may end by themselves; those that do not go back to the queue."""
        deadline = time.monotonic() + self.settings.shutdown_seconds
        if self._filling:
            await asyncio.wait([self._filling], timeout=self.pace.poll_seconds)
            await self.cancel([self._filling])  # what it took unheard of is free after the lease
        if self.running:
            log.info("worker: waits for %d running jobs", len(self.running))
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait(self.running, timeout=left)
        await self.cancel(list(self.running))

    async def cancel(self, running: Sequence[asyncio.Task[Any]]) -> None:
        """What a silent database keeps from ending is left behind: the process ends anyway."""
        for task in running:
            task.cancel()
        if running:
            ended, _ = await asyncio.wait(running, timeout=self.pace.poll_seconds)
            await asyncio.gather(*ended, return_exceptions=True)

    async def leave(self) -> None:
        async with self.database.transaction(WORKER) as db:
            await queue.left(db, self.id)


class CannotSignIn(BursarError, status=503, code="worker.cannot_sign_in", exit_code=4):
    """PostgreSQL refuses the worker: its secret key is not the one that `bursar migrate` used."""

    @classmethod
    def because(cls, said: str) -> "CannotSignIn":
        return cls(
            f"PostgreSQL refuses the sign-in of {Role.WORKER} ({said}): the secret key differs "
            "from the one that `bursar migrate` used. Give this process the same "
            "BURSAR_SECRET_KEY, or run `bursar migrate --reset-passwords` with the new one."
        )


SIGN_IN_REFUSED = {"28P01", "28000"}  # a wrong password; a role that is not there or not let in


class WorkerDied(Exception):
    """Said of a job that took its worker with it every time."""


class OutOfTime(Exception):
    """Said of a job that ran into its time limit."""


class NotTheirs(Exception):
    """Said of a job that was added by a login role which its definition does not name."""


HOPELESS = (NotTheirs, jobs.NotAnObject)  # the next attempt would end in the same way


async def wait_for(wake: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
