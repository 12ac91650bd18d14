"""A data folder in which nobody works yet: the link that a start prints, `bursar staff create`."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts.colleagues import DOOR
from tests.accounts.people import PASSWORD
from tests.accounts.test_first_run import PAGE, create, form, post, printed
from tests.programs import bursar, new_folder, remove, serving


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data folder with a finished, stopped database in which nobody works."""
    folder = new_folder()
    assert bursar("migrate", "--data", folder / "data").code == 0
    yield folder / "data"
    remove(folder)


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    folder = new_folder()
    subprocess.run(["cp", "-a", made, folder / "data"], check=True)
    yield folder / "data"
    remove(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_start_prints_a_link_and_later_ones_do_not(home: Path, workers: int) -> None:
    with serving("--data", home, "--workers", workers) as server:
        first = printed(server)
        assert server.stop().code == 0
    with serving("--data", home, "--workers", workers) as server:
        token = printed(server)
        assert token != first
        assert server.get(f"{PAGE}?token={first}").status_code == 404
        assert server.get(f"{PAGE}?token={token}").status_code == 200
        assert post(server, PAGE, data=form(token)).status_code == 303
        body = {"email": "olivia@example.com", "password": PASSWORD}
        assert post(server, f"{DOOR}/login", json=body).status_code == 200
        ended = server.stop()
        assert ended.stderr.count(token) == 1  # where it was printed, and in no line of the log
        assert first not in ended.stderr
    with serving("--data", home, "--workers", workers) as server:
        assert "first-run" not in server.stop().stderr


def test_the_command_works_beside_the_server_and_voids_its_link(home: Path) -> None:
    with serving("--data", home) as server:
        token = printed(server)
        made = create("Olivia@example.com", "--name", "Olivia", "--data", home)
        assert (made.code, made.stdout) == (0, "olivia@example.com may sign in as owner.\n")
        assert server.get(f"{PAGE}?token={token}").status_code == 404
        body = {"email": "olivia@example.com", "password": PASSWORD}
        assert post(server, f"{DOOR}/login", json=body).status_code == 200
        taken = create("OLIVIA@example.com", "--data", home)
        assert taken.code == 5
        assert taken.line == "Another member of staff has this e-mail address."


def test_the_command_without_a_server(home: Path) -> None:
    assert bursar("staff", "list", "--json", "--data", home).stdout == '{\n  "staff": []\n}\n'
    assert create("olivia@example.com", "--data", home).code == 0
    listed = bursar("staff", "list", "--data", home).stdout.splitlines()
    assert len(listed) == 1
    assert "olivia@example.com\towner\tactive\tpassword only\tnever signed in" in listed[0]
    [member] = json.loads(bursar("staff", "list", "--json", "--data", home).stdout)["staff"]
    assert (member["email"], member["second_factor"]) == ("olivia@example.com", False)
    assert set(member) == {"id", "email", "name", "role", "status", "second_factor", "last_login"}
