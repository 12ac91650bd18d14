"""What `bursar` says, where, and with which code it ends; bad input is one line that helps."""

import contextlib
import gc
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

import bursar as package
from bursar.commands.database import without_password
from bursar.commands.processes import loading
from tests.programs import MYSELF, ORDINARY, SECRET, Run, bursar, new_folder, remove, serving, until

COMMANDS = [
    *[(), ("serve",), ("worker",), ("migrate",), ("demo",), ("doctor",), ("openapi",), ("psql",)],
    *[("verify",), ("export",), ("export", "beancount")],
    *[("jobs",), ("jobs", "list"), ("jobs", "retry"), ("staff",), ("staff", "token")],
    *[("staff", "create"), ("staff", "list"), ("audit",), ("audit", "verify")],
    *[("events",), ("events", "list"), ("events", "skip"), ("import",), ("import", "users")],
    *[("mail",), ("mail", "list"), ("mail", "show"), ("mail", "resend")],
]
HEAVY = {"fastapi", "sqlalchemy", "pydantic", "asyncpg", "starlette", "uvicorn", "alembic", "rich"}
NOWHERE = "postgresql://owner:hunter2@127.0.0.1:1/shop"
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data folder with a server at work in it."""
    folder = new_folder() / "data"
    with serving("--demo", "--data", folder):
        yield folder
    remove(folder.parent)


@pytest.fixture
def empty() -> Iterator[Path]:
    folder = new_folder()
    yield folder
    remove(folder)


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_plain_text_on_stdout(command: tuple[str, ...]) -> None:
    ended = bursar(*command, "--help", FORCE_COLOR="1", NO_COLOR="1")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: {' '.join(['bursar', *command])} ")
    assert ESCAPE not in ended.stdout


def test_help_imports_none_of_the_server() -> None:
    asked = "import sys, bursar.cli; sys.argv = ['bursar', '--help']\n"
    asked += "try: bursar.cli.main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    seen = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    ).stderr.split()
    assert {name.partition(".")[0] for name in seen} & HEAVY == set()


def test_without_a_command_there_is_the_help_and_a_code() -> None:
    ended = bursar()
    assert (ended.code, ended.stdout) == (2, "")
    assert "Commands:" in ended.stderr


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serv"], "Did you mean 'serve'?"),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--port", "abc"], "valid integer"),
        (["serve", "--port", "99999"], "--port is not usable: input should be less than"),
        (["serve", "--port", "-1"], "--port is not usable"),
        (["serve", "--workers", "65"], "less than or equal to 64"),
        (["serve", "extra"], "unexpected extra argument"),
        (["staff", "token", "--role", "king"], "there are: owner, administrator"),
        (["jobs", "retry"], "Missing argument"),
        (["jobs", "list", "--state", "lost"], "there are: waiting, running, dead"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_ends_with_2(arguments: list[str], hint: str, empty: Path) -> None:
    ended = bursar(*arguments, BURSAR_DATA=str(empty / "data"))
    assert ended.code == 2
    assert hint in ended.line


# Settings


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("BURSAR_PORT", "abc", "BURSAR_PORT is not usable: input should be a valid integer"),
        ("BURSAR_PROT", "80", "There is no setting BURSAR_PROT; did you mean BURSAR_PORT?"),
        ("BURSAR_PORT_FILE", "x", "There is no setting BURSAR_PORT_FILE; did you mean BURSAR_PORT"),
        ("BURSAR_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("BURSAR_SECRET_KEY", "hunter2", "must have 32 characters or more; try: openssl rand"),
        ("BURSAR_SECRET_KEY_FILE", "/nowhere", "cannot be read: no such file"),
        ("BURSAR_SECRET_KEY_FILE", "/dev/null", "The file that BURSAR_SECRET_KEY_FILE names is em"),
        ("DATABASE_URL", "mysql://a:hunter2@b/c", "must look like postgresql://"),
        ("DATABASE_URL", "postgresql://a:hunter2@b:abc/c", "must look like postgresql://"),
        ("DATABASE_URL", "postgresql://a:hunter2@b:99999/c", "must look like postgresql://"),
        ("DATABASE_URL", "postgresql://a:hunter2@b", "must look like postgresql://"),
        ("BURSAR_DATABASE_DIRECT_URL", NOWHERE, "goes with DATABASE_URL, which is not set"),
    ],
)
def test_a_bad_setting_is_named_and_never_shown(
    name: str, value: str, hint: str, empty: Path
) -> None:
    ended = bursar("serve", "--data", empty / "data", **{name: value})
    assert ended.code == 2
    assert hint in ended.line
    assert "hunter2" not in ended.stderr
    assert not (empty / "data").exists()


def test_a_dotenv_file_that_is_not_text(empty: Path) -> None:
    (empty / ".env").write_bytes(b"BURSAR_PORT=\xff\xfe")
    ended = bursar("serve", folder=empty)
    assert (ended.code, ended.line) == (2, "The file .env cannot be read: it is not utf-8 text.")


# Folders


def test_somebody_elses_folder_is_left_as_it_is(empty: Path) -> None:
    (empty / "thesis.txt").write_text("precious")
    for command, code in {"serve": 5, "psql": 3}.items():
        ended = bursar(command, "--data", empty, BURSAR_PORT="0")
        assert ended.code == code
        assert str(empty) in ended.last_line
    assert [entry.name for entry in empty.iterdir()] == ["thesis.txt"]


def test_no_secret_is_put_into_somebody_elses_folder(empty: Path) -> None:
    (empty / "thesis.txt").write_text("precious")
    ended = bursar("staff", "token", "--data", empty, DATABASE_URL=NOWHERE)
    assert ended.code == 4
    assert "is not a data folder of Bursar's" in ended.line
    assert bursar("doctor", "--data", empty).code == 1
    assert [entry.name for entry in empty.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(empty: Path) -> None:
    (empty / "file").write_text("")
    ended = bursar("migrate", "--data", empty / "file")
    assert ended.code == 1
    assert "cannot be used as data folder" in ended.line


def test_a_folder_that_may_not_be_written(empty: Path) -> None:
    empty.chmod(0o555)
    os.chown(empty, MYSELF.uid, MYSELF.gid)
    if MYSELF == ORDINARY:
        ended = bursar("migrate", "--data", empty / "data")
    else:
        ended = bursar("migrate", "--data", empty / "data", user=ORDINARY, folder=Path("/"))
    empty.chmod(0o755)
    assert ended.code == 4
    assert "cannot be used (Permission denied)" in ended.line


@pytest.mark.skipif(MYSELF == ORDINARY, reason="needs root, to be two users")
def test_a_data_folder_of_another_user(data: Path) -> None:
    ended = bursar("psql", "--data", data, user=ORDINARY, folder=Path("/"))
    assert ended.code == 4
    assert "Traceback" not in ended.stderr
    assert ended.line


def test_a_folder_without_a_database_gets_none_by_a_look(empty: Path) -> None:
    place = empty / "tpyo"
    for command in (("psql",), ("staff", "token")):
        ended = bursar(*command, "--data", place)
        assert ended.code == 3
        assert ended.line == f"There is no database in {place}: `bursar serve` makes one there."
    found = json.loads(bursar("doctor", "--json", "--data", place).stdout)
    assert [part["name"] for part in found if not part["ok"]] == ["database"]
    assert not place.exists()


def test_a_damaged_secret_key_is_not_used(data: Path, empty: Path) -> None:
    (empty / "postgres").mkdir()
    (empty / "secret_key").write_text("\n")
    ended = bursar("staff", "token", "--data", empty)
    assert ended.code == 2
    assert f"The secret key in {empty / 'secret_key'} is damaged" in ended.line


# Answers


def test_migrate_answers_in_words_and_in_json(data: Path) -> None:
    words = bursar("migrate", "--data", data)
    assert (words.code, words.stderr) == (0, "")
    answer = bursar("migrate", "--data", data, "--json")
    assert words.stdout == f"The database is at {json.loads(answer.stdout)['revision']}.\n"


def test_demo_answers_in_words_and_in_json(data: Path) -> None:
    assert bursar("demo", "--data", data).stdout.startswith("Demo data is there: ")
    assert json.loads(bursar("demo", "--data", data, "--json").stdout)["settings"] > 0


def test_jobs_answer_in_json_and_say_what_is_not_found(data: Path) -> None:
    dead = bursar("jobs", "list", "--state", "dead", "--data", data, "--json")
    assert json.loads(dead.stdout) == {"jobs": []}
    missing = bursar("jobs", "retry", 7, "--data", data)
    assert (missing.code, missing.line) == (3, "There is no job 7 on the queue.")


def test_doctor_looks_at_everything(data: Path) -> None:
    ended = bursar("doctor", "--data", data, "--json")
    found = {part["name"]: part["ok"] for part in json.loads(ended.stdout)}
    looked_at = {"python", "settings", "secret key", "disk", "database", "migrations", "worker"}
    looked_at |= {"second factors", "webhook secrets"}
    assert found == dict.fromkeys(looked_at, True)
    assert ended.code == 0
    assert "ok   worker: " in bursar("doctor", "--data", data).stdout


def test_doctor_says_what_is_wrong_with_an_external_database(empty: Path) -> None:
    ended = bursar("doctor", "--data", empty, "--json", DATABASE_URL=NOWHERE)
    assert ended.code == 1
    [wrong] = [part for part in json.loads(ended.stdout) if not part["ok"]]
    assert wrong["detail"].startswith("PostgreSQL at 127.0.0.1:1 does not answer: check that")
    assert "hunter2" not in ended.stdout + ended.stderr


def test_openapi_needs_no_database() -> None:
    ended = bursar("openapi")
    assert (ended.code, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["info"]["version"] == package.__version__


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "bursar.cli", "openapi"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")


def test_psql_hands_on_arguments_answers_and_codes(data: Path) -> None:
    ended = bursar("psql", "--data", data, "--", "-Atc", "select current_user, 40 + 2")
    assert (ended.code, ended.stdout) == (0, "bursar|42\n")
    assert bursar("psql", "--data", data, "--", "-c", "selec").code == 1


def test_an_interrupt_ends_the_query_and_not_psql(data: Path) -> None:
    slow = ["-Atc", "select 'begun'", "-c", "select pg_sleep(60)"]
    run = Run("psql", "--data", data, "--", *slow)
    until(lambda: "begun" in (run.files / "stdout").read_text(), "the query")
    deadline = time.monotonic() + 20
    while "canceling statement" not in run.said and time.monotonic() < deadline:
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(0.1)
    ended = run.end()
    run.discard()
    assert "canceling statement due to user request" in ended.stderr
    assert ended.code == 1  # psql's own


# Destruction


def test_what_destroys_needs_yes_where_nobody_can_be_asked(data: Path) -> None:
    ended = bursar("jobs", "discard", 7, "--data", data)
    assert ended.code == 2
    assert "add --yes" in ended.line
    assert bursar("jobs", "discard", 7, "--data", data, "--yes").code == 3
    assert bursar("migrate", "--reset-passwords", "--data", data).code == 2


@pytest.mark.parametrize(("typed", "code"), [("\n", 1), ("y\n", 3)])
def test_what_destroys_asks_a_person(data: Path, typed: str, code: int) -> None:
    person, terminal = pty.openpty()
    run = Run("jobs", "discard", 7, "--data", data, stdin=terminal)
    run.until_said("Discard job 7 for good? [y/N]")
    os.write(person, typed.encode())
    ended = run.end()
    run.discard()
    os.close(person)
    os.close(terminal)
    assert ended.code == code
    assert ("Nothing was done." in ended.stderr) == (code == 1)


# Databases elsewhere; tests/core/test_migrate.py has those that need a server of their own


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_a_database_that_does_not_answer(command: str, empty: Path) -> None:
    given = {"DATABASE_URL": NOWHERE, "BURSAR_SECRET_KEY": SECRET, "BURSAR_PORT": "0"}
    ended = bursar(command, "--data", empty, **given)
    assert ended.code == 1
    assert ended.line.startswith("PostgreSQL at 127.0.0.1:1 does not answer: check that it runs")
    assert "hunter2" not in ended.stderr


def test_a_database_on_an_unknown_host(empty: Path) -> None:
    ended = bursar("migrate", "--data", empty, DATABASE_URL="postgresql://a:b@db.invalid/c")
    assert ended.code == 1
    assert ended.line.startswith("PostgreSQL at db.invalid:5432 does not answer")


# Ports, before anything is started


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["--host", "nowhere.invalid"], 2, "the host nowhere.invalid is unknown"),
        (["--host", "192.0.2.1"], 2, "192.0.2.1 is not an address of this machine"),
    ],
    ids=["unknown", "elsewhere"],
)
def test_a_host_that_cannot_be_listened_on(
    arguments: list[str], code: int, hint: str, empty: Path
) -> None:
    ended = bursar("serve", *arguments, "--port", 0, "--data", empty / "data")
    assert ended.code == code
    assert hint in ended.line
    assert not (empty / "data").exists()


def test_a_port_that_is_in_use(empty: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = bursar("serve", "--port", port, "--data", empty / "data")
    assert ended.code == 5
    assert ended.line.startswith(f"port {port} on 127.0.0.1 is in use")
    assert not (empty / "data").exists()


def test_a_port_that_is_forbidden(empty: Path) -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not lowest.exists() or int(lowest.read_text()) < 2:
        pytest.skip("every user may listen on every port here")
    ended = bursar("serve", "--port", 1, "--data", empty / "d", user=ORDINARY, folder=Path("/"))
    assert ended.code == 4
    assert ended.line.startswith("port 1 on 127.0.0.1 is not allowed for this user")


def test_the_command_line_of_psql_shows_no_password() -> None:
    shown = without_password(make_url(NOWHERE))
    assert shown == NOWHERE.replace(":hunter2", "")


def test_the_garbage_collector_works_again_once_all_is_loaded_or_cannot_be() -> None:
    with contextlib.suppress(ImportError), loading():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()  # what the other tests have made may go
