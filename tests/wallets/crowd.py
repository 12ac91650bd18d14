"""Callers who ask the ledger at the same moment, and the order in which it may have heard them."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import permutations
from typing import Any
from uuid import UUID

import asyncpg

from bursar.core.database import Database
from bursar.core.errors import BursarError
from bursar.wallets.ledger import Moved, Outcome, Request
from bursar.wallets.till import Till
from tests.databases import test_settings as settings_of_tests
from tests.wallets.oracle import Answer, Books, Oracle, books
from tests.wallets.purses import minor

MOST = 4  # at once: their orders are 24
LOCK = "select from accounts where owner_id = any ($1::uuid[]) order by id for no key update"
LOOK_ANEW = "select pg_stat_clear_snapshot()"  # a transaction goes on seeing who was there at first
WAITING = """
  select pid, usename = 'worker_user' as of_the_till
  from pg_locks join pg_stat_activity using (pid)
  where not granted and datname = current_database()"""


@dataclass(frozen=True)
class Call:
    """One request, over a connection of its caller's own or through the till that many share."""

    request: Request
    by_till: bool


class Crowd:
    """Its connections stay open from one round to the next."""

    def __init__(self, gate: Books, callers: Sequence[Books], till: Till) -> None:
        self._gate = gate
        self._callers = callers
        self._till = till

    async def ask(self, calls: Sequence[Call], users: Sequence[str] = ()) -> list[Answer]:
        """All at once. The wallets of these users are locked until everybody waits for them or has
        an answer: then each has read what can be read before it has its locks."""
        async with self._gate.connection.transaction():
            await self._gate.execute(LOCK, users)
            told = [
                asyncio.ensure_future(self._told(call, calls, mine))
                for call, mine in zip(calls, self._callers, strict=False)
            ]
            async with asyncio.timeout(20):
                while users and not await self._all_wait(calls, told):
                    await asyncio.sleep(0)
        return await asyncio.gather(*told)

    async def _told(self, call: Call, calls: Sequence[Call], mine: Books) -> Answer:
        if call.by_till:
            return await posted(self._till, call.request)
        while True:
            try:
                return (await mine.post(call.request))[0]
            except asyncpg.UniqueViolationError as error:
                # Only who has other wallets under a key is not seen before it is written.
                rivals = [each.request for each in calls if each.request.key == call.request.key]
                assert error.constraint_name == "uq_operations_mark"  # noqa: PT017
                assert any(rival.legs != call.request.legs for rival in rivals)

    async def _all_wait(
        self, calls: Sequence[Call], told: Sequence[asyncio.Future[Answer]]
    ) -> bool:
        await self._gate.execute(LOOK_ANEW)
        rows = await self._gate.fetch(WAITING)
        waiting = {row["pid"] for row in rows}
        till_waits = any(row["of_the_till"] for row in rows)
        return all(
            answer.done()
            or (till_waits if call.by_till else mine.connection.get_server_pid() in waiting)
            for call, answer, mine in zip(calls, told, self._callers, strict=False)
        )


async def posted(till: Till, request: Request) -> Answer:
    """What the till answers, in the words of the ledger; the number of the bad leg it keeps."""
    try:
        outcome: Outcome = await till.post(request)
    except BursarError as error:
        names = error.extra.keys() - {"currency"}
        asset = str(error.extra.get("currency"))
        return {"error": error.code} | {name: minor(error.extra[name], asset) for name in names}
    return {"legs": [document(moved) for moved in outcome.legs], "replayed": outcome.replayed}


def document(moved: Moved) -> Answer:
    ids = {name: getattr(moved, name) for name in ("transfer_id", "hold_id")}
    return moved._asdict() | {name: str(each) if each else None for name, each in ids.items()}


@asynccontextmanager
async def crowd(url: str) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        gate, *callers = [await stack.enter_async_context(books(url)) for _ in range(1 + MOST)]
        database = Database(url, settings_of_tests())
        stack.push_async_callback(database.close)
        till = Till(database)
        stack.push_async_callback(till.close)
        yield Crowd(gate, callers, till)


def in_some_order(
    oracle: Oracle,
    calls: Sequence[Call],
    answers: Sequence[Answer],
    check: Callable[[Oracle], None],
) -> Oracle:
    """The oracle as it is after the calls, in an order that explains every answer and passes the
    check, which looks at what is there now."""
    against = []
    for order in permutations(range(len(calls))):
        candidate = copy.deepcopy(oracle)
        try:
            for n in order:
                expected = candidate.answer(calls[n].request)
                if calls[n].by_till:
                    expected.pop("leg", None)
                candidate.agree(expected, answers[n])
            check(candidate)
        except AssertionError as reason:
            against.append(f"{order}: {reason}")
        else:
            return candidate
    raise AssertionError("\n".join(["no order explains these answers", *against]))


def order_of_entries(oracle: Oracle, account: Any) -> list[UUID]:
    """The transfers of an account, the first one first."""
    moves = oracle.moves.values()
    return [UUID(move.id) for move in moves if account in (move.debit, move.credit)]
