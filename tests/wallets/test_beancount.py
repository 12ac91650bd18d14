"""An independent program accepts the books and finds the same balances in them."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from beancount import loader
from sqlalchemy.engine import make_url

from bursar.commands import books as command
from bursar.core.database import connect
from bursar.wallets import beancount, ledger
from tests.accounts.people import rows
from tests.audit.trail import superuser
from tests.conftest import Live
from tests.databases import SECRET
from tests.programs import bursar
from tests.wallets.purses import charge, fund, hold, id_of, move_in, post, wallet_of
from tests.world import CARL, DORA

BEAN_CHECK = Path(sys.executable).with_name("bean-check")


def bean_check(file: Path) -> tuple[int, str]:
    ended = subprocess.run(
        [BEAN_CHECK, "--no-cache", file], capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def balances(file: Path) -> dict[tuple[str, str], Decimal]:
    """What beancount itself adds up."""
    entries, errors, _ = loader.load_file(str(file))
    assert errors == []
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for entry in transactions(entries):
        for posting in entry.postings:
            sums[posting.account, posting.units.currency] += posting.units.number
    return sums


def transactions(entries: list[Any]) -> list[Any]:
    return [entry for entry in entries if type(entry).__name__ == "Transaction"]


async def exported(live: Live, file: Path, *days: date | None) -> Path:
    connection = await connect(make_url(live.url), live.settings)
    try:
        file.write_text("".join([piece async for piece in beancount.books(connection, *days)]))
    finally:
        await connection.close()
    return file


@pytest.fixture
async def spent(live_db: Live) -> Live:
    """Customers with money of three kinds, holds, a reversal and an exchange."""
    await move_in(live_db)
    await rows(live_db, "insert into assets (code, scale) values ('EUR', 2)")
    carl, dora = ledger.user(id_of(CARL)), ledger.user(id_of(DORA))
    await fund(live_db, CARL, "100.000001")
    charged = await charge(live_db, CARL, "1.5")
    await post(live_db, ledger.reverse(charged.operation_id, 500_000))
    await post(
        live_db,
        ledger.transfer(carl, dora, 10_000_000, kind="transfer"),
        ledger.transfer("rewards", carl, 7, "POINTS", kind="earn"),
        ledger.transfer(dora, "exchange", 2_000_000, kind="exchange"),
        ledger.transfer("exchange", dora, 185, "EUR", kind="exchange"),
    )
    held = await hold(live_db, CARL, 5)
    await post(live_db, ledger.capture(held.operation_id, 2_000_000))
    await rows(
        live_db,
        """insert into accounts (asset, purpose, overdraft)
           values ('USD', 'gifts_of.last_year', null)""",
    )
    return live_db


async def customer(live: Live, who: Any, asset: str = "USD") -> str:
    return f"Liabilities:Customers:{str((await wallet_of(live, who, asset))['id']).upper()}"


async def test_bean_check_accepts_the_books_and_agrees(spent: Live, tmp_path: Path) -> None:
    file = await exported(spent, tmp_path / "books.beancount")
    assert bean_check(file) == (0, "")
    sums = balances(file)
    assert sums[await customer(spent, CARL), "USD"] == Decimal("-87.000001")
    assert sums[await customer(spent, DORA), "USD"] == -8
    assert sums[await customer(spent, CARL, "POINTS"), "POINTS"] == -7
    assert sums[await customer(spent, DORA, "EUR"), "EUR"] == Decimal("-1.85")
    assert sums["Assets:Clearing", "USD"] == Decimal("100.000001")
    assert sums["Income:Revenue", "USD"] == -3
    assert sums["Equity:Exchange", "USD"] == -2
    assert sums["Equity:Exchange", "EUR"] == Decimal("1.85")
    assert sums["Expenses:Rewards", "POINTS"] == 7
    assert sum(sums.values()) == 0


async def test_every_operation_that_moved_money_is_one_transaction(
    spent: Live, tmp_path: Path
) -> None:
    entries, _, options = loader.load_file(str(await exported(spent, tmp_path / "books")))
    moved = {
        str(row["id"]): row["kinds"]
        for row in await rows(
            spent,
            """select operation_id as id, string_agg(distinct kind, ', ' order by kind) as kinds
               from transfers group by operation_id""",
        )
    }
    written = transactions(entries)
    assert {entry.meta["operation"]: entry.meta["kind"] for entry in written} == moved
    assert len(written) == 5
    assert "earn, exchange, transfer" in moved.values()
    assert sorted(options["operating_currency"]) == ["EUR", "USD"]


async def test_all_accounts_and_assets_are_there(spent: Live, tmp_path: Path) -> None:
    entries, _, _ = loader.load_file(str(await exported(spent, tmp_path / "books")))
    named = {entry.account: entry.currencies for entry in entries if hasattr(entry, "booking")}
    assert named["Equity:Other:Gifts-of:Last-year"] == ["USD"]
    assert named["Income:Revenue"] == ["EUR", "POINTS", "USD"]
    assert len([name for name in named if name.startswith("Liabilities:Customers")]) == 4
    commodities = [entry for entry in entries if type(entry).__name__ == "Commodity"]
    assert {entry.currency: entry.meta["digits"] for entry in commodities} == {
        "EUR": 2,
        "POINTS": 0,
        "USD": 6,
    }
    owners = [entry.meta.get("customer") for entry in entries if hasattr(entry, "booking")]
    assert str(id_of(CARL)) in owners


async def test_one_unit_too_much_is_seen_by_bean_check(spent: Live, tmp_path: Path) -> None:
    async with superuser(spent.url) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(
            "update accounts set posted = posted + 1 where owner_id = $1 and asset = 'USD'",
            id_of(CARL),
        )
    code, said = bean_check(await exported(spent, tmp_path / "books"))
    assert code == 1
    assert "Balance failed" in said
    assert await customer(spent, CARL) in said


async def moved_back(live: Live, kind: str, days: int) -> None:
    """As if it had been posted earlier."""
    async with superuser(live.url) as connection:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(
            """update transfers set posted_at = posted_at - make_interval(days => $2)
               where kind = $1""",
            kind,
            days,
        )


async def test_a_period_begins_with_what_was_brought_forward(spent: Live, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    await moved_back(spent, "funding", 20)
    await moved_back(spent, "charge", 10)  # the charge and the capture
    after = await exported(spent, tmp_path / "after", today - timedelta(days=19))
    assert bean_check(after) == (0, "")
    whole = await exported(spent, tmp_path / "whole")
    sums, opened = balances(after), "Equity:Opening-Balances"
    assert {name: has for name, has in sums.items() if name[0] != opened} == balances(whole)
    assert sums[opened, "USD"] == 0
    before = await exported(
        spent, tmp_path / "before", today - timedelta(days=19), today - timedelta(days=10)
    )
    assert bean_check(before) == (0, "")
    assert balances(before)[await customer(spent, CARL), "USD"] == Decimal("-96.500001")
    assert balances(before)["Assets:Clearing", "USD"] == Decimal("100.000001")
    first = await exported(spent, tmp_path / "first", None, today - timedelta(days=20))
    assert bean_check(first) == (0, "")
    assert balances(first)[await customer(spent, CARL), "USD"] == Decimal("-100.000001")


ODD_DAYS = [None, -700_000, -21, -20, 0, 1, 2_900_000]


async def test_bean_check_accepts_the_books_of_any_period(spent: Live, tmp_path: Path) -> None:
    """Before anything happened, after it, tomorrow, on one day, in other millennia."""
    today = datetime.now(UTC).date()
    await moved_back(spent, "funding", 20)
    await moved_back(spent, "charge", 10)
    days = [None if day is None else today + timedelta(days=day) for day in ODD_DAYS]
    periods = [
        (first, last) for first in days for last in days if not (first and last and last < first)
    ]
    files = [
        await exported(spent, tmp_path / f"{first} {last}", first, last) for first, last in periods
    ]
    with ThreadPoolExecutor(2) as both:
        said = list(both.map(bean_check, files))
    wrong = {file.name: words for file, words in zip(files, said, strict=True) if words != (0, "")}
    assert wrong == {}
    wallet = (await customer(spent, CARL), "USD")
    for (_, last), file in zip(periods, files, strict=True):
        if last is None or last >= today:
            assert balances(file)[wallet] == Decimal("-87.000001")


@pytest.mark.parametrize("period", ["--from", "--to"])
async def test_no_day_comes_after_the_last_one_of_the_calendar(
    live_db: Live, tmp_path: Path, period: str
) -> None:
    given = {"DATABASE_URL": live_db.url, "BURSAR_SECRET_KEY": SECRET}
    file = tmp_path / "books.beancount"
    ended = bursar("export", "beancount", "--output", file, period, "9999-12-31", **given)
    assert ended.code == 1
    assert "9999-12-30" in ended.line
    assert list(tmp_path.iterdir()) == []


async def test_pieces_are_small_and_the_same(
    spent: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (await exported(spent, tmp_path / "whole")).read_text()
    monkeypatch.setattr(beancount, "AT_ONCE", 2)  # less than the transfers of one operation
    connection = await connect(make_url(spent.url), spent.settings)
    try:
        pieces = [piece async for piece in beancount.books(connection)]
    finally:
        await connection.close()
    assert "".join(pieces).split() == whole.split()
    assert len(pieces) > 20
    assert max(len(piece.splitlines()) for piece in pieces[1:]) < 40


async def test_books_without_any_entry(live_db: Live, tmp_path: Path) -> None:
    assert bean_check(await exported(live_db, tmp_path / "books")) == (0, "")


async def test_an_asset_may_be_called_as_a_word_of_beancount(live_db: Live, tmp_path: Path) -> None:
    await move_in(live_db)
    codes = ["TRUE", "FALSE", "NULL"]
    for code in codes:
        await rows(live_db, f"insert into assets (code, scale) values ('{code}', 2)")
        carl = ledger.user(id_of(CARL))
        await post(live_db, ledger.transfer("exchange", carl, 185, code, kind="exchange"))
    file = await exported(live_db, tmp_path / "books")
    assert bean_check(file) == (0, "")
    sums = balances(file)
    for code in codes:
        assert sums["Equity:Exchange", f"{code}.ASSET"] == Decimal("1.85")


def test_any_id_and_any_purpose_make_a_name() -> None:
    last = beancount.name_of("wallet", UUID(int=2**128 - 1))
    assert last == "Liabilities:Customers:FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
    assert beancount.name_of("a..b_", None) == "Equity:Other:A:B"


async def test_the_command_writes_the_file_when_it_is_whole(spent: Live, tmp_path: Path) -> None:
    given = {"DATABASE_URL": spent.url, "BURSAR_SECRET_KEY": SECRET}
    file = tmp_path / "books.beancount"
    ended = bursar("export", "beancount", "--output", file, **given)
    assert (ended.code, ended.stdout) == (0, "")
    assert bean_check(file) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["books.beancount"]
    told = bursar("export", "beancount", "--from", "2000-01-01", **given)
    sums = balances(written(tmp_path / "told", told.stdout))
    assert {name: has for name, has in sums.items() if has} == balances(file)


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_a_period_that_ends_before_it_begins(spent: Live, tmp_path: Path) -> None:
    with pytest.raises(beancount.BadPeriod):
        await exported(spent, tmp_path / "books", date(2026, 2, 1), date(2026, 1, 31))


async def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "books"
    file.write_text("the books of yesterday")

    async def broken() -> AsyncIterator[str]:
        yield "half of the"
        raise ConnectionResetError

    async def work() -> None:
        with command.written(file) as part:
            await command.write(broken(), part)

    with pytest.raises(ConnectionResetError):
        await work()
    assert file.read_text() == "the books of yesterday"
    assert list(tmp_path.iterdir()) == [file]
