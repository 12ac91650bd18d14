"""What arrives together goes as one statement, and everybody gets the answer to their own."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from bursar.auth.actor import Origin
from bursar.core.database_errors import OutcomeUnknown
from bursar.core.errors import InvalidInput
from bursar.core.idempotency import KeyReused
from bursar.core.problems import Internal
from bursar.wallets import ledger, till
from bursar.wallets.ledger import InsufficientFunds, Outcome, Request, UnknownAccount
from bursar.wallets.till import Till
from tests.conftest import Live
from tests.wallets.till_world import (
    LOTS,
    add_customer,
    balance,
    blocked,
    charge,
    document,
    entries,
    fetch,
    locked,
)
from tests.world import CARL


async def test_outcomes_come_in_order(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    dora = await add_customer(live_db.url, 10, "2")
    requests = [charge(carl, 3), charge(dora, 4), charge(carl, 8), charge(uuid4()), charge(carl, 7)]
    first, other, refused, nobody, last = await desk.post_all(requests)
    assert isinstance(first, Outcome)
    assert isinstance(other, Outcome)
    assert isinstance(last, Outcome)
    assert [each.legs[0].balance for each in (first, other, last)] == [7, 6, 0]
    assert isinstance(refused, InsufficientFunds)
    assert refused.extra["available"] == Decimal("0.000007")
    assert isinstance(nobody, UnknownAccount)
    with pytest.raises(InsufficientFunds):
        await desk.post(charge(carl, 1))
    assert (await desk.post(charge(dora, 6))).legs[0].balance == 0


async def test_512_callers_share_statements(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, LOTS)

    async def call(amount: int) -> None:
        for _ in range(4):
            await desk.post(charge(carl, amount))

    await asyncio.gather(*(call(amount) for amount in range(1, 513)))
    made = await entries(live_db.url)
    assert await balance(live_db.url, carl) == LOTS - 4 * sum(range(1, 513))
    assert len(made) == 2048
    assert len({entry["created_at"] for entry in made}) < 2048 / 20


async def test_what_a_person_does_is_audited(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, LOTS)
    origin = Origin(CARL, "127.0.0.1", "request-1")
    legs = charge(carl, metadata={"share": Decimal("0.1"), "of": uuid4()}).legs
    done = await desk.post(Request("test", "one", legs, origin, "wallets.charged"))
    query = "select actor_id, target_id, request_id from audit_logs where event_type = $1"
    [row] = await fetch(live_db.url, query, "wallets.charged")
    assert tuple(row) == (CARL.id, str(done.operation_id), "request-1")


async def test_a_key_has_one_entry_for_ever(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    request = charge(carl, 6, "once")
    first, again = await desk.post_all([request, request])
    later = await desk.post(request)
    assert isinstance(first, Outcome)
    assert isinstance(again, Outcome)
    assert [each.replayed for each in (first, again, later)] == [False, True, True]
    assert {each.operation_id for each in (first, again, later)} == {first.operation_id}
    assert again.legs == later.legs == first.legs
    assert len(await entries(live_db.url)) == 1


async def test_a_key_is_not_for_another_body(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    _, same_batch = await desk.post_all([charge(carl, 1, "once"), charge(carl, 2, "once")])
    assert isinstance(same_batch, KeyReused)
    with pytest.raises(KeyReused):
        await desk.post(charge(carl, 2, "once"))
    assert await balance(live_db.url, carl) == 9


async def test_a_key_that_another_transaction_writes_just_now(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    dora = await add_customer(live_db.url, 10)
    async with locked(live_db.url, dora) as other:
        await other.fetchval("select post($1::jsonb)", document(charge(dora, 1, "once")))
        batch = asyncio.create_task(desk.post_all([charge(carl, 1, "once"), charge(carl, 3)]))
        await blocked(live_db.url)
    reused, neighbour = await batch
    assert isinstance(reused, KeyReused)
    assert isinstance(neighbour, Outcome)


BAD: dict[str, Any] = {
    "metadata that is too large": (ledger.BadLeg, {"metadata": {"note": "x" * 5000}}),
    "a character that cannot be stored": (InvalidInput, {"metadata": {"note": "\0"}}),
    "half a character": (InvalidInput, {"metadata": {"note": "\ud800"}}),
    "more than a balance can be": (InvalidInput, {"amount": 2**63}),
    "more than 64 bits": (InvalidInput, {"amount": 2**64}),
    "a category that is too long": (Internal, {"category": "x" * 101}),
    "a hold that is no id": (InvalidInput, {"hold": "this"}),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_request_fails_alone(live_db: Live, desk: Till, kind: str) -> None:
    error, given = BAD[kind]
    carl = await add_customer(live_db.url, 100)
    requests = [charge(carl) for _ in range(21)]
    requests[13] = Request("test", "bad", ({**charge(carl).legs[0], **given},))
    outcomes = await desk.post_all(requests)
    assert isinstance(outcomes.pop(13), error)
    assert [each.legs[0].balance for each in outcomes if isinstance(each, Outcome)] == list(
        range(99, 79, -1)
    )


async def test_a_backslash_is_a_character_like_others(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 1)
    note = "in JSON, NUL is \\u0000"
    await desk.post(charge(carl, metadata={"note": note}))
    [row] = await fetch(
        live_db.url, "select metadata ->> 'note' as note from transfers where kind = 'charge'"
    )
    assert row["note"] == note


NEWER = """
  do $$ begin
    alter function post(jsonb) rename to post_before;
    create function post(requests jsonb) returns jsonb language sql as
      'select jsonb_set(jsonb_set(post_before(requests), ''{1}'', ''{"error": "wallet.newer"}''),
        ''{2}'', ''{"newer": true}'')';
    grant execute on function post to worker_user;
  end $$
"""


async def test_an_answer_that_nobody_understands_spoils_no_other(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    await fetch(live_db.url, NEWER)  # than this process
    first, refused, unknown, last = await desk.post_all([charge(carl) for _ in range(4)])
    assert [type(each) for each in (first, last)] == [Outcome, Outcome]
    assert isinstance(refused, Internal)
    assert isinstance(unknown, OutcomeUnknown)


async def test_bad_ones_among_many_callers(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, LOTS)

    async def call(number: int) -> bool:
        scope = "x" * 500 if number % 40 == 0 else "test"
        legs = charge(carl).legs
        if scope == "test":
            return (await desk.post(Request(scope, str(number), legs))).replayed
        with pytest.raises(Internal):
            await desk.post(Request(scope, str(number), legs))
        return False

    assert not any(await asyncio.gather(*(call(number) for number in range(400))))
    assert len(await entries(live_db.url)) == 390
    assert await balance(live_db.url, carl) == LOTS - 390


async def test_no_more_than_the_balance_is_spent(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 2000)
    places = asyncio.Semaphore(4)

    async def call() -> int:
        async with places:
            outcomes = await desk.post_all([charge(carl) for _ in range(1000)])
            refused = [each for each in outcomes if isinstance(each, InsufficientFunds)]
            assert len(refused) == sum(not isinstance(each, Outcome) for each in outcomes)
            return 1000 - len(refused)

    assert sum(await asyncio.gather(*(call() for _ in range(40)))) == 2000
    assert await balance(live_db.url, carl) == 0
    assert len(await entries(live_db.url)) == 2000


async def test_two_tills_with_the_same_keys_and_wallets(live_db: Live) -> None:
    users = [await add_customer(live_db.url, LOTS, digit) for digit in "0123"]
    requests = [charge(users[n % 4], 1 + n, f"key {n}") for n in range(400)]
    tills = [Till(live_db.database), Till(live_db.database)]

    async def call(desk: Till, order: list[Request]) -> dict[str, UUID]:
        async def one(request: Request) -> tuple[str, UUID]:
            return request.key, (await desk.post(request)).operation_id

        return dict(await asyncio.gather(*map(one, order)))

    ones, others = await asyncio.gather(call(tills[0], requests), call(tills[1], requests[::-1]))
    assert ones == others
    made = await entries(live_db.url)
    assert {entry["key"]: UUID(entry["operation_id"]) for entry in made} == ones
    assert len(made) == 400
    left = [await balance(live_db.url, user) for user in users]
    assert sum(left) == 4 * LOTS - sum(range(1, 401))
    for desk in tills:
        await desk.close()


async def test_legs_happen_together_or_not_at_all(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    dora = await add_customer(live_db.url, 0, "2")
    to_dora = ledger.transfer(ledger.user(carl), ledger.user(dora), 6, kind="transfer")
    fee = ledger.transfer(ledger.user(carl), "fees", 4, kind="fee")
    done = await desk.post(Request("test", "both", (to_dora, fee)))
    assert [leg.balance for leg in done.legs] == [4, 0]
    back = ledger.transfer(ledger.user(dora), ledger.user(carl), 5, kind="transfer")
    with pytest.raises(InsufficientFunds):
        await desk.post(Request("test", "neither", (back, {**back, "amount": 2})))
    assert [await balance(live_db.url, user) for user in (carl, dora)] == [0, 6]


async def test_holds_and_captures(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10)
    held = await desk.post(
        Request("test", "hold", (ledger.hold(ledger.user(carl), 7, kind="chat", seconds=60),))
    )
    assert held.legs[0].available == 3
    assert held.legs[0].hold_id is not None
    taken = ledger.capture(held.legs[0].hold_id, 5, final=True)
    assert (await desk.post(Request("test", "capture", (taken,)))).legs[0].available == 5


async def test_a_wallet_that_is_held_up_stops_no_other_lane(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 10, "0")
    dora = await add_customer(live_db.url, 10, "1")
    async with locked(live_db.url, carl):
        slow = asyncio.create_task(desk.post(charge(carl)))
        await blocked(live_db.url)
        assert (await desk.post(charge(dora))).legs[0].balance == 9
        assert not slow.done()
    assert (await slow).legs[0].balance == 9


def test_a_lane_is_for_whoever_is_named_first() -> None:
    wallet = UUID("00000000-0000-7000-8000-00000000000b")
    other = UUID("00000000-0000-7000-8000-000000000003")
    between = ledger.transfer(ledger.user(other), ledger.user(wallet), 1, kind="transfer")
    legs: dict[int, Any] = {
        0xB: ledger.transfer("clearing", ledger.user(wallet), 1, kind="funding"),
        0x3: between,
        0: ledger.transfer("clearing", "adjustments", 1, kind="adjustment"),
    }
    for expected, leg in legs.items():
        assert till.digit(Request("test", "x", (leg, between))) == (expected or 3)
    for leg in (ledger.void(wallet), ledger.reverse(wallet), {"verb": "hold", "debit": wallet}):
        assert till.digit(Request("test", "x", (leg,))) == 0xB
    assert till.digit(Request("test", "x", ())) == 0
