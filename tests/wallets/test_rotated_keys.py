"""A key that is rotated leaves its Idempotency-Keys to the next one: nothing is done twice."""

import asyncio
from itertools import product

import httpx2
import pytest

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import (
    ADMIN_KEYS,
    KEYS,
    USAGE,
    Held,
    key_of,
    number_of_events,
    service_key,
    verify,
)
from tests.matrix import AND_SERVICES, REPORTERS, SERVICES, STATED
from tests.wallets.purses import API, balance_of, fund, move_in
from tests.world import CARL, DORA, OLIVIA

WALLETS = f"{API}/admin/wallets"
CHARGE = {"userId": str(CARL.id), "amount": 5}
BODIES = {
    f"{WALLETS}/charges": CHARGE,
    f"{WALLETS}/charges/bulk": {"charges": [{**CHARGE, "key": "X"}]},
    f"{WALLETS}/holds": CHARGE,
    f"{WALLETS}/holds/{{hold_id}}/captures": {"amount": 2},
    f"{WALLETS}/holds/{{hold_id}}/void": {},
}
# Known again by whose usage it is, whoever reports it, or without any effect that could be twice.
OF_USAGE = {USAGE, f"{USAGE}/events", f"{USAGE}/outcomes", f"{API}/keys/verify"}


async def rotated(live: Live, old: Held, keys: str = ADMIN_KEYS) -> Held:
    who, path = (OLIVIA if keys == ADMIN_KEYS else CARL), f"{keys}/{old.id}/rotation"
    async with live.api(who) as api:
        answer = await api.post(path, json={})
    assert answer.status_code == 201, answer.text
    return Held(answer.json()["id"], answer.json()["key"])


async def ask(live: Live, holder: Held, path: str, body: object, key: str = "X") -> httpx2.Response:
    async with live.api() as api:
        return await api.post(path, json=body, headers={**holder.headers, "Idempotency-Key": key})


@pytest.fixture
async def paid(live_db: Live) -> Live:
    await move_in(live_db)
    await fund(live_db, CARL, 100)
    return live_db


def test_every_route_that_remembers_keys_of_services_is_tried_here() -> None:
    theirs = {
        door.removeprefix("POST ")
        for door, words in STATED.items()
        if words in (REPORTERS, SERVICES) or words.endswith(AND_SERVICES)
    }
    assert theirs == {*BODIES, *OF_USAGE}


@pytest.mark.parametrize("path", BODIES)
async def test_the_next_key_gets_the_answer_of_the_first(paid: Live, path: str) -> None:
    first = await service_key(paid, "wallets:charge")
    held = (await ask(paid, first, f"{WALLETS}/holds", CHARGE, "a-hold")).json()
    url, body = path.format(hold_id=held["id"]), BODIES[path]
    done = await ask(paid, first, url, body)
    assert done.status_code == 200, done.text
    count = "select count(*) from operations"
    written = await rows(paid, count)
    second = await rotated(paid, first)
    third = await rotated(paid, second)
    for holder in (second, third, first):
        again = await ask(paid, holder, url, body)
        if path.endswith("bulk"):
            [was], [told] = done.json()["outcomes"], again.json()["outcomes"]
            assert (was.pop("replayed"), told.pop("replayed"), told) == (False, True, was)
        else:
            assert (again.content, again.headers["Idempotent-Replayed"]) == (done.content, "true")
        other = await ask(paid, holder, f"{WALLETS}/charges", {**CHARGE, "amount": 7})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency.key_reused")
    assert await rows(paid, count) == written


async def test_both_keys_of_a_line_at_once_charge_once(paid: Live) -> None:
    old = await service_key(paid, "wallets:charge")
    new = await rotated(paid, old)
    path = f"{WALLETS}/charges"
    answers = await asyncio.gather(*(ask(paid, key, path, CHARGE) for key in [old, new] * 4))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert await balance_of(paid, CARL) == 95


async def test_another_service_has_keys_of_its_own_and_the_audit_says_which_key(
    paid: Live,
) -> None:
    old = await service_key(paid, "wallets:charge")
    new, other = await rotated(paid, old), await service_key(paid, "wallets:charge")
    for holder, key in ((old, "X"), (new, "Y"), (other, "X")):
        answer = await ask(paid, holder, f"{WALLETS}/charges", CHARGE, key)
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (200, False)
    assert await balance_of(paid, CARL) == 85
    operations = await rows(paid, "select scope, key from operations where scope <> 'test'")
    assert {(row["scope"], row["key"]) for row in operations} == {
        (f"key:{old.id}", "X"), (f"key:{old.id}", "Y"), (f"key:{other.id}", "X"),
    }  # fmt: skip
    doers = "select actor_id from audit_logs where event_type = 'wallets.charged' order by id"
    assert [str(row["actor_id"]) for row in await rows(paid, doers)] == [old.id, new.id, other.id]


async def test_usage_is_counted_once_whichever_key_of_a_line_reports_it(paid: Live) -> None:
    service = await service_key(paid)
    own = await key_of(paid, scopes=["usage:write"])
    keys = [service, await rotated(paid, service), own, await rotated(paid, own, KEYS)]
    for holder in keys:
        about = {"user_id": str(CARL.id)} if holder in keys[:2] else {}
        answer = await ask(paid, holder, USAGE, {"endpoint": "/v1/things", **about})
        assert answer.status_code in (200, 201), answer.text
    assert await number_of_events(paid, CARL) == 2  # of the service, and of the customer
    assert await number_of_events(paid, DORA) == 0


async def test_a_call_is_counted_once_whichever_keys_of_their_lines_are_shown(paid: Live) -> None:
    service, own = await service_key(paid), await key_of(paid)
    askers = (service, await rotated(paid, service))
    shown = (own, await rotated(paid, own, KEYS))
    for asking, key in product(askers, shown):
        verdict = await verify(paid, asking, key, event_id="a-call")
        assert (verdict["valid"], verdict["code"]) == (True, "VALID")
    assert await number_of_events(paid, CARL) == 1
