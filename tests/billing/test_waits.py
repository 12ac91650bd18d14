"""What cannot be billed as it is: staff see all of it, and nobody else is kept waiting by it."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from bursar.billing import waits
from bursar.billing.models import Charging
from bursar.billing.waits import Waiting
from bursar.core.database import WORKER
from tests.accounts.people import rows
from tests.billing.meterman import (
    ADMIN,
    ask,
    charges,
    hour,
    invoices,
    last_month,
    meter,
    minute,
    plan,
    this_month,
    use,
)
from tests.billing.test_charging import opened
from tests.billing.test_invoices import month_over
from tests.conftest import Live
from tests.wallets.purses import charge, move_in
from tests.world import ANNA, CARL, DORA

LONG_AGO = "update billing_waits set since = now() - interval '3 hours'"
REFUSE_THEIRS = """
create function refuse_theirs() returns trigger language plpgsql as $$
begin
  if (select user_id from usage_periods where id = new.period_id) in ({}) then
    raise exception 'the press is broken';
  end if;
  return new;
end $$
"""
REFUSED = """
create trigger refuse_theirs before insert on usage_charges
  for each row execute function refuse_theirs()
"""


async def waiting(live: Live, query: str = "", who: Any = ANNA) -> Any:
    answer = await ask(live, "GET", f"{ADMIN}/billing-waits{query}", who=who)
    assert answer.status_code == 200, answer.text
    return answer.json()["waits"]


async def broken(live: Live, *people: Any) -> None:
    """For them, something of ours is."""
    theirs = ", ".join(f"'{who.id}'" for who in people)
    await rows(live, REFUSE_THEIRS.format(theirs))
    await rows(live, REFUSED)


async def mended(live: Live) -> None:
    await rows(live, "drop function refuse_theirs cascade")


def newly_found(charging: str) -> float:
    return REGISTRY.get_sample_value("bursar_billing_waits_total", {"charging": charging}) or 0


async def too_dear(live: Live, **given: Any) -> None:
    """Carl's month at one meter, and nothing else of his."""
    await opened(live, [(None, "10000")], **given)
    await use(live, CARL, 10**9)


async def test_staff_see_all_that_waits_and_why(live_db: Live) -> None:
    await too_dear(live_db)
    await meter(live_db, "apples", counts="calls")
    await plan(live_db, "apples", [(None, "0.5")])
    before = newly_found("at_once")
    await minute(live_db)
    [told] = await waiting(live_db)
    assert (told["userId"], told["month"], told["meter"]) == (str(CARL.id), this_month(), "calls")
    assert (told["charging"], told["waitsBecause"]) == (
        "at_once",
        "10000000000000.000000 is more than the ledger can move.",
    )
    assert told["since"] == told["nextLookAt"]
    for query, found in {
        f"?user_id={CARL.id}&month={this_month()}&meter=calls": 1,
        f"?user_id={DORA.id}": 0,
        f"?month={last_month()}": 0,
        "?meter=apples": 0,
    }.items():
        assert len(await waiting(live_db, query)) == found, query
    await minute(live_db)
    [again] = await waiting(live_db)
    assert again["nextLookAt"] > told["nextLookAt"]
    assert newly_found("at_once") == before + 1  # once, however often it is looked at


@pytest.mark.parametrize(("how", "billed"), [("at_once", 1), ("monthly", 0)])
async def test_what_is_mended_by_a_plan_waits_no_more(live_db: Live, how: str, billed: int) -> None:
    await too_dear(live_db)
    await minute(live_db)
    assert len(await waiting(live_db)) == 1
    cheap = [(None, "0.000000001")]
    await plan(live_db, "calls", cheap, userId=str(CARL.id), charging=how)
    await minute(live_db)
    assert await waiting(live_db) == []
    assert len(await charges(live_db)) == billed


async def test_what_waits_is_looked_at_by_itself_at_a_slow_pace(live_db: Live) -> None:
    """And no look at the others waits for it: the month has been looked at."""
    await move_in(live_db)
    await month_over(live_db, settled=False)
    await broken(live_db, CARL)
    await use(live_db, DORA, 150, month=last_month())
    await hour(live_db)
    assert len(await invoices(live_db, DORA)) == 1
    [look] = await rows(live_db, "select upto from billing_looks where month = $1", last_month())
    assert look["upto"] is not None
    [told] = await waiting(live_db)
    assert (told["meter"], told["charging"]) == (None, "monthly")
    assert told["waitsBecause"] == "RaiseError: the press is broken"
    await rows(live_db, LONG_AGO)
    ahead = "select next_look_at from billing_waits where next_look_at > now()"
    await hour(live_db)
    looked = await rows(live_db, ahead)
    await mended(live_db)
    await hour(live_db)
    assert len(looked) == 1
    assert await rows(live_db, ahead) == looked
    assert await invoices(live_db) == []
    [row] = await rows(
        live_db, "select next_look_at - now() <= interval '1 hour' as soon from billing_waits"
    )
    assert row["soon"]
    await rows(live_db, "update billing_waits set next_look_at = now()")
    await hour(live_db)
    assert [each["total"] for each in await invoices(live_db)] == [Decimal("1.72")]
    assert await waiting(live_db) == []


async def test_what_fails_once_is_billed_with_the_next_run(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL)
    await broken(live_db, CARL)
    await minute(live_db)
    assert len(await waiting(live_db)) == 1
    await mended(live_db)
    await rows(live_db, "update billing_looks set upto = now() + interval '1 hour'")
    await minute(live_db)
    assert (len(await charges(live_db)), await waiting(live_db)) == (1, [])


async def test_new_usage_of_who_waits_is_looked_at_at_once(live_db: Live) -> None:
    await too_dear(live_db)
    await meter(live_db, "apples", counts="calls", endpoints=["/apples"])
    await plan(live_db, "apples", [(None, "0.5")])
    await minute(live_db)
    await rows(live_db, LONG_AGO)
    await minute(live_db)
    await use(live_db, CARL, endpoint="/apples")
    await minute(live_db)
    assert await charges(live_db) == [(0, 1, Decimal("0.5"))]


async def test_since_when_a_meter_waits_is_said_also_while_all_fails(live_db: Live) -> None:
    await too_dear(live_db)
    await minute(live_db)
    await rows(live_db, LONG_AGO)
    [before] = await waiting(live_db)
    await rows(live_db, "update billing_waits set next_look_at = now() + interval '1 hour'")
    await broken(live_db, CARL)
    await meter(live_db, "apples", counts="calls")
    await plan(live_db, "apples", [(None, "0.5")])
    await minute(live_db)
    newest, oldest = await waiting(live_db)
    assert (newest["meter"], oldest["meter"]) == (None, "calls")
    assert oldest["since"] == before["since"]
    await mended(live_db)
    await rows(live_db, "update billing_looks set upto = now() + interval '1 hour'")
    await minute(live_db)
    assert [each["meter"] for each in await waiting(live_db)] == ["calls"]


async def test_who_is_to_be_looked_at_longest_comes_first(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "MOST_WAITING", 1)
    await move_in(live_db)
    await month_over(live_db, settled=False)
    await use(live_db, DORA, 150, month=last_month())
    await broken(live_db, CARL, DORA)
    await hour(live_db)
    await rows(live_db, LONG_AGO)
    longest = "update billing_waits set next_look_at = since where user_id = $1"
    await rows(live_db, longest, DORA.id)
    ahead = "select user_id from billing_waits where next_look_at > now() order by user_id"
    await hour(live_db)
    assert [row["user_id"] for row in await rows(live_db, ahead)] == [DORA.id]
    await hour(live_db)
    assert [row["user_id"] for row in await rows(live_db, ahead)] == [CARL.id, DORA.id]


async def test_what_grows_too_dear_after_it_could_not_be_paid_is_told(live_db: Live) -> None:
    await opened(live_db, [(None, "10000")])
    await charge(live_db, CARL, 10)
    await use(live_db, CARL)
    await minute(live_db)
    assert await waiting(live_db) == []
    await use(live_db, CARL, 10**9)
    await minute(live_db)
    assert [each["meter"] for each in await waiting(live_db)] == ["calls"]


async def test_many_that_find_the_same_keep_it_once(live_db: Live) -> None:
    await too_dear(live_db)

    async def find() -> None:
        async with live_db.database.transaction(WORKER) as db:
            for meter in ("calls", None):
                found = [Waiting(UUID(str(CARL.id)), meter, "It is too much.")]
                await waits.write_down(db, Charging.AT_ONCE, this_month(), found)

    await asyncio.gather(*(find() for _ in range(8)))
    assert [each["meter"] for each in await waiting(live_db)] == [None, "calls"]


async def test_what_waits_goes_with_its_customer(live_db: Live) -> None:
    """Also where they are gone before it can be written down."""
    await too_dear(live_db)
    await minute(live_db)
    await charge(live_db, CARL, 10)
    await rows(live_db, "delete from users where id = $1", CARL.id)
    async with live_db.database.transaction(WORKER) as db:
        found = [Waiting(UUID(str(CARL.id)), None, "It is too much.")]
        await waits.write_down(db, Charging.AT_ONCE, this_month(), found)
    assert await waiting(live_db) == []
