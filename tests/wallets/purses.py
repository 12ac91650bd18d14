"""Money for tests: customers with wallets, what they have, and what they spend.

    await move_in(live)                       # CARL and DORA, each with an empty wallet
    await fund(live, CARL, "20.50")
    await charge(live, CARL, 3, category="models")
    assert await balance_of(live, CARL) == Decimal("17.50")

A customer is an Actor, or an id; amounts are in whole units of the asset: dollars, points.
"""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2

from bursar.auth.actor import Actor
from bursar.core import money
from bursar.core.database import WORKER
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import USD, Leg, Outcome
from tests.accounts.people import rows
from tests.conftest import Live
from tests.world import CARL, DORA, STAFF

Customer = Actor | UUID | str
Amount = Decimal | str | int

API = "/api/v1"
ME = f"{API}/users/me"
SCALES = {"USD": 6, "EUR": 2, "POINTS": 0}

CUSTOMER = """
insert into users (id, email, name) values ($1, $2, $3)
"""


def id_of(who: Customer) -> UUID:
    if isinstance(who, Actor):
        assert who.id is not None
        return who.id
    return UUID(str(who))


def minor(amount: Amount, asset: str = USD) -> int:
    """20.50 of USD is 20_500_000."""
    return money.signed_minor(Decimal(amount), SCALES[asset])


STAFF_ROW = """
insert into admin_users (id, email, name, role, status)
values ($1, concat('staff-', right($1::uuid::text, 2), '@example.com'), 'Somebody', $2, 'active')
on conflict do nothing
"""


async def hire(live: Live) -> None:
    """The staff of the world work here: money moves only for those who do."""
    for who in STAFF:
        await rows(live, STAFF_ROW, who.id, str(who.role))


async def move_in(live: Live, *people: Customer) -> None:
    """Each has an account and, with it, a wallet; nobody named: CARL and DORA."""
    await hire(live)
    for who in people or (CARL, DORA):
        user_id = id_of(who)
        name = {CARL.id: "Carl", DORA.id: "Dora"}.get(user_id, f"c{user_id.hex[-12:]}")
        await rows(live, CUSTOMER, user_id, f"{name.lower()}@example.com", name)


async def post(live: Live, *legs: Leg, key: str | None = None, scope: str = "test") -> Outcome:
    """All of the legs or none, as a job of the company's own; refusals are raised."""
    request = ledger.Request(scope, key or str(uuid4()), legs)
    async with live.database.transaction(WORKER) as db:
        return await wallets.post(db, request)


async def fund(live: Live, who: Customer, amount: Amount, asset: str = USD, **more: Any) -> Outcome:
    """Money comes in from outside."""
    kind = more.pop("kind", "funding")
    purse = ledger.user(id_of(who))
    whole = minor(amount, asset)
    return await post(live, ledger.transfer("clearing", purse, whole, asset, kind=kind, **more))


async def charge(
    live: Live, who: Customer, amount: Amount, asset: str = USD, **more: Any
) -> Outcome:
    """Money is spent on something of the company's; `category`, `metadata`, `effective_at`."""
    kind = more.pop("kind", "charge")
    purse = ledger.user(id_of(who))
    whole = minor(amount, asset)
    return await post(live, ledger.transfer(purse, "revenue", whole, asset, kind=kind, **more))


async def hold(
    live: Live, who: Customer, amount: Amount, asset: str = USD, *, seconds: int = 600, **more: Any
) -> Outcome:
    """Money is set aside; the id of the hold is `outcome.legs[0].hold_id`."""
    purse = ledger.user(id_of(who))
    whole = minor(amount, asset)
    leg = ledger.hold(purse, whole, asset, kind=more.pop("kind", "charge"), seconds=seconds, **more)
    return await post(live, leg)


async def wallet_of(live: Live, who: Customer, asset: str = USD) -> dict[str, Any]:
    """The row of the wallet as it is stored: id, posted, held, spent, seq, status, …"""
    query = "select * from accounts where owner_id = $1 and asset = $2"
    [row] = await rows(live, query, id_of(who), asset)
    return dict(row)


async def balance_of(live: Live, who: Customer, asset: str = USD) -> Decimal:
    """What has been posted to the wallet, held or not."""
    return money.decimal((await wallet_of(live, who, asset))["posted"], SCALES[asset])


async def freeze(live: Live, who: Customer, status: str = "frozen", asset: str = USD) -> None:
    query = "update accounts set status = $3 where owner_id = $1 and asset = $2"
    await rows(live, query, id_of(who), asset, status)


def exact(answer: httpx2.Response) -> Any:
    """The body with every digit of every number."""
    return json.loads(answer.text, parse_float=Decimal)


def refused(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers.get("content-type") == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


async def written(live: Live) -> list[int]:
    """How much stands in the ledger: transfers and operations."""
    query = "select (select count(*) from transfers) t, (select count(*) from operations) o"
    [row] = await rows(live, query)
    return [row["t"], row["o"]]
