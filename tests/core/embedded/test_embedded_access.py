"""Nobody signs in but the user who owns the data, and nothing of root is left in the server."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part")


def status_of(process):
    """Nothing of one that has ended meanwhile, as PostgreSQL's own workers do."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_every_process_has_dropped_all_privileges(home):
    home.serve()
    owner = home.cluster.stat()
    assert owner.st_uid != 0
    found = [status for each in home.processes if (status := status_of(each))]
    assert len(found) >= 5
    for status in found:
        assert set(status["Uid"]) == {str(owner.st_uid)}
        assert set(status["Gid"]) == {str(owner.st_gid)}
        assert set(status["Groups"]) <= {str(owner.st_gid)} or home.user.uid == os.geteuid() != 0
        for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status[kind][0], 16) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_server_inherits_no_file_of_its_supervisor(home):
    home.serve()
    for process in home.processes:
        folder = Path(f"/proc/{process.pid}/fd")
        opened = set()
        with suppress(FileNotFoundError):  # it may end while it is looked at, and close one
            for fd in folder.iterdir():
                with suppress(FileNotFoundError):
                    opened.add(str(fd.readlink()))
        assert str(home.data / "lock") not in opened
        assert not {name for name in opened if name.startswith("/tmp/bursar-run-")}


def test_server_ignores_the_environment(empty_home):
    traps = {"PGPORT": "1", "PGHOST": "nowhere", "PGDATA": "/nowhere", "PGOPTIONS": "-c x=y"}
    run = empty_home.run(PGUSER="nobody-at-all", **traps).ready()
    assert empty_home.sql(run, "SELECT 1") == "1"


def test_no_network(home):
    home.serve()
    for process in home.processes:
        with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            assert [c for c in process.net_connections() if c.family != socket.AF_UNIX] == []


def test_only_peer_rules(home):
    run = home.serve()
    rules = "SELECT type, database, user_name, auth_method, options, error FROM pg_hba_file_rules"
    assert home.sql(run, rules, "postgres") == "local|{all}|{all}|peer|{map=bursar}|"
    expected = {home.cluster.owner()} | ({"root"} if home.user.uid == 0 else set())
    maps = "SELECT sys_name, pg_username, error FROM pg_ident_file_mappings"
    assert set(home.sql(run, maps, "postgres").splitlines()) == {f"{n}|all|" for n in expected}


def test_loosened_rules_are_put_right_at_the_next_start(home):
    (home.cluster / "pg_hba.conf").write_text("local all all trust\n")
    with (home.cluster / "postgresql.conf").open("a") as file:
        file.write("listen_addresses = '*'\nfsync = off\nhba_file = '/tmp/evil'\n")
    run = home.serve()
    shown = "SELECT name, setting FROM pg_settings WHERE name IN ('listen_addresses', 'fsync')"
    assert home.sql(run, f"{shown} ORDER BY name") == "fsync|on\nlisten_addresses|"
    methods = "SELECT DISTINCT auth_method FROM pg_hba_file_rules"
    assert home.sql(run, methods, "postgres") == "peer"


def test_socket_folder_is_private_and_its_name_a_secret(home):
    names = set()
    for _ in range(2):
        run = home.serve()
        folder = Path(run.events["socket_folder"])
        status = folder.lstat()
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert status.st_uid == home.cluster.stat().st_uid
        names.add(folder)
        run.stop()
    assert len(names) == 2
    assert not any(folder.exists() for folder in names)


@needs_root
def test_another_user_cannot_sign_in(home, psql):
    run = home.serve()
    folder = Path(run.events["socket_folder"])
    stranger = type(home.user)("daemon", 1, 1)
    assert "Permission denied" in psql(stranger, str(folder), "SELECT 1").stderr
    folder.chmod(0o777)
    (folder / ".s.PGSQL.5432").chmod(0o777)
    for role in ("bursar", "postgres", "daemon"):
        outcome = psql(stranger, str(folder), "SELECT 1", role)
        assert "Peer authentication failed" in outcome.stderr
    folder.chmod(0o700)


@needs_root
def test_root_is_let_in_where_bursar_runs_as_root(home, psql):
    run = home.serve()
    root = type(home.user)("root", 0, 0)
    outcome = psql(root, run.events["socket_folder"], "SELECT 1")
    assert (outcome.returncode == 0) == (home.user.uid == 0)
    beside = type(home)(home.data, root, home.runs).run("attach").ready()
    assert beside.events["url"] == run.events["url"]
    assert psql(root, run.events["socket_folder"], "SELECT 1").returncode == 0
    beside.stop()


def users_of(processes):
    for each in processes:
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's own come and go
            yield each.username()


@needs_root
def test_root_runs_the_server_as_the_owner_of_the_folder(empty_home, ordinary):
    home = empty_home
    home.data.mkdir()
    os.chown(home.data, ordinary.uid, ordinary.gid)
    home.serve()
    assert set(users_of(home.processes)) == {ordinary.name}
    assert (home.data / "lock").owner() == ordinary.name


@needs_root
def test_stranger_gets_a_plain_refusal(home, ordinary):
    home.serve()
    stranger = type(home.user)("daemon", 1, 1)
    for command in ("serve", "attach"):
        beside = type(home)(home.data, stranger, home.runs)
        code, _, exit_code = beside.refused(command)
        assert (code, exit_code) == ("embedded.forbidden", 4)


@needs_root
def test_link_in_place_of_the_lock_is_not_followed(empty_home, ordinary):
    home = empty_home
    if home.user.uid != 0:
        pytest.skip("only root can be led to another user's file")
    home.data.mkdir()
    os.chown(home.data, ordinary.uid, ordinary.gid)
    victim = home.data.parent / "victim"
    victim.write_text("precious")
    (home.data / "lock").symlink_to(victim)
    assert home.refused()[2] == 1
    (home.data / "lock").unlink()
    (home.data / "lock").hardlink_to(victim)
    assert home.refused()[0] == "embedded.foreign"
    assert victim.read_text() == "precious"
    assert victim.owner() == "root"


def test_noted_socket_folder_that_is_something_else_by_now_is_left_alone(home):
    folder = home.data.parent / "bursar-0123456789abcdef"
    victim = home.data.parent / "victim"
    victim.mkdir()
    (victim / ".s.PGSQL.5432").write_text("precious")
    folder.symlink_to(victim)
    (home.data / "lock").write_text(f"1\n{folder}\n")
    home.serve().stop()
    assert (victim / ".s.PGSQL.5432").read_text() == "precious"
    assert folder.is_symlink()


def test_left_socket_folder_is_removed(home):
    run = home.serve()
    folder = Path(run.events["socket_folder"])
    server = psutil.Process(home.postmaster)
    run.kill()
    server.kill()
    second = home.serve()
    assert Path(second.events["socket_folder"]) != folder
    assert not folder.exists()
