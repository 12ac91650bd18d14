"""Many connections at once on few wallets: no deadlock, no cent too many, each key once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from bursar.wallets import ledger
from bursar.wallets.ledger import Request
from tests.wallets.oracle import Answer, Books, ask, books, opened

CONNECTIONS = 12


@pytest.fixture
async def here(url: str) -> AsyncIterator[Books]:
    async with books(url) as connection:
        yield connection
        await connection.check()


async def at_once(
    url: str, number: int, work: Callable[[Books, int], Coroutine[Any, Any, Any]]
) -> list[Any]:
    """The same work on several connections, all open before the first begins."""
    async with AsyncExitStack() as stack:
        each = [await stack.enter_async_context(books(url)) for _ in range(number)]
        return await asyncio.gather(*(work(mine, n) for n, mine in enumerate(each)))


async def post(mine: Books, *requests: Request) -> list[Answer]:
    """A key that another connection has just used for other wallets: the call is asked again."""
    while True:
        try:
            return await mine.post(*requests)
        except asyncpg.UniqueViolationError as error:
            assert error.constraint_name == "uq_operations_mark"  # noqa: PT017


def batches(requests: list[Request], size: int) -> list[list[Request]]:
    return [requests[at : at + size] for at in range(0, len(requests), size)]


async def test_36_000_crosswise_transfers_with_colliding_keys(url: str, here: Books) -> None:
    """3,000 on each connection, 245 in a call and 60 alone; every fourth is asked twice."""
    users = [await here.customer(1000) for _ in range(10)]
    chance = random.Random(36_000)
    asked: list[Request] = []
    for n in range(36_000):
        debit, credit = (ledger.user(user) for user in chance.sample(users, 2))
        leg = ledger.transfer(debit, credit, chance.randint(1, 5), kind="transfer")
        again = asked and chance.random() < 0.25
        asked.append(chance.choice(asked) if again else ask(leg, key=f"crosswise {n}"))

    async def work(mine: Books, number: int) -> list[tuple[Request, Answer]]:
        own = asked[number::CONNECTIONS]
        calls = batches(own[:60], 1) + batches(own[60:], 245)
        told: list[tuple[Request, Answer]] = []
        for call in calls:
            told += zip(call, await post(mine, *call), strict=True)
        return told

    told = [pair for pairs in await at_once(url, CONNECTIONS, work) for pair in pairs]
    assert len(told) == 36_000
    accepted = {request.key: request for request, answer in told if "error" not in answer}
    first = Counter(request.key for request, answer in told if fresh(answer))
    assert set(first) == set(accepted)
    assert max(first.values()) == 1
    assert {answer.get("error") for _, answer in told} <= {None, "wallet.insufficient_funds"}
    balances = dict.fromkeys(users, 1000)
    for request in accepted.values():
        [leg] = request.legs
        balances[leg["debit"][5:]] -= leg["amount"]
        balances[leg["credit"][5:]] += leg["amount"]
    assert {user: (await here.state(user))[0] for user in users} == balances
    assert len(accepted) > 20_000


def fresh(answer: Answer) -> bool:
    return "error" not in answer and not answer.get("replayed")


async def test_of_40_000_attempts_there_is_money_for_2_000(url: str, here: Books) -> None:
    user = await here.customer(2000)
    leg = ledger.transfer(ledger.user(user), "revenue", 1, kind="charge")

    async def work(mine: Books, number: int) -> int:
        calls = [[ask(leg) for _ in range(size)] for size in [1] * 20 + [498] * 10]
        answers = [answer for call in calls for answer in await post(mine, *call)]
        assert {answer.get("error") for answer in answers} <= {None, "wallet.insufficient_funds"}
        assert len(answers) == 5000
        return sum(map(fresh, answers))

    assert sum(await at_once(url, 8, work)) == 2000
    assert await here.state(user) == (0, 0, 2000, 2001)


async def test_the_same_request_from_everywhere_is_done_once(url: str, here: Books) -> None:
    user = await here.customer(1000)
    leg = ledger.transfer(ledger.user(user), "revenue", 7, kind="charge")
    requests = [ask(leg) for _ in range(20)]

    async def work(mine: Books, number: int) -> list[Answer]:
        order = random.Random(number).sample(requests, 20)
        answers = dict(zip((r.key for r in order), await mine.post(*order), strict=True))
        return [answers[request.key] for request in requests]

    for answers in zip(*await at_once(url, CONNECTIONS, work), strict=True):
        assert sum(map(fresh, answers)) == 1
        assert len({answer["operation_id"] for answer in answers}) == 1
    assert await here.state(user) == (1000 - 140, 0, 140, 21)


async def test_the_same_keys_for_different_wallets(url: str, here: Books) -> None:
    """Nobody shares an account, everybody the keys, in any order: one body wins each."""
    users = [await here.customer(1000) for _ in range(CONNECTIONS)]

    async def work(mine: Books, number: int) -> list[tuple[str, Answer]]:
        leg = ledger.transfer(ledger.user(users[number]), ledger.user(users[-1 - number]), 1,
                              kind="transfer")  # fmt: skip
        told: list[tuple[str, Answer]] = []
        for turn in range(5):
            keys = random.Random(number).sample(range(60), 30)
            call = [ask(leg, key=f"shared {turn} {key}") for key in keys]
            told += zip((r.key for r in call), await post(mine, *call), strict=True)
        return told

    told = [pair for pairs in await at_once(url, CONNECTIONS, work) for pair in pairs]
    assert {answer.get("error") for _, answer in told} == {None, "idempotency.key_reused"}
    done = Counter(key for key, answer in told if fresh(answer))
    assert set(done) == {key for key, _ in told}
    assert set(done.values()) == {1}
    assert sum([(await here.state(user))[0] for user in users]) == 1000 * CONNECTIONS


async def test_holds_and_captures_that_race(url: str, here: Books) -> None:
    """Of everybody who captures, voids and charges, each cent is taken once."""
    user = await here.customer(1000)
    wallet = ledger.user(user)
    held = await here.post(
        *(ask(ledger.hold(wallet, 20, kind="charge", seconds=60)) for _ in range(40))
    )
    ids = [answer["legs"][0]["hold_id"] for answer in held]

    async def work(mine: Books, number: int) -> list[Answer]:
        chance = random.Random(number)
        told: list[Answer] = []
        for hold_id in chance.sample(ids, len(ids)):
            leg = chance.choice([
                ledger.capture(hold_id, 9), ledger.capture(hold_id, 6, final=True),
                ledger.capture(hold_id), ledger.void(hold_id),
                ledger.transfer(wallet, "revenue", 7, kind="charge"),
            ])  # fmt: skip
            told += await mine.post(ask(leg))
        return told

    told = [answer for answers in await at_once(url, CONNECTIONS, work) for answer in answers]
    wrong = {"wallet.hold_closed", "wallet.capture_too_large", "wallet.insufficient_funds"}
    assert {answer.get("error") for answer in told} <= {None, *wrong}
    moved = [answer["legs"][0] for answer in told if fresh(answer)]
    spent = sum(leg["amount"] for leg in moved if leg["transfer_id"])
    posted, _, its_spent, _ = await here.state(user)
    assert (posted, its_spent) == (1000 - spent, spent)
    captured = Counter[str]()
    for leg in moved:
        if leg["hold_id"] and leg["transfer_id"]:
            captured[leg["hold_id"]] += leg["amount"]
    assert max(captured.values()) <= 20


async def test_reversals_that_race(url: str, here: Books) -> None:
    user = await here.customer(1000)
    leg = ledger.transfer(ledger.user(user), "revenue", 100, kind="charge")
    paid = (await here.do(leg))["legs"][0]["transfer_id"]

    async def work(mine: Books, number: int) -> int:
        answers = [(await mine.one(ledger.reverse(paid, 3))) for _ in range(10)]
        return sum(map(fresh, answers))

    assert sum(await at_once(url, CONNECTIONS, work)) == 33
    assert await here.state(user) == (999, 0, 1, 2 + 33)


async def test_a_wallet_that_everybody_opens(url: str, here: Books) -> None:
    user = await here.customer()
    leg = ledger.transfer("rewards", ledger.user(user), 1, "POINTS", kind="earn")

    async def work(mine: Books, number: int) -> None:
        await mine.do(leg)

    await at_once(url, CONNECTIONS, work)
    assert await here.state(user, "POINTS") == (CONNECTIONS, 0, 0, CONNECTIONS)


async def test_wallets_that_are_opened_crosswise(url: str, here: Books) -> None:
    """Whoever finds one opened meanwhile lets go of all that it holds and begins anew: nobody waits
    in a circle with those who hold the new wallet and want an old one."""
    rich = [await here.customer() for _ in range(CONNECTIONS)]
    for user in rich:
        await here.do(ledger.transfer("rewards", ledger.user(user), 10_000, "POINTS", kind="earn"))
    new = [[await here.customer() for _ in range(4)] for _ in range(40)]

    async def work(mine: Books, number: int) -> None:
        chance = random.Random(number)
        for some in new:
            order = chance.sample([*some, rich[number], chance.choice(rich)], 6)
            for payer in (rich[number], *some[:2]):
                legs = [
                    ledger.transfer(
                        ledger.user(payer), ledger.user(payee), 1, "POINTS", kind="gift"
                    )
                    for payee in order
                    if payee != payer
                ]
                answer = await mine.one(*legs)
                assert answer.get("error") in (None, "wallet.insufficient_funds")

    await at_once(url, CONNECTIONS, work)
    sums = "select sum(posted) from accounts where asset = 'POINTS' and owner_id is not null"
    given = "select -sum(posted) from accounts where asset = 'POINTS' and purpose = 'rewards'"
    assert await here.fetchval(sums) == await here.fetchval(given)


async def test_a_transaction_that_cannot_see_a_new_wallet_is_told_so(url: str, here: Books) -> None:
    """Its snapshot is older than the wallet: it never will, however often it looks."""
    user = await here.customer()
    leg = ledger.transfer("rewards", ledger.user(user), 1, "POINTS", kind="earn")
    async with books(url) as older, older.connection.transaction(isolation="repeatable_read"):
        await older.fetchval("select count(*) from accounts")
        await here.do(leg)
        with pytest.raises((asyncpg.UniqueViolationError, asyncpg.SerializationError)):
            await older.do(leg)
    assert await here.state(user, "POINTS") == (1, 0, 0, 1)


async def test_a_wallet_that_is_frozen_while_it_is_charged(url: str, here: Books) -> None:
    """When the freeze is committed the last charge is in; none comes after it."""
    user = await here.customer(100_000)
    leg = ledger.transfer(ledger.user(user), "revenue", 1, kind="charge")
    charging = asyncio.Event()

    async def work(mine: Books, number: int) -> int:
        charged = 0
        while True:
            answers = await mine.post(*(ask(leg) for _ in range(3)))
            charged += sum(map(fresh, answers))
            charging.set()
            if "error" in answers[-1]:
                assert answers[-1]["error"] == "wallet.account_frozen"
                assert len({answer.get("error") for answer in answers}) == 1  # all or none of three
                return charged

    work_done = asyncio.create_task(at_once(url, 6, work))
    await charging.wait()
    freezer = await opened(url)
    await freezer.execute("update accounts set status = 'frozen' where owner_id = $1", user)
    at_freeze = await freezer.state(user)
    await freezer.connection.close()
    charged = sum(await work_done)
    assert await here.state(user) == at_freeze == (100_000 - charged, 0, charged, 1 + charged)
