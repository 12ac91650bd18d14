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


# What is done, what is found by which kind (and how many), and what the first sentence says.
DAMAGE: dict[str, tuple[str, dict[str, int], str]] = {
    "an amount": (
        "update transfers set amount = amount + 1 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1, "wrong_account": 2},
        "Transfer :charged ",
    ),
    "a balance in the chain": (
        "update transfers set debit_after = debit_after + 1 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1},
        "its balance there is 98500001, expected 98500000.",
    ),
    "a transfer that is gone": (
        "delete from transfers where id = :later",
        {"gap": 2, "missing_transfer": 1, "wrong_account": 2},
        "Operation :later made transfer :later, which is not there.",
    ),
    "the newest transfer that is gone": (
        "delete from transfers where id = :newest",
        {"missing_transfer": 1, "wrong_account": 2},
        "Operation :newest made transfer :newest, which is not there.",
    ),
    "a gap in the numbers": (
        """update transfers set debit_seq = -debit_seq where debit_id = :carl and debit_seq > 3;
           update transfers set debit_seq = 1 - debit_seq where debit_seq < 0;
           update transfers set credit_seq = credit_seq + 1
             where credit_id = :carl and credit_seq > 3;
           update accounts set seq = seq + 1 where id = :carl""",
        {"gap": 1},
        "Transfer :sent is entry 5 of account :carl; expected entry 4.",
    ),
    "a number that is there twice": (
        "update transfers set debit_seq = 1 where id = :charged",
        {"gap": 2, "wrong_balance": 1},
        "is entry 1 of account :carl; expected entry 2.",
    ),
    "a time before the one before": (
        "update transfers set posted_at = posted_at - interval '1 day' where id = :later",
        {"back_in_time": 2, "wrong_outcome": 1},
        "Transfer :later is entry ",
    ),
    "a time that is not that of the operation": (
        "update transfers set posted_at = posted_at + interval '1 microsecond' where id = :part",
        {"wrong_outcome": 1},
        "Transfer :part moved 2000000 USD",
    ),
    "the balance of an account": (
        "update accounts set posted = posted + 1 where id = :carl",
        {"wrong_account": 1, "unbalanced": 1},
        "Account :carl says: balance ",
    ),
    "what an account has spent": (
        "update accounts set spent = spent + 1 where id = :carl",
        {"wrong_account": 1},
        "Account :carl says: ",
    ),
    "the number of an account": (
        "update accounts set seq = seq + 1 where id = :dora",
        {"wrong_account": 1},
        "Account :dora says: ",
    ),
    "the time of an account": (
        "update accounts set moved_at = null where id = :dora",
        {"wrong_account": 1},
        "moved at no time; expected by its entries: balance ",
    ),
    "an account that is gone": (
        "delete from accounts where id = :dora",
        {"wrong_asset": 3, "unbalanced": 1},
        "; its accounts are in ",  # of several posted at one time either may be the first
    ),
    "what is held": (
        "update accounts set held = held - 1 where id = :carl",
        {"wrong_held": 1},
        "Account :carl says that 2999999 is held, expected 3000000 by its open holds.",
    ),
    "a limit that was lowered": (
        """alter table accounts drop constraint ck_accounts_within_limit;
           update accounts set held = posted + 1 where id = :carl""",
        {"wrong_held": 1, "beyond_limit": 1},
        "Account :carl ",
    ),
    "an operation that is gone": (
        "delete from operations where id = :charged",
        {"unknown_operation": 1},
        "No outcome names transfer :charged, expected that of operation :charged.",
    ),
    "an operation that did nothing": (
        """insert into operations (id, scope, key, fingerprint, outcome, actor, created_at)
           select uuid7(), scope, 'forged', fingerprint,
             jsonb_build_object('operation_id', id, 'legs', '[]'::jsonb), actor, created_at
           from operations where id = :charged""",
        {"empty_operation": 1, "wrong_outcome": 1},
        "",
    ),
    "an outcome that is no outcome": (
        """update operations set outcome = '{"legs": ["nothing", 7]}' where id = :charged""",
        {"empty_operation": 1, "unknown_operation": 1, "wrong_outcome": 1},
        "",
    ),
    "an amount in an outcome": (
        """update operations set outcome = jsonb_set(outcome, '{legs,0,amount}', '"a lot"')
           where id = :charged""",
        {"wrong_outcome": 1},
        "says a lot USD at ",
    ),
    "a transfer that was made up": (
        """insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
             credit_id, credit_seq, credit_after, kind, posted_at)
           select uuid7(), operation_id, transfers.asset, 1, debit_id, d.seq + 1, d.posted - 1,
             credit_id, c.seq + 1, c.posted + 1, kind, now()
           from transfers join accounts as d on d.id = debit_id
           join accounts as c on c.id = credit_id where transfers.id = :newest;
           update accounts set seq = accounts.seq + 1, posted = accounts.posted + delta,
             moved_at = made.posted_at, spent = spent - least(delta, 0)
           from (select debit_id as id, -1 as delta, posted_at from transfers where amount = 1
             union all select credit_id, 1, posted_at from transfers where amount = 1) as made
           where made.id = accounts.id""",
        {"unknown_operation": 1},
        "expected that of operation :newest.",
    ),
    "a transfer of another operation": (
        "update transfers set operation_id = :later where id = :charged",
        {"wrong_outcome": 1},
        "for operation :later",
    ),
    "an asset": (
        "update transfers set asset = 'POINTS' where id = :charged",
        {"wrong_asset": 1, "wrong_outcome": 1, "wrong_reversal": 1},
        "Transfer :charged ",
    ),
    "the asset of a hold": (
        "update holds set asset = 'POINTS' where id = :held",
        {"wrong_asset": 1, "wrong_outcome": 1},
        "Hold :held ",
    ),
    "a hold that is larger": (
        "update holds set amount = amount + 1 where id = :held",
        {"wrong_held": 1, "wrong_outcome": 1},
        "Hold :held of 3000001 USD was opened at ",
    ),
    "a hold that is gone": (
        "delete from holds where id = :held",
        {"missing_hold": 1, "wrong_held": 1},
        "Operation :held opened or closed hold :held, which is not there",
    ),
    "a captured hold that is gone": (
        "delete from holds where id = :taken",
        {"missing_hold": 1, "wrong_captured": 1},
        "Operation :taken opened",
    ),
    "a hold that was made up": (
        """insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
             expires_at)
           select uuid7(), operation_id, account_id, asset, 1, kind, created_at, expires_at
           from holds where id = :held;
           update accounts set held = held + 1 where id = :carl""",
        {"unknown_operation": 1},
        "was opened, expected that of operation :held.",
    ),
    "what a hold has captured": (
        "update holds set captured = captured + 1 where id = :taken",
        {"wrong_captured": 1},
        "Hold :taken says that 3000001 is captured, expected 3000000 by its transfers.",
    ),
    "a hold that is open again": (
        "update holds set state = 'open', closed_at = null, closed_by = null where id = :voided",
        {"missing_hold": 1, "wrong_held": 1},
        "Operation :void opened or closed hold :voided",
    ),
    "a hold that somebody else voided": (
        "update holds set closed_by = :rest where id = :voided",
        {"missing_hold": 1, "unknown_operation": 1},
        "",
    ),
    "a hold that somebody else captured": (
        "update holds set closed_by = :void where id = :taken",
        {"wrong_captured": 1},
        "Hold :taken was captured by operation :void, which has no transfer of it.",
    ),
    "a capture of another hold": (
        "update transfers set hold_id = :voided where id = :part",
        {"wrong_captured": 2, "wrong_outcome": 1},
        "",
    ),
    "a capture from another account": (
        "update holds set account_id = :dora where id = :taken",
        {"wrong_captured": 2},
        "captures hold :taken from account :carl, expected :dora.",
    ),
    "more back than there was": (
        "update transfers set amount = 499999 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1, "wrong_account": 2, "wrong_reversal": 1},
        "Transfer :charged ",
    ),
    "the reversal of another transfer": (
        "update transfers set reverses = :funded where id = :back",
        {"wrong_reversal": 1},
        "Transfer :back reverses :funded, but not the way it went",
    ),
    "the reversal of a reversal": (
        "update transfers set reverses = :back where id = :back",
        {"wrong_reversal": 1},
        "Transfer :back reverses :back, which is a reversal itself.",
    ),
    "a reversal that is none any more": (
        "update transfers set reverses = null where id = :back",
        {"wrong_account": 2},
        "Account ",
    ),
}


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
