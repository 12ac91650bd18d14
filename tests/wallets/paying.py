"""Legs in few words, and what is left of them: for tests that ask the ledger itself."""

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from bursar.wallets import ledger
from bursar.wallets.ledger import USD, Leg
from tests.wallets.oracle import Books


@asynccontextmanager
async def undone(here: Books) -> AsyncIterator[None]:
    """Whatever a test does, the books are exact when it ends, and nothing is left behind."""
    transaction = here.connection.transaction()
    await transaction.start()
    try:
        yield
        await here.check()
    finally:
        await transaction.rollback()


def pay(payer: str, amount: int, payee: str = "revenue", asset: str = USD, **more: Any) -> Leg:
    kind = more.pop("kind", "charge")
    return ledger.transfer(party(payer), party(payee), amount, asset, kind=kind, **more)


def party(name: str) -> str:
    """An id is a customer's wallet."""
    return ledger.user(name) if len(name) == 36 else name


def hold(payer: str, amount: int, seconds: int = 600) -> Leg:
    return ledger.hold(party(payer), amount, kind="charge", seconds=seconds, category="models")


async def held(here: Books, payer: str, amount: int, seconds: int = 600) -> str:
    return str((await here.do(hold(payer, amount, seconds)))["legs"][0]["hold_id"])


async def moved(here: Books, leg: Leg) -> str:
    return str((await here.do(leg))["legs"][0]["transfer_id"])


async def close(here: Books, user_id: str) -> None:
    query = "update accounts set status = 'closed' where owner_id = $1"
    await here.execute(query, UUID(user_id))


async def fails(here: Books, error: type[Exception], doing: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(error):
        async with here.connection.transaction():
            await doing
