"""Entries of a wallet: every page, every filter, as a file, and what was spent by day."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text

from bursar.core.database import Claim, Role
from bursar.core.paging import PageQuery, pack
from bursar.wallets import export, ledger, queries
from bursar.wallets.queries import EntryFilters
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import (
    API,
    ME,
    charge,
    exact,
    fund,
    move_in,
    post,
    refused,
)
from tests.world import CARL, SUE


async def test_transactions_the_newest_first(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    await charge(
        live_db, CARL, "2.5", category="models",
        metadata={"description": "GPT", "note": "n", "secret_margin": "0.4"},
    )  # fmt: skip
    async with live_db.api(CARL) as api:
        answer = exact(await api.get(f"{ME}/transactions"))
    newest, oldest = answer["transactions"]
    assert (answer["total"], answer["total_exact"], answer["next_cursor"]) == (2, True, None)
    assert (newest["direction"], newest["amount"]) == ("debit", Decimal("2.5"))
    assert (newest["balance_after"], newest["category"]) == (Decimal("7.5"), "models")
    assert (newest["description"], newest["note"]) == ("GPT", "n")
    assert (oldest["direction"], oldest["amount"], oldest["kind"]) == ("credit", 10, "funding")
    assert newest["created_at"] == newest["effective_at"]
    assert "secret_margin" not in json.dumps(answer, default=str)
    revenue = await rows(live_db, "select id::text from accounts where purpose <> 'wallet'")
    assert not any(row["id"] in json.dumps(answer, default=str) for row in revenue)


async def test_filters_of_transactions(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    for n in range(3):
        await charge(live_db, CARL, 1, category="models" if n else "api")
    moments = await rows(live_db, "select posted_at from transfers order by posted_at")
    second = moments[1]["posted_at"].isoformat()
    async with live_db.api(CARL) as api:
        for params, count in (
            ({}, 4),
            ({"kind": "charge"}, 3),
            ({"kind": "reversal"}, 0),
            ({"category": "models"}, 2),
            ({"direction": "credit"}, 1),
            ({"direction": "debit", "category": "api"}, 1),
            ({"from": second}, 3),
            ({"to": second}, 1),
            ({"from": second, "to": second}, 0),
            ({"from": second, "direction": "credit"}, 0),
            ({"from": "9999-12-31"}, 0),
            ({"to": "0001-01-01"}, 0),
            ({"currency": "POINTS"}, 0),
        ):
            answer = (await api.get(f"{ME}/transactions", params=params)).json()
            assert (len(answer["transactions"]), answer["total"]) == (count, count), params
        for params, code in (
            ({"currency": "ABC"}, "wallet.unknown_asset"),
            ({"currency": "usd"}, "invalid_input"),
            ({"direction": "up"}, "invalid_input"),
            ({"kind": "present"}, "invalid_input"),
            ({"sort": "amount"}, "invalid_input"),
            ({"cursor": "nonsense"}, "invalid_input"),
            ({"from": "yesterday"}, "invalid_input"),
        ):
            answer = await api.get(f"{ME}/transactions", params=params)
            assert refused(answer) == (422, code), params
        answer = await api.get(f"{ME}/transactions", params={"kind": "present"})
        assert "'funding', 'charge', 'transfer'" in answer.json()["errors"][0]["detail"]


async def test_every_way_through_the_pages_meets_each_entry_once(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    for n in range(1, 6):
        await charge(live_db, CARL, n * Decimal("0.1"))
    await pages_agree(live_db, {}, 6)
    await pages_agree(live_db, {"direction": "debit"}, 6)


async def pages_agree(live_db: Live, params: dict[str, str], count: int) -> None:
    async with live_db.api(CARL) as api:

        async def read(**more: Any) -> Any:
            answer = await api.get(f"{ME}/transactions", params={**params, **more})
            assert answer.status_code == 200, answer.text
            return answer.json()

        whole = [each["id"] for each in (await read())["transactions"]]
        paged = [
            t["id"] for n in (1, 2, 3) for t in (await read(page=n, per_page=2))["transactions"]
        ]
        offset = [
            t["id"] for n in range(6) for t in (await read(limit=1, offset=n))["transactions"]
        ]
        page = await read(per_page=2)
        by_cursor = [each["id"] for each in page["transactions"]]
        await charge(live_db, CARL, "0.01")  # what comes later moves nothing
        while page["next_cursor"]:
            page = await read(per_page=2, cursor=page["next_cursor"])
            by_cursor += [each["id"] for each in page["transactions"]]
            assert page["total"] == len(whole)
    assert len(whole) == count
    assert paged == offset == by_cursor == whole


async def test_a_file_of_transactions(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, "10.000001")
    await charge(live_db, CARL, 1, category="=cmd|'x'!A1", metadata={"note": "@SUM(A1)"})
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{ME}/transactions/export")
        lines = await api.get(f"{ME}/transactions/export", params={"format": "jsonl"})
        empty = await api.get(f"{ME}/transactions/export", params={"currency": "POINTS"})
        bad = await api.get(f"{ME}/transactions/export", params={"currency": "ABC"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith('attachment; filename="transactions-')
    newest, oldest = csv.DictReader(io.StringIO(answer.text))
    assert (newest["category"], newest["note"]) == ("'=cmd|'x'!A1", "'@SUM(A1)")
    assert (oldest["amount"], oldest["balance_after"]) == ("10.000001", "10.000001")
    first, second = (json.loads(line, parse_float=Decimal) for line in lines.text.splitlines())
    assert (first["direction"], first["note"]) == ("debit", "@SUM(A1)")
    assert second["amount"] == Decimal("10.000001")
    assert empty.text == answer.text.splitlines(keepends=True)[0]
    assert refused(bad) == (422, "wallet.unknown_asset")


async def test_staff_who_take_a_file_are_recorded_and_customers_are_not(live_db: Live) -> None:
    await move_in(live_db)
    query = "select actor_id, after::text from audit_logs where event_type = 'wallets.exported'"
    async with live_db.api(CARL) as api:
        assert (await api.get(f"{ME}/transactions/export")).status_code == 200
    assert await rows(live_db, query) == []
    async with live_db.api(SUE) as api:
        path = f"{API}/users/{CARL.id}/transactions/export"
        assert (await api.get(path, params={"kind": "charge"})).status_code == 200
    [row] = await rows(live_db, query)
    assert row["actor_id"] == SUE.id
    assert json.loads(row["after"])["filters"] == {"kind": "charge"}


async def test_spending_by_category_and_day(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 20)
    await charge(live_db, CARL, "1.5", category="models")
    await charge(live_db, CARL, "0.25", category="api")
    gone = await charge(live_db, CARL, 2)
    await post(live_db, ledger.reverse(str(gone.legs[0].transfer_id), 500_000))
    today = datetime.now(UTC).date()
    async with live_db.api(CARL) as api:
        answer = exact(await api.get(f"{ME}/analytics/spending", params={"days": 3}))
        earlier = {"to": str(today - timedelta(days=1)), "days": 2}
        before = exact(await api.get(f"{ME}/analytics/spending", params=earlier))
    assert answer["total_spent"] == Decimal("3.25")
    assert answer["by_category"] == {
        "models": Decimal("1.5"), "api": Decimal("0.25"), "other": Decimal("1.5"),
    }  # fmt: skip
    days = [str(today - timedelta(days=n)) for n in (2, 1, 0)]
    assert list(answer["by_day"].items()) == list(zip(days, (0, 0, Decimal("3.25")), strict=True))
    assert (answer["first_day"], answer["last_day"]) == (days[0], days[2])
    assert (before["total_spent"], list(before["by_day"].values())) == (0, [0, 0])


DAYS: tuple[tuple[dict[str, Any], int], ...] = (
    ({}, 200),
    ({"days": 0}, 422),
    ({"days": 367}, 422),
    ({"from": "2026-02-01", "to": "2026-01-31"}, 422),
    ({"from": "2026-01-01", "to": "2026-01-01"}, 200),
    ({"from": "2024-01-01", "to": "2026-01-01"}, 422),
    ({"from": "0"}, 422),
    ({"to": "0001-01-01"}, 200),
    ({"to": "9999-12-31", "days": 1}, 200),
    ({"currency": "ABC"}, 422),
    ({"currency": "POINTS"}, 422),
)


async def test_days_of_spending(live_db: Live) -> None:
    await move_in(live_db, CARL)
    async with live_db.api(CARL) as api:
        for params, status in DAYS:
            answer = await api.get(f"{ME}/analytics/spending", params=params)
            assert answer.status_code == status, (params, answer.text)
        assert len((await api.get(f"{ME}/analytics/spending")).json()["by_day"]) == 30


async def test_points_are_not_spent(live_db: Live) -> None:
    """They are no money: what is told of a currency that is none is told of them."""
    await move_in(live_db)
    await fund(live_db, CARL, 500, "POINTS")
    await charge(live_db, CARL, 123, "POINTS", kind="redeem")
    async with live_db.api(CARL) as api, live_db.api(SUE) as staff:
        mine = await api.get(f"{ME}/analytics/spending", params={"currency": "POINTS"})
        theirs = f"{API}/users/{CARL.id}/analytics/spending"
        seen = await staff.get(theirs, params={"currency": "POINTS"})
    assert refused(mine) == refused(seen) == (422, "wallet.unknown_asset")


async def test_a_cursor_of_anothers_making(live_db: Live) -> None:
    """A number in it that no entry has is refused, or shows nothing: never somebody else's."""
    await move_in(live_db)
    await fund(live_db, CARL, 1)
    async with live_db.api(CARL) as api:
        for seq in (0, -1, 2**63, True, "1", None, 1.5):
            cursor = pack("entries", 0, 1, [seq])
            answer = await api.get(f"{ME}/transactions", params={"cursor": cursor})
            assert refused(answer) == (422, "invalid_input"), seq
        far = pack("entries", 0, 1, [2**50])
        answer = await api.get(f"{ME}/transactions", params={"cursor": far})
        assert len(answer.json()["transactions"]) == 1


MANY = """
select post(jsonb_agg(jsonb_build_object('scope', 'many', 'key', n::text, 'legs',
  jsonb_build_array(jsonb_build_object('verb', 'transfer', 'debit', 'clearing', 'credit',
    'user:' || $1::text, 'asset', 'USD', 'amount', 1, 'kind', 'funding')))))
from generate_series($2::integer, $3::integer) as n
"""


async def add_many(live: Live, count: int) -> None:
    for first in range(1, count + 1, 1000):
        await rows(live, MANY, str(CARL.id), first, min(first + 999, count))


async def test_beyond_ten_thousand_a_filtered_list_is_not_counted(
    live_db: Live, monkeypatch: Any
) -> None:
    """With fewer here, so that it is quick."""
    monkeypatch.setattr(queries, "COUNTED", 20)
    await move_in(live_db)
    await add_many(live_db, 30)
    async with live_db.api(CARL) as api:
        free = (await api.get(f"{ME}/transactions")).json()
        params = {"kind": "funding", "per_page": 12}
        first = (await api.get(f"{ME}/transactions", params=params)).json()
        params["cursor"] = first["next_cursor"]
        second = (await api.get(f"{ME}/transactions", params=params)).json()
    assert (free["total"], free["total_exact"]) == (30, True)
    for page in (first, second):
        assert (page["total"], page["total_exact"]) == (20, False)
    seen = {each["id"] for each in first["transactions"] + second["transactions"]}
    assert len(seen) == 24


READ_ROWS = "select sum(idx_tup_fetch + seq_tup_read) n from pg_stat_xact_user_tables"


async def test_a_page_costs_the_same_wherever_it_lies(live_db: Live) -> None:
    """By the rows that PostgreSQL has read for it."""
    await move_in(live_db)
    await add_many(live_db, 2000)
    costs = []
    for seq in (2001, 1000, 30):
        async with live_db.database.transaction(Claim(Role.WORKER)) as db:
            wallet = await queries.wallet(db, UUID(str(CARL.id)), "USD")
            assert wallet
            before = await db.scalar(text(READ_ROWS)) or 0
            ask = PageQuery(cursor=pack("entries", 0, 2000, [seq]))
            page = await queries.entries(db, wallet.row, EntryFilters(), ask)
            costs.append((await db.scalar(text(READ_ROWS)) or 0) - before)
        assert [entry.seq for entry in page.items] == list(range(seq - 1, seq - 21, -1))
    assert max(costs) < 200, costs


async def test_a_file_in_many_pieces_has_every_entry_once(live_db: Live, monkeypatch: Any) -> None:
    monkeypatch.setattr(export, "PIECE", 7)
    await move_in(live_db)
    await add_many(live_db, 21)
    pieces = []
    stream = export.stream(
        live_db.database, CARL.claim, UUID(str(CARL.id)), "USD", EntryFilters(), "jsonl"
    )
    async for piece in stream:
        if not pieces:
            await fund(live_db, CARL, 5)  # after it has begun: not in it
        pieces.append(piece.decode())
    assert [len(piece.splitlines()) for piece in pieces] == [7, 7, 7]
    balances = [json.loads(line)["balance_after"] for line in "".join(pieces).splitlines()]
    assert balances == [n / 1_000_000 for n in range(21, 0, -1)]
