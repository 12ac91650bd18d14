"""A crowd at the ledger, whatever each of them asks, leaves exact books."""

import asyncio
import random
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest

from bursar.core import exact
from bursar.wallets import ledger
from bursar.wallets.ledger import Request
from tests.conftest import Live
from tests.wallets.oracle import Answer, Books, ask, books


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_eight_connections_at_once_leave_exact_books(live_db: Live, seed: int) -> None:
    """Anything on five shared wallets, with keys that collide, in calls of up to 12 requests."""
    chance = random.Random(seed)
    async with books(live_db.url) as here:
        users = [await here.customer(500) for _ in range(5)]
        known: list[Answer] = []
        told: dict[str, list[Answer]] = {}
        await asyncio.gather(*(wild(live_db.url, chance, users, known, told) for _ in range(8)))
        await here.check()
        for answers in told.values():  # who asks the same again is told the same
            assert len({exact.dumps(answer["legs"]) for answer in answers}) == 1
            assert sum(not answer.get("replayed") for answer in answers) == 1
        assert await here.fetchval("select count(*) - 5 from operations") == len(told)
        assert len(told) > 300


async def wild(
    url: str,
    chance: random.Random,
    users: list[str],
    known: list[Answer],
    told: dict[str, list[Answer]],
) -> None:
    async with books(url) as here:
        for _ in range(40):
            asked = [wild_request(chance, users, known) for _ in range(chance.randint(1, 12))]
            for request, answer in zip(asked, await posted(here, asked), strict=True):
                if "error" not in answer:
                    told.setdefault(request.key, []).append(answer)
                    known += answer["legs"]


async def posted(here: Books, asked: list[Request]) -> list[Answer]:
    """A key that somebody else has just used for other wallets ends the call: it is asked again."""
    while True:
        with suppress(asyncpg.UniqueViolationError):
            return await here.post(*asked)


def wild_request(chance: random.Random, users: list[str], known: list[Answer]) -> Request:
    debit, credit = (ledger.user(each) for each in chance.sample(users, 2))
    amount = chance.randint(1, 60)
    done = chance.choice(known[-40:]) if known else {"hold_id": uuid4(), "transfer_id": uuid4()}
    its_hold, its_transfer = (done[name] or uuid4() for name in ("hold_id", "transfer_id"))
    leg = chance.choice(
        [
            ledger.transfer(debit, credit, amount, kind="transfer", at_most_today=3000),
            ledger.transfer(debit, "revenue", amount, kind="charge"),
            ledger.transfer("clearing", credit, amount, kind="funding"),
            ledger.hold(debit, amount, kind="charge", seconds=chance.choice([0, 600, 600])),
            ledger.capture(its_hold, chance.randint(1, 20), final=chance.random() < 0.5),
            ledger.capture(its_hold),
            chance.choice([ledger.void, ledger.expire])(its_hold),
            ledger.reverse(its_transfer, chance.randint(1, 20)),
        ]
    )
    linked = ledger.transfer(debit, "fees", 1, kind="charge")
    legs = [leg, linked] if chance.random() < 0.3 else [leg]
    return ask(*legs, key=f"key {chance.randint(1, 1500)}")
