"""Whatever is done to the ledger by somebody whom no trigger stops is found, and named."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.engine import make_url

from bursar.app import create_app
from bursar.commands import books as command
from bursar.core.database import connect
from bursar.core.settings import Settings
from bursar.wallets import ledger, verification
from bursar.wallets.verification import Report
from tests import databases
from tests.audit.trail import superuser
from tests.conftest import Live
from tests.databases import SECRET
from tests.programs import bursar
from tests.wallets.damage import DAMAGE
from tests.wallets.purses import charge, fund, hold, id_of, move_in, post, wallet_of
from tests.world import CARL, DORA

TABLES = ("accounts", "operations", "holds", "transfers")
KEEP = [f"create table intact_{table} as table {table}" for table in TABLES]
RESTORE = [
    "alter table accounts drop constraint if exists ck_accounts_within_limit",
    *(f"delete from {table}" for table in TABLES),
    *(f"insert into {table} table intact_{table}" for table in TABLES),
    """alter table accounts add constraint ck_accounts_within_limit
         check (posted::numeric - held >= -overdraft::numeric)""",
]


@dataclass
class Books:
    """A ledger with one of everything in it, and somebody who damages it."""

    live: Live
    names: dict[str, UUID]

    async def verify(self, *progress: Any) -> Report:
        connection = await connect(make_url(self.live.url), self.live.settings)
        try:
            return await verification.verify(connection, *progress)
        finally:
            await connection.close()

    async def damage(self, *statements: str) -> None:
        """As a superuser who has switched off the triggers; `:name` is the id of what it names."""
        async with superuser(self.live.url) as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            for statement in statements:
                await connection.execute(self.named(statement))

    def named(self, text: str) -> str:
        for name in sorted(self.names, key=len, reverse=True):
            text = text.replace(f":{name}", f"'{self.names[name]}'")
        return text


@pytest.fixture(scope="module")
async def filled(settings: Settings) -> AsyncIterator[Books]:
    """One database for all kinds of damage: it is repaired from copies, which is much quicker."""
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    books = Books(live, await one_of_everything(live))
    await books.damage(*KEEP)
    yield books
    await live.database.close()
    await databases.discard(url)


@pytest.fixture
async def books(filled: Books) -> AsyncIterator[Books]:
    yield filled
    await filled.damage(*RESTORE)


async def one_of_everything(live: Live) -> dict[str, UUID]:
    """The ids of operations, each of which is also that of its first transfer or hold."""
    await move_in(live)
    carl, dora = ledger.user(id_of(CARL)), ledger.user(id_of(DORA))
    done = {"funded": await fund(live, CARL, 100)}
    done["charged"] = await charge(live, CARL, "1.5", category="models")
    done["later"] = await charge(live, CARL, 2)
    done["sent"] = await post(
        live,
        ledger.transfer(carl, dora, 10_000_000, kind="transfer"),
        ledger.transfer(dora, "revenue", 1_000_000, kind="charge"),
        ledger.transfer("rewards", dora, 7, "POINTS", kind="earn"),
    )
    done["back"] = await post(live, ledger.reverse(done["charged"].operation_id, 500_000))
    done["taken"] = await hold(live, CARL, 5)
    taken = done["taken"].operation_id
    done["part"] = await post(live, ledger.capture(taken, 2_000_000))
    done["rest"] = await post(live, ledger.capture(taken, 1_000_000, final=True))
    done["voided"] = await hold(live, CARL, 4)
    done["void"] = await post(live, ledger.void(done["voided"].operation_id))
    done["held"] = await hold(live, CARL, 3)
    done["newest"] = await charge(live, DORA, 1)
    names = {name: outcome.operation_id for name, outcome in done.items()}
    names["carl"] = (await wallet_of(live, CARL))["id"]
    names["dora"] = (await wallet_of(live, DORA))["id"]
    return names


async def test_books_that_nobody_touched_are_right(books: Books) -> None:
    report = await books.verify()
    assert report.findings == []
    assert (report.transfers, report.operations, report.holds) == (10, 12, 3)


async def test_books_that_are_empty_are_right(live_db: Live) -> None:
    assert (await Books(live_db, {}).verify()).ok


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_found_and_named(books: Books, what: str) -> None:
    statements, expected, sentence = DAMAGE[what]
    await books.damage(statements)
    report = await books.verify()
    assert {finding.kind: finding.rows for finding in report.findings} == expected
    told = [finding.detail for finding in report.findings]
    wanted = books.named(sentence).replace("'", "")
    assert any(wanted in detail for detail in told), told


async def test_what_was_posted_first_is_said_first(books: Books) -> None:
    await books.damage(
        "update transfers set credit_after = credit_after + 1 where id = :newest",
        "update holds set captured = 0 where id = :taken",
        "update transfers set debit_after = debit_after + 1 where id in (:charged, :later)",
        "update accounts set posted = posted + 1 where id = :dora",
    )
    report = await books.verify()
    first, *_, last = report.findings
    assert (first.kind, first.id, first.rows) == ("wrong_balance", books.names["charged"], 3)
    assert last.kind == "unbalanced"
    times = [finding.at for finding in report.findings if finding.at]
    assert times == sorted(times)


@pytest.mark.parametrize(
    "change",
    ["posted_at = posted_at + interval '1 year'", "posted_at = 'infinity'", "debit_seq = -5"],
)
async def test_the_row_that_is_wrong_is_said_before_its_neighbours(
    books: Books, change: str
) -> None:
    await books.damage(f"update transfers set {change} where id = :charged")
    first = (await books.verify()).findings[0]
    assert first.id == books.names["charged"], first


async def test_it_runs_while_money_moves(live_db: Live) -> None:
    """One snapshot: what is posted between two of its statements is in none of them."""
    books = Books(live_db, await one_of_everything(live_db))
    verifying = asyncio.create_task(books.verify())
    posted = 0
    while not verifying.done() or posted < 5:
        await charge(books.live, CARL, "0.01")
        posted += 1
    assert (await verifying).findings == []
    assert (await books.verify()).transfers == 10 + posted


async def test_progress_hears_every_check(books: Books) -> None:
    heard: list[Any] = []
    await books.verify(lambda *what: heard.append(what))
    assert [number for number, _, _ in heard] == list(range(heard[0][1]))


async def test_the_command_says_the_first_row_and_ends_with_1(books: Books) -> None:
    given = {"DATABASE_URL": books.live.url, "BURSAR_SECRET_KEY": SECRET}
    good = bursar("verify", **given)
    assert (good.code, good.stdout.partition(" accounts")[0]) == (
        0,
        "The books: right, 10 transfers, 12 operations, 3 holds, 291",
    )
    await books.damage("update transfers set debit_after = debit_after + 1 where id = :charged")
    bad = bursar("verify", "--json", **given)
    answer = json.loads(bad.stdout)
    assert (bad.code, answer["ok"], answer["transfers"]) == (1, False, 10)
    first = answer["findings"][0]
    assert (first["kind"], first["id"]) == ("wrong_balance", str(books.names["charged"]))


async def test_it_is_told_in_lines(books: Books, capsys: pytest.CaptureFixture[str]) -> None:
    await books.damage("update transfers set debit_after = debit_after + 1 where id = :charged")
    report = await books.verify()
    command.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrong_balance\t2\t{report.findings[0].detail}"
    assert lines[-1].startswith("The books: 3 finding(s), 10 transfers")
