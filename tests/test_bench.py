"""What bench/ says is what it measured, and it does not praise what was not measured well."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread
from typing import Any

import asyncpg
import pytest
from bench import __main__ as command
from bench import (
    books,
    charges,
    charges_http,
    crowded,
    harness,
    identify,
    knock,
    load,
    payments_summary,
    procedure,
)
from bench.books import Charges
from bench.harness import Claim, Contender, Report
from bench.load import NEW_KEY, Ask, Job, WrongAnswer
from bench.programs import ROOT, BenchFailed, Program
from sqlalchemy.engine import make_url

from bursar.core.database import WORKER
from bursar.wallets import ledger, service
from bursar.wallets.verification import verify
from tests import databases
from tests.audit.trail import superuser
from tests.conftest import Live


def compare(own: list[float], peer: list[float], *claims: Claim) -> Report:
    """A report over rounds that are known."""
    contenders = [
        Contender("own", "ours", iter(own).__next__),
        Contender("peer", "theirs", iter(peer).__next__),
    ]
    return harness.run("entry", "A title", "units", contenders, claims, len(own))


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return 1.0

    contenders = [Contender(name, "", lambda name=name: turn(name)) for name in "ABC"]
    harness.run("entry", "A title", "units", contenders, [], 3)
    assert "".join(order) == "ABCABCABC"


def test_a_ratio_is_that_of_the_medians_and_its_rounds_are_pairs() -> None:
    report = compare([10, 30, 20], [10, 10, 40], Claim("own", 1.5, at_least=True, peer="peer"))
    [verdict] = report.verdicts
    assert [figure.median for figure in report.figures] == [20, 10]
    assert verdict.value == 2
    assert verdict.rounds == (1, 3, 0.5)
    assert verdict.reached


@pytest.mark.parametrize(
    ("own", "warned"),
    [
        ([10, 11, 10, 11, 10], None),
        ([10, 10, 50, 10, 10], None),  # one bad round of five is not in the median either
        ([10, 14, 11, 9, 15], "little"),
        ([10, 10], "do not tell"),
    ],
)
def test_a_ratio_without_meaning_is_called_so(own: list[float], warned: str | None) -> None:
    claim = Claim("own", 0.5, at_least=True, peer="peer")
    report = compare(own, [10.0] * len(own), claim)
    warning = report.verdicts[0].warning
    assert warning is None if warned is None else warned in str(warning)
    assert ("WARNING" in harness.as_text(report)) is (warned is not None)


@pytest.mark.parametrize(
    ("claim", "reached"),
    [
        (Claim("own", 10, at_least=True), True),
        (Claim("own", 10, at_least=False), True),
        (Claim("own", 11, at_least=True), False),
        (Claim("own", 9, at_least=False), False),
        (Claim("own", 2.5, at_least=True, peer="peer"), False),
        (Claim("own", 2.5, at_least=False, peer="peer"), True),
    ],
)
def test_a_target_is_reached_or_not(claim: Claim, reached: bool) -> None:
    report = compare([10, 10, 10], [5, 5, 5], claim)
    assert report.reached is reached
    assert ("NOT REACHED" in harness.as_text(report)) is not reached
    assert command.exit_code([report], strict=True) == int(not reached)
    assert command.exit_code([report], strict=False) == 0


def test_rounds_that_disagree_about_a_target_are_mentioned() -> None:
    doubtful = compare([9, 11, 12], [1, 1, 1], Claim("own", 10, at_least=True))
    assert doubtful.reached
    assert doubtful.verdicts[0].doubt == "some rounds say otherwise"
    assert compare([11, 12, 13], [1] * 3, Claim("own", 10, at_least=True)).verdicts[0].doubt is None


class Sayings(BaseHTTPRequestHandler):
    """Answers with what the path says: /status/body."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body together

    def do_GET(self) -> None:
        _, status, body = self.path.split("/")
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        return


@contextmanager
def sayings() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Sayings) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_generator_counts_right_answers() -> None:
    with sayings() as port:
        asks = [Ask("/200/good", "good"), Ask("/200/fine", "fine")]
        outcome = load.run(Job(port, asks, clients=4, seconds=5, requests=200))
    assert 200 <= outcome.requests < 204
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.max_ms
    assert outcome.per_second == outcome.requests / outcome.seconds


@pytest.mark.parametrize("path", ["/500/good", "/200/bad", "/404/bad"])
def test_the_generator_refuses_wrong_answers(path: str) -> None:
    with sayings() as port, pytest.raises(WrongAnswer, match=path):
        load.run(Job(port, [Ask(path, "good")], clients=2, seconds=5))


def test_a_key_is_sent_once_and_the_length_is_that_of_what_is_sent() -> None:
    ask = Ask("/charges", "ok", {"Idempotency-Key": NEW_KEY}, "POST", f'["{NEW_KEY}","{NEW_KEY}"]')
    sent = [load.with_keys(ask.wire()).decode() for _ in range(2)]
    keys: set[str] = set()
    for head, _, body in (each.partition("\r\n\r\n") for each in sent):
        assert head.startswith("POST /charges HTTP/1.1\r\n")
        assert f"Content-Length: {len(body)}" in head
        keys |= {*json.loads(body), head.partition("Idempotency-Key: ")[2][:36]}
    assert len(keys) == 6


def test_an_entry_that_does_not_exist_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["speed"])
    assert ended.value.code == 2
    assert "read, start, memory" in capsys.readouterr().err


@pytest.mark.parametrize("entry", command.ENTRIES)
def test_every_entry_can_be_run(entry: str) -> None:
    assert callable(importlib.import_module(f"bench.{entry}").run)


def test_each_sign_in_is_another_person_at_another_address() -> None:
    wires = [knock.SignIn(knock.LOGIN, "", number=number).wire() for number in (0, 300)]
    heads, bodies = zip(*(wire.decode().split("\r\n\r\n") for wire in wires), strict=True)
    assert [json.loads(body)["email"] for body in bodies] == [
        "customer000000@example.com",
        "customer000300@example.com",
    ]
    assert "X-Forwarded-For: 10.0.0.0" in heads[0]
    assert "X-Forwarded-For: 10.0.1.44" in heads[1]
    assert f"Content-Length: {len(bodies[0])}" in heads[0]


def test_the_crowd_is_uneven_and_the_same_each_time() -> None:
    people = list(crowded.crowd(2_000))
    assert len({person.email for person in people}) == 2_000
    assert all(person.email.isascii() and " " not in person.email for person in people)
    assert 400 < sum(person.email.endswith("@gmail.com") for person in people) < 600
    assert [p[:8] for p in islice(crowded.crowd(50), 50)] == [p[:8] for p in people[:50]]


def test_what_is_added_is_the_difference_of_each_pair() -> None:
    more, less = (
        harness.Figure(name, "", rounds) for name, rounds in (("a", (3, 5)), ("b", (1, 2)))
    )
    added = identify.difference("added", more, less)
    assert added.rounds == (2, 3)
    assert not identify.verdict(added).reached


async def test_books_that_are_written_by_sets_are_as_if_posted(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "SEVERAL", 0)
    server = make_url(os.environ[databases.ADMIN])
    url = server.set(database=make_url(live_db.url).database).render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    try:
        indexes = await connection.fetch(ALL_INDEXES)
        await books.make(url, Charges(hot=30, crowd=200, wallets=50))
        assert await connection.fetch(ALL_INDEXES) == indexes
        hot = await connection.fetchval("select id from users where email like 'hot-%'")
        legs = (ledger.transfer(ledger.user(hot), "revenue", 1, kind="charge"),)
        async with live_db.database.transaction(WORKER) as db:
            done = await service.post(db, ledger.Request("test", "one more", legs))
        report = await verify(connection)
    finally:
        await connection.close()
    assert report.ok, report.findings
    assert report.transfers == 51 + 30 + 200 + 1
    assert done.legs[0].balance == books.FUNDS - 30 * books.AMOUNT - 1


ALL_INDEXES = """
  select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid), indisunique,
    (select contype from pg_constraint where conindid = indexrelid and contype in ('u', 'p'))
  from pg_index where indrelid in ('operations'::regclass, 'transfers'::regclass) order by name
"""


@pytest.mark.parametrize(("written", "right"), [(9, False), (10, True), (14, True), (15, False)])
def test_charges_that_are_not_in_the_ledger_are_not_praised(written: int, right: bool) -> None:
    charging = charges_http.Charging("", Program([], folder=ROOT), [], 4, answered=10, unheard=4)
    if right:
        charges_http.compare(written, [charging])
    else:
        with pytest.raises(BenchFailed, match="10 charges were answered"):
            charges_http.compare(written, [charging])


def test_a_target_beyond_the_floor_is_told() -> None:
    pairs = {charges.FLOOR_HOT: [24.0, 30.0, 36.0], charges.DIRECT_HOT: [2.0, 3.0, 4.0]}
    pairs |= {charges.FLOOR_MANY: [40.0] * 3, charges.DIRECT_MANY: [20.0] * 3}
    pairs |= {charges.CALLED_HOT: [15.0] * 3, charges.CALLED_MANY: [30.0] * 3}
    contenders = [Contender(name, "", iter(rates).__next__) for name, rates in pairs.items()]
    hot, called, many, called_many = charges.rooms(
        harness.run("charges", "", "", contenders, (), 3)
    )
    assert hot.startswith(
        "floor, one wallet: 10.00 times pgbench, one wallet (rounds 9.00 - 12.00)"
    )
    assert called.startswith("till on the floor, one wallet: 5.00 times pgbench, one wallet")
    assert many.startswith("floor, 10,000 wallets: 2.00 times pgbench, 10,000 wallets")
    assert called_many.startswith("till on the floor, 10,000 wallets: 1.50 times pgbench")


def test_what_pgbench_says_is_read() -> None:
    said = (
        "number of failed transactions: 0 (0.000%)\ntps = 295.5 (without initial connection time)"
    )
    assert procedure.charges_per_second(said) == 295.5
    with pytest.raises(BenchFailed):
        procedure.charges_per_second(said.replace(": 0", ": 3"))


def test_the_read_is_measured_beside_its_peers() -> None:
    """Real programs for one short round; whether a target is reached is not for a busy machine."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "read", "--quick", "--seconds", "0.5", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)
    assert [figure["name"] for figure in report["figures"]] == [
        "bursar",
        "hand-written",
        "usual handler",
    ]
    assert all(figure["median"] > 0 for figure in report["figures"])
    assert all(target["value"] > 0 for target in report["targets"])


def test_the_summary_is_measured_over_as_many_payments_as_were_written() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "payments_summary"),
            *("--quick", "--seconds", "0.5", "--rounds", "1", "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)
    assert [figure["name"] for figure in report["figures"]] == ["payment_summary", "counted anew"]
    assert "20,000 payments" in report["unit"]
    assert all(figure["median"] > 0 for figure in report["figures"])


async def test_totals_that_are_not_what_is_there_are_not_measured(live_db: Live) -> None:
    async with superuser(live_db.url) as connection:
        await connection.execute(payments_summary.PREPARE)
        await connection.execute("insert into assets (code, scale) values ('EUR', 2)")
        await connection.execute(payments_summary.ROWS, 1, 70)
        await payments_summary.check(connection, 70)
        with pytest.raises(BenchFailed, match="not as many"):
            await payments_summary.check(connection, 71)
        await connection.execute("update payment_totals set amount = amount + 1 where shard >= 0")
        with pytest.raises(BenchFailed, match="not what a count"):
            await payments_summary.check(connection, 70)
