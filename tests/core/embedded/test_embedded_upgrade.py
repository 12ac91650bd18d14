"""Data of an older PostgreSQL is carried over whole, and kept as it was."""

import os
import subprocess
from pathlib import Path

import pytest

OLD = next((p for v in (17, 16, 15) if (p := Path(f"/usr/lib/postgresql/{v}/bin")).exists()), None)
LOAD = "SELECT convert_from(lo_get(4242), 'UTF8')"
pytestmark = pytest.mark.skipif(OLD is None, reason="needs an older PostgreSQL to upgrade from")


def run_as(home, *arguments, **options):
    owner = home.cluster.stat() if home.cluster.exists() else home.data.stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    return subprocess.run(
        arguments, cwd="/", check=True, capture_output=True, **(identity | options)
    )


def make_old_data(home):
    version = OLD.parent.name
    home.data.mkdir()
    os.chown(home.data, home.user.uid, home.user.gid)
    home.cluster.mkdir(mode=0o700)
    uid = home.user.uid or 65534
    os.chown(home.cluster, uid, uid)
    run_as(home, OLD / "initdb", "-D", home.cluster, "-U", "postgres", "-E", "UTF8", "--locale=C")
    # No table: Debian's 15.20 marks each column with an option (pg_attver) that no other PostgreSQL
    # accepts, so that pg_upgrade and pg_dump fail on its tables. A large object is data as well.
    load = b"SELECT lo_from_bytea(4242, 'kept');\n"
    run_as(home, OLD / "postgres", "--single", "-D", home.cluster, "postgres", input=load)
    return version


def upgrade(home, programs):
    run = home.run("upgrade", str(programs))
    return run.end(), run.said


def test_upgrade(empty_home):
    home = empty_home
    version = make_old_data(home)
    code, detail, _ = home.refused()
    assert code == "embedded.version"
    assert f"{home.data} {OLD}" in detail
    assert "does not hold the programs" in upgrade(home, "/nowhere")[1]
    code, said = upgrade(home, OLD)
    assert code == 0, said
    run = home.serve()
    assert home.sql(run, LOAD, "postgres", "postgres") == "kept"
    assert home.sql(run, "SELECT current_user") == "bursar"
    run.stop()
    assert (home.data / f"postgres.{version}" / "PG_VERSION").exists()
    assert "nothing to upgrade" in upgrade(home, OLD)[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_upgrade_with_programs_that_postgres_cannot_reach(empty_home, hidden_wheel):
    home = empty_home
    make_old_data(home)
    code, said = upgrade(home, OLD)
    assert code == 0, said
    assert "copying PostgreSQL's programs" in said
    assert home.sql(home.serve(), LOAD, "postgres", "postgres") == "kept"


def test_upgrade_that_was_killed_between_its_two_renames_makes_no_empty_database(empty_home):
    home = empty_home
    if os.geteuid() == 0 == home.user.uid:
        pytest.skip("an upgrade takes long; the ordinary user's is enough")
    version = make_old_data(home)
    home.refused()
    home.cluster.rename(home.data / f"postgres.{version}")
    code, detail, _ = home.refused()
    assert code == "embedded.version"
    assert "was interrupted" in detail
    code, said = upgrade(home, OLD)
    assert code == 0, said
