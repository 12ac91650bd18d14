"""Customers who send each other money: exact, within limits, once for each key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from bursar.auth.actor import Actor, Kind
from bursar.wallets.ledger import Request
from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.wallets.purses import (
    API,
    ME,
    balance_of,
    exact,
    freeze,
    fund,
    hold,
    id_of,
    move_in,
    refused,
    written,
)
from tests.wallets.till_world import blocked, locked
from tests.world import CARL, DORA, OLIVIA

TRANSFERS = f"{API}/wallets/transfers"


@pytest.fixture
async def carl(live_db: Live) -> AsyncIterator[httpx2.AsyncClient]:
    """Carl, with 100 dollars."""
    await move_in(live_db)
    await fund(live_db, CARL, 100)
    async with live_db.api(CARL) as api:
        yield api
    await live_db.app.state.till.close()


async def send(
    api: httpx2.AsyncClient, amount: Any, to: Actor = DORA, key: str | None = None, **more: Any
) -> httpx2.Response:
    body = {"to_user_id": str(to.id), "amount": amount, **more}
    headers = {"Idempotency-Key": key} if key else {}
    return await api.post(TRANSFERS, json=body, headers=headers)


async def test_money_for_somebody_else(live_db: Live, carl: httpx2.AsyncClient) -> None:
    answer = await send(carl, "20.000001", note="for the boat")
    sent = exact(answer)
    assert answer.status_code == 201, answer.text
    assert "idempotent-replayed" not in answer.headers
    assert set(sent) == {
        "id", "to_user_id", "amount", "currency", "note", "balance", "created_at",
    }  # fmt: skip
    assert (sent["amount"], sent["balance"]) == (Decimal("20.000001"), Decimal("79.999999"))
    assert await balance_of(live_db, DORA) == Decimal("20.000001")
    async with live_db.api(DORA) as api:
        [received] = exact(await api.get(f"{ME}/transactions"))["transactions"]
    [given, _] = exact(await carl.get(f"{ME}/transactions"))["transactions"]
    assert received["id"] == given["id"] == sent["id"]
    assert received["note"] == given["note"] == "for the boat"
    assert (received["direction"], given["direction"]) == ("credit", "debit")
    assert str(CARL.id) not in str(received)
    audited = await rows(live_db, "select event_type, actor_id from audit_logs")
    assert [tuple(row) for row in audited] == [("wallets.sent", CARL.id)]


async def test_the_same_key_sends_once(live_db: Live, carl: httpx2.AsyncClient) -> None:
    first = await send(carl, 10, key="k1", note="rent")
    again = await send(carl, "10.0", key="k1", note="rent")
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["idempotent-replayed"] == "true"
    for changed in (
        await send(carl, 11, key="k1", note="rent"),
        await send(carl, 10, key="k1", note="more rent"),
        await send(carl, 10, to=CARL, key="k1", note="rent"),
    ):
        assert refused(changed) == (422, "idempotency.key_reused")
    assert refused(await send(carl, 1, key="two words")) == (422, "idempotency.bad_key")
    assert await balance_of(live_db, CARL) == 90


async def test_twenty_at_once_with_one_key_are_one(live_db: Live, carl: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(send(carl, 10, key="k") for _ in range(20)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert {answer.status_code for answer in answers} == {201}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 19
    assert await balance_of(live_db, CARL) == 90


async def test_what_was_sent_is_said_again_whatever_has_changed_since(
    live_db: Live, carl: httpx2.AsyncClient
) -> None:
    first = await send(carl, 10, key="k")
    await change(live_db, "transfers_open", False)
    await change(live_db, "transfer_limit", 1)
    await change(live_db, "transfer_limit_per_day", 2)
    await rows(live_db, "update users set status = 'suspended' where id = $1", DORA.id)
    await freeze(live_db, CARL)
    again = await send(carl, 10, key="k")
    assert (again.status_code, again.text) == (201, first.text)


async def test_sent_again_while_it_is_under_way_and_the_limit_changes(
    live_db: Live, carl: httpx2.AsyncClient
) -> None:
    assert CARL.id
    async with locked(live_db.url, CARL.id):
        first = asyncio.create_task(send(carl, 10, key="k"))
        await blocked(live_db.url)
        await change(live_db, "transfer_limit_per_day", 50)
        async with seen(live_db) as asked:
            again = asyncio.create_task(send(carl, 10, key="k"))
            await asked.wait()
    answers = [await first, await again]
    assert [answer.status_code for answer in answers] == [201, 201], answers[1].text
    assert answers[0].text == answers[1].text
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert await balance_of(live_db, CARL) == 90


@asynccontextmanager
async def seen(live: Live) -> AsyncIterator[asyncio.Event]:
    """Set as soon as the till has the next request, whose limits have been read by then."""
    told = asyncio.Event()
    till = live.app.state.till
    take = till.post

    def post(request: Request) -> Any:
        told.set()
        return take(request)

    till.post = post
    try:
        yield told
    finally:
        till.post = take


async def test_two_people_may_use_the_same_key(live_db: Live, carl: httpx2.AsyncClient) -> None:
    await send(carl, 10, key="k")
    async with live_db.api(DORA) as api:
        answer = await send(api, 4, to=CARL, key="k")
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    assert (await balance_of(live_db, CARL), await balance_of(live_db, DORA)) == (94, 6)


async def test_what_is_not_there_cannot_be_sent(live_db: Live, carl: httpx2.AsyncClient) -> None:
    await hold(live_db, CARL, 60)
    before = await written(live_db)
    answer = await send(carl, "40.000001")
    assert refused(answer) == (402, "wallet.insufficient_funds")
    problem = exact(answer)
    assert Decimal(problem["available"]) == 40
    assert Decimal(problem["needed"]) == Decimal("40.000001")
    assert problem["currency"] == "USD"
    assert await written(live_db) == before
    assert (await send(carl, 40)).status_code == 201


async def test_transfers_that_go_nowhere(live_db: Live, carl: httpx2.AsyncClient) -> None:
    pia = Actor(Kind.CUSTOMER, uuid4())
    await move_in(live_db, pia)
    before = await written(live_db)
    absent = refused_document(await send(carl, 1, to=Actor(Kind.CUSTOMER, uuid4())))
    for status in ("suspended", "pending", "deleted"):
        await rows(live_db, "update users set status = $1 where id = $2", status, pia.id)
        assert refused_document(await send(carl, 1, to=pia)) == absent, status
    assert absent[:2] == (404, "wallet.unknown_account")
    assert refused(await send(carl, 1, to=CARL)) == (422, "wallet.same_account")
    assert refused(await send(carl, 1, currency="ABC")) == (422, "wallet.unknown_asset")
    assert refused(await send(carl, 1, currency="POINTS")) == (422, "wallet.unknown_asset")
    assert refused(await send(carl, 1, note="two\nlines")) == (422, "invalid_input")
    await freeze(live_db, CARL)
    assert refused(await send(carl, 1)) == (409, "wallet.account_frozen")
    assert await written(live_db) == before
    assert await balance_of(live_db, CARL) == 100


def refused_document(answer: httpx2.Response) -> tuple[int, str, str]:
    return (*refused(answer), answer.json()["detail"])


async def test_limits(live_db: Live, carl: httpx2.AsyncClient) -> None:
    await change(live_db, "transfer_limit", 30)
    await change(live_db, "transfer_limit_per_day", 50)
    large = await send(carl, "30.000001")
    assert refused(large) == (422, "wallet.transfer_too_large")
    assert Decimal(exact(large)["most"]) == 30
    assert (await send(carl, 30)).status_code == 201
    second = await send(carl, "20.000001")
    assert refused(second) == (422, "wallet.transfer_limit")
    assert Decimal(exact(second)["left"]) == 20
    assert (await send(carl, 20)).status_code == 201
    assert refused(await send(carl, "0.000001")) == (422, "wallet.transfer_limit")
    await change(live_db, "transfers_open", False)
    assert refused(await send(carl, 1)) == (403, "wallet.transfers_closed")
    assert await balance_of(live_db, CARL) == 50


async def test_the_limit_of_a_day_holds_for_many_at_once(
    live_db: Live, carl: httpx2.AsyncClient
) -> None:
    await change(live_db, "transfer_limit_per_day", 50)
    answers = await asyncio.gather(*(send(carl, 10) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [422] * 5
    assert await balance_of(live_db, DORA) == 50


async def test_nobody_sends_money_in_a_customers_name(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 100)
    before = await written(live_db)
    as_carl = Actor(Kind.CUSTOMER, CARL.id, impersonator=OLIVIA.id)
    for actor, code in ((as_carl, "auth.not_for_others"), (OLIVIA, "auth.not_allowed")):
        async with live_db.api(actor) as api:
            assert refused(await send(api, 1)) == (403, code)
    assert await written(live_db) == before


async def test_crosswise_transfers_keep_every_cent(live_db: Live) -> None:
    people = [Actor(Kind.CUSTOMER, uuid4()) for _ in range(4)]
    await move_in(live_db, *people)
    clients = [live_db.api(who) for who in people]
    for who in people:
        await fund(live_db, who, 10)
    calls = [
        send(client, 1, to=people[(n + hop) % 4])
        for n, client in enumerate(clients)
        for hop in (1, 2, 3)
        for _ in range(4)
    ]
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} <= {201, 402}
    balances = [await balance_of(live_db, id_of(who)) for who in people]
    assert sum(balances) == 40
    assert min(balances) >= 0
    for client in clients:
        await client.aclose()
    await live_db.app.state.till.close()
