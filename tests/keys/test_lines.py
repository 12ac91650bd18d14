"""The keys that were rotated into one another are one line: what limits one of them limits all."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import (
    ADMIN_KEYS,
    API,
    KEYS,
    Held,
    code,
    key_of,
    service_key,
    set_terms,
    verify,
)
from tests.listeners import until
from tests.metering.test_verify import NO_RATES, codes, verify_at
from tests.wallets.purses import move_in
from tests.world import CARL, OLIVIA


async def rotated(live: Live, key_id: str, grace_seconds: int) -> Held:
    async with live.api(CARL) as api:
        body = {"grace_seconds": grace_seconds}
        made = (await api.post(f"{KEYS}/{key_id}/rotation", json=body)).json()
    return Held(made["id"], made["key"])


async def test_a_key_that_was_rotated_goes_on_with_its_month(live_db: Live) -> None:
    await move_in(live_db)
    shop, first = await service_key(live_db), await key_of(live_db, per_month=4)
    assert await code(live_db, shop, first) == "VALID"
    second = await rotated(live_db, first.id, 0)
    assert (await verify(live_db, shop, second))["quota"]["remaining"] == 2
    third = await rotated(live_db, second.id, 3600)
    assert [await code(live_db, shop, each) for each in (second, third)] == ["VALID"] * 2
    assert [await code(live_db, shop, each) for each in (second, third)] == ["QUOTA_EXCEEDED"] * 2
    [month] = await rows(live_db, "select line_id::text, units from api_key_months")
    assert tuple(month.values()) == (first.id, 4)
    by_key = "select api_key_id::text, units from usage_days order by 1"
    assert [tuple(row.values()) for row in await rows(live_db, by_key)] == [
        (first.id, 1), (second.id, 2), (third.id, 1),
    ]  # fmt: skip


async def change(live: Live, key: Held, **facts: Any) -> None:
    async with live.api(CARL) as api:
        answer = await api.put(f"{KEYS}/{key.id}", json=facts)
    assert answer.status_code == 200, answer.text


async def test_during_grace_both_keys_have_one_rate(live_db: Live) -> None:
    """Whichever comes first in a batch, and also when it is changed."""
    await move_in(live_db)
    old = await key_of(live_db, per_minute=4)
    new = await rotated(live_db, old.id, 3600)
    now = datetime.now(UTC)
    together = await verify_at(live_db, now, *[new.key, old.key] * 3)
    assert codes(together) == [*["VALID"] * 4, *["RATE_LIMITED"] * 2]
    assert codes(await verify_at(live_db, now, old.key, new.key)) == ["RATE_LIMITED"] * 2
    await change(live_db, new, per_minute=2)
    soon, late = now + timedelta(seconds=15), now + timedelta(seconds=30)
    told = await verify_at(live_db, soon, old.key, new.key)
    assert codes(told) == ["RATE_LIMITED"] * 2
    assert [each["rate"]["limit"] for each in told] == [2, 2]
    assert codes(await verify_at(live_db, late, old.key, new.key)) == ["VALID", "RATE_LIMITED"]
    await change(live_db, new, per_minute=None)
    assert codes(await verify_at(live_db, late, old.key, new.key)) == ["VALID"] * 2


async def test_a_lowered_limit_holds_for_the_old_key_in_its_grace(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    shop, first = await service_key(live_db), await key_of(live_db, per_month=100)
    second = await rotated(live_db, first.id, 3600)
    third = await rotated(live_db, second.id, 3600)
    line, other = (first, second, third), await key_of(live_db, per_month=100)
    assert [await code(live_db, shop, each) for each in (*line, other)] == ["VALID"] * 4
    await change(live_db, third, per_month=4)
    left = [(await verify(live_db, shop, key, count=False))["quota"]["remaining"] for key in line]
    assert left == [1, 1, 1]
    assert await code(live_db, shop, first) == "VALID"
    assert [await code(live_db, shop, each) for each in line] == ["QUOTA_EXCEEDED"] * 3
    assert await code(live_db, shop, other) == "VALID"
    async with live_db.api(CARL) as api:
        shown = [(await api.get(f"{KEYS}/{key.id}")).json()["per_month"] for key in (*line, other)]
    assert shown == [4, 4, 4, 100]
    async with live_db.api(OLIVIA) as api:  # staff do the same
        answer = await api.put(f"{ADMIN_KEYS}/{third.id}", json={"perMonth": 9, "scopes": []})
        assert answer.status_code == 200, answer.text
    assert [await code(live_db, shop, each) for each in line] == ["VALID"] * 3


async def test_a_changed_limit_of_an_old_key_is_felt_by_our_own_api(live_db: Live) -> None:
    """A process that knows the old key by heart forgets it, though only the new one was changed."""
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    old = await key_of(live_db, scopes=["usage:read"])
    new = await rotated(live_db, old.id, 3600)
    async with live_db.app.state.notices.listening(), live_db.api(**old.headers) as api:
        await until(lambda: live_db.app.state.notices.hears, "somebody who listens")
        assert [(await api.get(f"{API}/usage/quota")).status_code for _ in range(3)] == [200] * 3
        await change(live_db, new, per_minute=1)

        async def is_limited() -> bool:
            return (await api.get(f"{API}/usage/quota")).status_code == 429

        await until(is_limited, "the new limit")


async def test_scopes_stay_those_of_each_key(live_db: Live) -> None:
    """What the old one may do was said to whoever uses it yet; to end that, it is revoked."""
    await move_in(live_db)
    shop, old = await service_key(live_db), await key_of(live_db, scopes=["usage:read"])
    new = await rotated(live_db, old.id, 3600)
    await change(live_db, new, scopes=["balance:read"], allowed_addresses=["192.0.2.1"])
    assert await code(live_db, shop, old, scope="usage:read") == "VALID"
    assert await code(live_db, shop, old, scope="balance:read") == "MISSING_SCOPE"
    assert await code(live_db, shop, new) == "FORBIDDEN_ADDRESS"


async def test_a_line_is_changed_and_reported_as_leaked_at_once(live_db: Live) -> None:
    """All take its keys in one order, so that none waits for another in a circle."""
    await move_in(live_db)
    for _ in range(10):
        old = await key_of(live_db, per_month=100)
        new = await rotated(live_db, old.id, 3600)
        leaked = [{"token": each.key, "type": "x"} for each in (old, new)]
        async with live_db.api(CARL) as carl, live_db.api() as scanner:
            answers = await asyncio.gather(
                *(carl.put(f"{KEYS}/{new.id}", json={"per_month": n + 1}) for n in range(3)),
                scanner.post(f"{KEYS}/leaks", json=leaked),
                carl.put(f"{KEYS}/{new.id}", json={"per_month": 9}),
            )
        told = [each.status_code for each in answers]
        assert told[3] == 200
        assert {*told} <= {200, 409}
        assert [each.json().get("code") for each in answers if each.status_code == 409] == [
            "keys.over"
        ] * told.count(409)
    states = await rows(live_db, "select distinct status from api_keys")
    assert [row["status"] for row in states] == ["revoked"]
