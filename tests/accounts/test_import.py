"""`bursar import users` as a real process: nobody twice, nobody changed, no secret shown."""

import json
import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.auth.actor import OPERATOR_ID
from tests.accounts.imports import HASH, PASSWORD, figures, imported, many, of, write
from tests.accounts.people import AUTH, log_in, rows, sign_up
from tests.auth import stored_hashes
from tests.conftest import Live
from tests.programs import MYSELF, bursar, new_folder, program, remove, serving

PLAIN = "hunter2-in-plain-text"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = new_folder()
    yield made
    remove(made)


# People come along


@pytest.mark.parametrize("kind", ["2b", "2y", "django", "passlib", "werkzeug"])
async def test_somebody_signs_in_with_the_old_password(
    live_db: Live, folder: Path, kind: str
) -> None:
    line = {"email": "Carl@example.com", "passwordHash": stored_hashes.OLDER[kind](PASSWORD)}
    file = write(folder, json.dumps(line), name="people.jsonl")
    assert imported(live_db, file).code == 0
    async with live_db.api() as api:
        wrong = await api.post(f"{AUTH}/login", json={"email": "carl@example.com", "password": "x"})
        assert wrong.status_code == 401
        first = await log_in(api, password=PASSWORD)
        [row] = await rows(live_db, "select password_hash from users")
        assert row["password_hash"].startswith("$argon2id$")
        assert (await log_in(api, password=PASSWORD)).id == first.id
    assert imported(live_db, file).code == 0
    assert (await rows(live_db, "select password_hash from users"))[0] == row


async def test_what_the_table_and_the_trail_have_then(live_db: Live, folder: Path) -> None:
    file = write(
        folder,
        "email,full_name,is_active,hashedPassword,createdAt,shoe_size,id",
        f"carl@example.com,Carl Emil Carlson,true,{HASH},2020-01-02T03:04:05Z,44,1",
        f"dora@example.com,Dora,false,,,38,{OPERATOR_ID}",
        "emil@example.com,,false,,,38,",
    )
    ended = imported(live_db, file)
    assert ended.code == 1
    assert ended.stdout == "3 lines: 2 added, 0 already there, 1 rejected.\n"
    assert "line 3 (dora@example.com): id: is reserved\n" in ended.stderr
    assert "because nobody here knows them: shoe_size\n" in ended.stderr
    assert "replaced by new ones: 1\n" in ended.stderr
    assert "who choose one by e-mail: 1\n" in ended.stderr
    carl, emil = await rows(live_db, "select * from users order by email")
    assert (carl["name"], carl["first_name"], carl["last_name"], carl["password_hash"]) == (
        *("Carl Emil Carlson", "Carl", "Emil Carlson"),
        HASH,
    )
    assert (carl["created_at"].year, carl["status"], emil["status"]) == (
        *(2020, "active"),
        "suspended",
    )
    [audited] = await rows(live_db, "select *, after::text as said from audit_logs")
    assert (audited["event_type"], audited["actor_kind"]) == ("users.imported", "staff")
    assert (audited["actor_id"], audited["subject"]) == (OPERATOR_ID, OPERATOR_ID)
    after = json.loads(audited["said"])
    assert after == {
        "file": "people.csv",
        "first_line": 2,
        "last_line": 4,
        "added": 2,
        "already_there": 0,
        "rejected": 1,
        "first_id": after["first_id"],
        "last_id": after["last_id"],
    }
    [event] = await rows(live_db, "select name, payload::text from events")
    ids = sorted(str(row["id"]) for row in (carl, emil))
    assert (event["name"], json.loads(event["payload"])) == ("users.imported", {"user_ids": ids})
    assert (after["first_id"], after["last_id"]) == (ids[0], ids[-1])


async def test_no_secret_is_shown_or_kept(live_db: Live, folder: Path) -> None:
    file = write(
        folder,
        "email,password,role",
        f"carl@example.com,{HASH},",
        f"dora@example.com,{PLAIN},",
        f"emil@example.com,,{PLAIN}",
        f"{PLAIN},,",
        f"fred@example.com,{HASH}x,",
    )
    ended = imported(live_db, file, "--rejects", folder / "rejects", "--json")
    assert (ended.code, figures(ended)) == (1, (1, 0, 4))
    rejects = (folder / "rejects").read_text()
    kept = await rows(live_db, "select row_to_json(t)::text from audit_logs t")
    kept += await rows(live_db, "select row_to_json(t)::text from events t")
    for text in (ended.stdout, ended.stderr, rejects, *(row[0] for row in kept)):
        assert PLAIN not in text
        assert HASH not in text
    assert "a password in plain text is never taken" in rejects
    [users] = await rows(live_db, "select string_agg(row_to_json(t)::text, '') from users t")
    assert PLAIN not in users[0]


async def test_every_rejected_line_is_in_the_file_for_it(live_db: Live, folder: Path) -> None:
    lines = ["email,tier,name"] + [f"p{n}@example.com,gold,'" for n in range(2500)]
    file = write(folder, *lines, 'x@example.com,free,"open', "z@example.com,free,Z")
    rejects = folder / "rejects.jsonl"
    ended = imported(live_db, file, "--rejects", rejects)
    assert (ended.code, ended.stderr) == (1, "")
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [each["line"] for each in found] == list(range(2, 2503))
    reason = "tier: has to be one of: free, pro, enterprise"
    assert found[0] == {
        "line": 2,
        "last_line": 2,
        "reasons": [reason],
        "email": "p0@example.com",
    }
    assert (found[-1]["last_line"], found[-1]["email"]) == (2503, None)
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert await rows(live_db, "select 1 from audit_logs") == []


# Those who are there already


async def test_whoever_is_there_stays_as_they_are(live_db: Live, folder: Path) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api, username="Carl", email="carl@example.com")
    await rows(live_db, "insert into users (email, name) values ('Plain@Example.com', 'By hand')")
    before = await rows(live_db, "select * from users order by email")
    file = write(
        folder,
        "email,username,name,tier,password_hash,id",
        f"CARL@example.com,dora,Another,pro,{HASH},",
        "plain@example.com,,Another,pro,,",
        "dora@example.com,cARL,,,,",
        f"emil@example.com,,,,,{carl.id}",
    )
    ended = imported(live_db, file, "--json")
    assert (ended.code, figures(ended)) == (1, (0, 2, 2))
    assert "line 4 (dora@example.com): username: another account has it\n" in ended.stderr
    assert "line 5 (emil@example.com): id: another account has it\n" in ended.stderr
    assert await rows(live_db, "select * from users order by email") == before


async def test_a_second_run_doubles_nobody_and_leaves_no_trace(live_db: Live, folder: Path) -> None:
    file = write(folder, *many(1500))
    assert figures(imported(live_db, file, "--json")) == (1500, 0, 0)
    before = await rows(live_db, "select * from users order by id")
    again = imported(live_db, file, "--json")
    assert (again.code, figures(again)) == (0, (0, 1500, 0))
    assert await rows(live_db, "select * from users order by id") == before
    trace = "select (select count(*) from audit_logs), (select count(*) from events)"
    assert list((await rows(live_db, trace))[0]) == [2, 2]


async def test_a_dry_run_says_the_same_and_writes_nothing(live_db: Live, folder: Path) -> None:
    async with live_db.api() as api:
        await sign_up(api, email="p3@example.com")
    file = write(folder, *many(1200), "p4@example.com,,", "q@example.com,!,", "P3@example.com,,")
    size = (
        "select (select count(*) from users), (select count(*) from audit_logs), "
        "(select count(*) from events)"
    )
    before = await rows(live_db, size)
    dry = imported(live_db, file, "--dry-run", "--json")
    assert await rows(live_db, size) == before
    real = imported(live_db, file, "--json")
    assert (dry.code, dry.stderr) == (real.code, real.stderr)
    assert json.loads(dry.stdout) == {**json.loads(real.stdout), "dry_run": True}
    assert figures(real) == (1199, 1, 3)
    assert "would be added" in imported(live_db, file, "--dry-run").stdout


# Beside a server, and what the command says


def test_it_works_beside_the_server(folder: Path) -> None:
    data = folder / "data"
    file = write(folder, "email,password_hash", f"carl@example.com,{HASH}")
    with serving("--data", data) as server:
        ended = bursar("import", "users", file, "--data", data)
        assert (ended.code, ended.stderr) == (0, "")
        body = {"email": "carl@example.com", "password": PASSWORD}
        answer = server.client.post(f"{server.base}{AUTH}/login", json=body)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["nowhere.csv"], 3, "The file nowhere.csv cannot be read: no such file or directory."),
        (["."], 2, "add one of: csv, jsonl"),
        ([".", "--format", "csv"], 3, "The file . cannot be read: is a directory."),
        (["-"], 2, "add one of: csv, jsonl"),
        (["people.xls"], 2, "add one of: csv, jsonl"),
        (["people.csv", "--format", "xml"], 2, "there is no format xml; there are: csv, jsonl"),
        (["people.csv", "--rejects", "people.csv"], 2, "is the file that is imported"),
        (["people.csv", "--rejects", "no/where"], 2, "cannot be written: no such file"),
        (["people.csv"], 3, "There is no database in"),
        ([], 2, "Missing argument 'FILE'"),
    ],
)
def test_wrong_use(arguments: list[str], code: int, hint: str, folder: Path) -> None:
    write(folder, "email", "carl@example.com")
    ended = bursar("import", "users", *arguments, "--data", folder / "data", folder=folder)
    assert ended.code == code
    assert hint in ended.line
    assert (folder / "people.csv").read_text() == "email\ncarl@example.com\n"


@pytest.mark.parametrize(("content", "code"), [("", 2), ("name\nCarl\n", 2), ("email\n", 0)])
def test_files_with_nobody_in_them(live_db: Live, folder: Path, content: str, code: int) -> None:
    (folder / "people.csv").write_text(content)
    ended = imported(live_db, folder / "people.csv")
    assert ended.code == code
    if code == 0:
        assert ended.stdout == "0 lines: 0 added, 0 already there, 0 rejected.\n"
    else:
        assert ended.line.startswith(("The file is empty.", "The first line names no column"))


def test_progress_on_a_terminal_is_one_line_and_in_a_file_none(live_db: Live, folder: Path) -> None:
    file = write(folder, *many(2500), "x,,")
    assert imported(live_db, file).stderr.count("\n") == 2
    seen, terminal = pty.openpty()
    done = subprocess.run(
        [*program(MYSELF), "import", "users", str(file), "--dry-run"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **of(live_db)},
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=False,
    )
    os.close(terminal)
    shown = os.read(seen, 65_536).decode()
    os.close(seen)
    assert done.returncode == 1
    assert "\r\x1b[K1,000 lines: 0 would be added, 1,000 already there, 0 rejected (" in shown
    assert "\r\x1b[Kline 2502: email: An email address must have an @-sign\r\n" in shown
    assert shown.count("\n") == 1


def test_help() -> None:
    for command in (["import"], ["import", "users"]):
        ended = bursar(*command, "--help")
        assert (ended.code, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"Usage: bursar {' '.join(command)} ")
