"""The bank's lines: kept once, proposed for what is awaited, and accepted with what really came."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from bursar.payments import bank
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.test_reconciliation import damage_by_hand
from tests.payments.tills import intend, row_of, state
from tests.programs import SAID
from tests.wallets.purses import balance_of, move_in, refused
from tests.world import ADAM, ANNA, CARL, DORA, OLIVIA, SUE

ADMIN = "/api/v1/admin"
HEAD = "Date,Amount,Currency,Name,Reference\n"


async def awaited(live: Live, amount: Any = 20, reference: str | None = None, **given: Any) -> UUID:
    facts = {"payment_method": "bank_transfer", "provider": "manual", "reference": reference}
    return await intend(live, given.pop("who", CARL), amount, **{**facts, **given})


async def upload(live: Live, *lines: str, who: Any = OLIVIA, **ask: str) -> Any:
    day = datetime.now(UTC).date() - timedelta(days=2)
    content = (HEAD + "".join(f"{day},{each}\n" for each in lines)).encode()
    async with live.api(who) as api:
        return await api.post(f"{ADMIN}/bank-statements", content=content, params=ask)


async def matches(live: Live, **ask: str) -> list[dict[str, Any]]:
    async with live.api(ANNA) as api:
        answer = await api.get(f"{ADMIN}/bank-matches", params=ask)
    found: list[dict[str, Any]] = answer.json()["matches"]
    return found


async def decide(live: Live, path: str, body: Any = None, who: Any = OLIVIA) -> Any:
    async with live.api(who) as api:
        return await api.post(f"{ADMIN}/{path}", json=body)


async def unmatched(live: Live) -> list[dict[str, Any]]:
    async with live.api(ANNA) as api:
        answer = await api.get(f"{ADMIN}/bank-lines", params={"status": "unmatched"})
    found: list[dict[str, Any]] = answer.json()["lines"]
    return found


async def test_a_transfer_is_found_and_confirmed_with_what_came(live_db: Live) -> None:
    await move_in(live_db)
    payment = await awaited(live_db, 20, "INV-17")
    taken = (await upload(live_db, "15.50,USD,CARL,Thanks inv 17")).json()
    assert (taken["proposed"], taken["statement"]["newLines"]) == (1, 1)
    [match] = await matches(live_db)
    assert (match["score"], match["reason"]) == (70, "reference, name")
    for _ in range(2):  # said twice, done once
        answer = await decide(live_db, f"bank-matches/{match['id']}/acceptance")
        assert answer.json()["status"] == "accepted"
    assert await state(live_db, payment) == ("completed", Decimal("15.5"), 0)
    assert await balance_of(live_db, CARL) == Decimal("15.5")
    assert await unmatched(live_db) == []
    query = "select changed_by from payment_audits where new_status = 'completed'"
    [row] = await rows(live_db, query)
    assert row["changed_by"] == f"staff:{OLIVIA.id}"


async def test_the_surest_comes_first(live_db: Live) -> None:
    await move_in(live_db)
    sure = await awaited(live_db, 20, "INV-17")
    amount = await awaited(live_db, 20)
    by_name = await awaited(live_db, 20, who=DORA)
    by_id = await awaited(live_db, 30)
    await upload(live_db, f"20.00,USD,Dora,INV-17 and {by_id}")
    found = [(UUID(each["paymentId"]), each["score"]) for each in await matches(live_db)]
    assert found[0] == (sure, 90)
    assert set(found[1:]) == {(by_id, 60), (by_name, 40), (amount, 30)}


async def test_the_same_file_and_the_same_lines_change_nothing(live_db: Live) -> None:
    await move_in(live_db)
    await awaited(live_db, 20, "INV-17")
    first = (await upload(live_db, "20,USD,Carl,INV-17", "1,USD,x,y", "1,USD,x,y")).json()
    again = (await upload(live_db, "20,USD,Carl,INV-17", "1,USD,x,y", "1,USD,x,y")).json()
    assert (first["isNew"], again["isNew"]) == (True, False)
    assert again["statement"]["id"] == first["statement"]["id"]
    more = (await upload(live_db, "20,USD,Carl,INV-17", "1,USD,x,y", "2,USD,z,y")).json()
    assert (more["statement"]["lines"], more["statement"]["newLines"]) == (3, 1)
    assert len(await unmatched(live_db)) == 4
    assert len(await matches(live_db)) == 1


async def test_files_that_come_at_once_are_kept_once(live_db: Live) -> None:
    answers = await asyncio.gather(
        *(upload(live_db, "20,USD,Carl,INV-17", f"{n % 2 + 1},USD,x,y") for n in range(6))
    )
    assert [answer.status_code for answer in answers] == [201] * 6
    assert sum(answer.json()["isNew"] for answer in answers) == 2
    assert len(await unmatched(live_db)) == 3


async def test_what_is_refused_leaves_nothing(live_db: Live) -> None:
    answer = await upload(live_db, "20,USD,a,b", "20.001,USD,a,b")
    assert refused(answer) == (422, "payments.bad_statement")
    assert (
        await rows(live_db, "select 1 from bank_statements union all select 1 from bank_lines")
        == []
    )


async def test_more_than_was_asked_for_is_for_people(live_db: Live) -> None:
    await move_in(live_db)
    payment = await awaited(live_db, 20, "INV-17")
    await upload(live_db, "21,USD,Carl,INV-17")
    [match] = await matches(live_db)
    answer = await decide(live_db, f"bank-matches/{match['id']}/acceptance")
    assert refused(answer) == (422, "payments.amount_differs")
    assert await state(live_db, payment) == ("pending", 0, 0)
    assert len(await unmatched(live_db)) == 1


async def test_one_line_is_one_payments_money(live_db: Live) -> None:
    await move_in(live_db)
    payments = [await awaited(live_db, 20) for _ in range(2)]
    await upload(live_db, "20,USD,x,one", "20,USD,x,two")
    by_line: dict[str, list[dict[str, Any]]] = {}
    for match in await matches(live_db):
        by_line.setdefault(match["lineId"], []).append(match)
    first, second = by_line.values()
    answers = await asyncio.gather(
        *(decide(live_db, f"bank-matches/{match['id']}/acceptance") for match in (*first, *second))
    )
    assert sorted(answer.status_code for answer in answers).count(200) <= 2
    assert await balance_of(live_db, CARL) in (20, 40)
    taken = [row["payment_id"] for row in await rows(live_db, "select payment_id from bank_lines")]
    completed = [each for each in payments if (await state(live_db, each))[0] == "completed"]
    assert set(filter(None, taken)) == set(completed)


async def test_a_line_of_what_staff_confirmed_before(live_db: Live) -> None:
    await move_in(live_db)
    payment = await awaited(live_db, 20, "INV-17")
    await upload(live_db, "20,USD,Carl,INV-17", "19,USD,Carl,INV-17")
    assert (await decide(live_db, f"payments/{payment}/confirmation", {})).status_code == 200
    right, wrong = await matches(live_db)
    answer = await decide(live_db, f"bank-matches/{wrong['id']}/acceptance")
    assert refused(answer) == (409, "payments.paid_otherwise")
    assert (await decide(live_db, f"bank-matches/{right['id']}/acceptance")).status_code == 200
    assert await balance_of(live_db, CARL) == 20


async def test_what_was_rejected_is_not_proposed_again(live_db: Live) -> None:
    await move_in(live_db)
    await awaited(live_db, 20, "INV-17")
    await upload(live_db, "20,USD,Carl,INV-17")
    [match] = await matches(live_db)
    path = f"bank-matches/{match['id']}"
    assert (await decide(live_db, f"{path}/rejection")).json()["status"] == "rejected"
    assert refused(await decide(live_db, f"{path}/acceptance")) == (409, "payments.match_decided")
    [line] = await unmatched(live_db)
    async with live_db.database.transaction(bank_worker()) as db:
        assert await bank.propose(db, [UUID(line["id"])]) == 0
    assert await matches(live_db, status="proposed") == []


def bank_worker() -> Any:
    from bursar.core.database import WORKER

    return WORKER


async def test_a_payment_asked_for_later_is_found_by_the_daily_look(live_db: Live) -> None:
    await move_in(live_db)
    await upload(live_db, "20,USD,Carl,INV-17")
    await awaited(live_db, 20, "INV-17")
    async with live_db.database.transaction(bank_worker()) as db:
        await bank.match_daily(db, {})
    await run_jobs(live_db)
    assert [each["score"] for each in await matches(live_db)] == [100]


async def test_staff_assign_and_dismiss(live_db: Live) -> None:
    await move_in(live_db)
    payment = await awaited(live_db, 20)
    await upload(live_db, "7,USD,x,rent", "-5,USD,x,fees", "8,USD,x,gift")
    lines = {each["amount"]: each["id"] for each in await unmatched(live_db)}
    body = {"paymentId": str(payment)}
    out = await decide(live_db, f"bank-lines/{lines[-5]}/assignment", body)
    assert refused(out) == (409, "payments.paid_otherwise")
    answer = await decide(live_db, f"bank-lines/{lines[7]}/assignment", body)
    assert answer.status_code == 200, answer.text
    assert await state(live_db, payment) == ("completed", 7, 0)
    gone = await decide(live_db, f"bank-lines/{lines[8]}/dismissal")
    assert gone.json()["status"] == "ignored"
    again = await decide(live_db, f"bank-lines/{lines[7]}/dismissal")
    assert refused(again) == (409, "payments.match_decided")
    await upload(live_db, "7,USD,x,the same again")
    [more] = [each for each in await unmatched(live_db) if each["amount"] == 7]
    taken = await decide(live_db, f"bank-lines/{more['id']}/assignment", body)
    assert refused(taken) == (409, "payments.paid_otherwise")
    nobody = await decide(live_db, f"bank-lines/{CARL.id}/dismissal")
    assert refused(nobody) == (404, "payments.unknown_match")


async def test_only_owner_and_administrator_decide(live_db: Live) -> None:
    for who, status in ((ADAM, 201), (ANNA, 403), (SUE, 403), (CARL, 403)):
        assert (await upload(live_db, "1,USD,x,y", who=who)).status_code == status
    for table in ("bank_statements", "bank_lines", "bank_matches"):
        with pytest.raises(Exception, match="permission denied"):
            async with live_db.database.transaction(CARL.claim) as db:
                await db.execute(text(f"select * from {table}"))


@pytest.mark.parametrize(
    "statement",
    [
        "update bank_lines set amount = 1",
        "update bank_lines set booked_on = booked_on - 1",
        "delete from bank_lines",
        "truncate bank_lines cascade",
        "update bank_statements set lines = 2",
    ],
)
async def test_what_the_bank_has_said_stays(live_db: Live, statement: str) -> None:
    await upload(live_db, "20,USD,x,y")
    with pytest.raises(Exception, match=r"not changed|never changed"):
        await rows(live_db, statement)


@pytest.mark.parametrize(
    ("reference", "words", "there"),
    [
        ("INV-17", "inv 17 danke", True),
        ("INV-17", "Rechnung INV-17.", True),
        ("INV-17", "INV-170", False),
        ("INV-17", "XINV-17", False),
        ("INV-17", "IN V-1 7", True),
        ("17", "17", False),
        (None, "anything", False),
        ("a.*b", "aXXb", False),
    ],
)
def test_a_reference_stands_as_a_word_of_its_own(
    reference: str | None, words: str, there: bool
) -> None:
    assert bank.stands_in(reference, words) is there


@pytest.mark.parametrize(
    ("customer", "name", "same"),
    [
        ("José Ángel", "ANGEL JOSE", True),
        ("Carl", "Carlson", False),
        ("Carl Carlson", "Carlson, Carl & Dora", True),
        ("", "Carl", False),
        ("Carl", None, False),
    ],
)
def test_a_name_is_known_however_it_is_written(customer: str, name: str | None, same: bool) -> None:
    assert bank.is_named(customer, name) is same


async def bursar(live: Live, *arguments: str, **more: str) -> tuple[int | None, str]:
    """The command itself, on this test's database."""
    environment = {
        "BURSAR_DATABASE_URL": live.url.replace("postgresql+asyncpg", "postgresql"),
        "BURSAR_SECRET_KEY": live.settings.secret_keys[0],
        "PATH": "",
        **SAID,
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bursar.cli", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_every_difference_is_listed(live_db: Live) -> None:
    """More than a page of them, by the command and in JSON."""
    damage = """
      insert into reconciliations (since, until) values (now() - interval '1 hour', now());
      insert into reconciliation_differences (kind, provider, subject, theirs, their_currency,
        happened_at, seen_by)
      select 'missing_here', 'stripe', 'ch_' || n, 20, 'USD', now() - interval '1 minute' * n, id
      from generate_series(1, 250) as n, reconciliations
    """
    await damage_by_hand(live_db, damage)
    code, said = await bursar(live_db, "reconcile")
    assert code == 1
    assert said.count("missing_here\tstripe\tch_") == 250
    code, said = await bursar(live_db, "reconcile", "--json")
    assert len(json.loads(said)["listed"]) == json.loads(said)["differences"] == 250


async def test_the_commands(live_db: Live, tmp_path: Path) -> None:
    await move_in(live_db)
    await awaited(live_db, 20, "INV-17")
    file = tmp_path / "november.csv"
    file.write_text(HEAD + "2026-11-27,20,USD,Carl,INV-17\n")
    code, said = await bursar(live_db, "import", "bank-statement", str(file))
    assert (code, said) == (0, "november.csv: 1 lines, 1 new, 1 matches proposed.\n")
    code, said = await bursar(live_db, "import", "bank-statement", str(file))
    assert (code, said) == (0, "november.csv was imported before; nothing has changed.\n")
    code, said = await bursar(live_db, "reconcile")
    assert code == 0
    assert "all agrees" in said
    [match] = await matches(live_db)
    await decide(live_db, f"bank-matches/{match['id']}/acceptance")
    payment = (await row_of(live_db, UUID(match["paymentId"])))["id"]
    await damage_by_hand(live_db, "update operations set scope = 'x'")
    code, said = await bursar(live_db, "reconcile")
    assert code == 1
    assert said.startswith(f"payment_without_ledger\tmanual\t{payment}\t20.00 USD\tnothing\n")
    code, said = await bursar(live_db, "reconcile", "--from", "2026-12-02", "--to", "2026-12-01")
    assert code == 2
    code, said = await bursar(live_db, "import", "bank-statement", str(tmp_path / "none"))
    assert code == 3
