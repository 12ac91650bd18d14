"""Whatever breaks between an API and Bursar: each call that was let in is counted, and once."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.client import reporting
from bursar.keys import secret
from tests.accounts.people import rows
from tests.client.shops import calls, opened, plain_app, shop, until_told
from tests.conftest import Live
from tests.keys.keyholders import (
    Held,
    assert_sums_hold,
    key_of,
    number_of_events,
    service_key,
    set_terms,
)
from tests.programs import free_port, until
from tests.wallets.purses import move_in

PROGRAM = Path(__file__).with_name("shop_program.py")
ROOT = Path(__file__).parents[2]
THING = "/v1/things/7"
NO_RATES = {"quota_free": 0, "rate_per_second_free": 0, "rate_per_minute_free": 0}


async def test_bursar_goes_away_and_comes_back(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    service, carl = await service_key(live_db), await key_of(live_db)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    how: dict[str, Any] = {"report_seconds": 0.05}
    async with (
        opened(url, service, **how) as (strict, told_by),
        opened(url, service, when_unreachable="allow", **how) as (lenient, told_too),
    ):
        away = await strict.get(THING, headers=carl.headers)
        assert (away.status_code, away.json()["code"]) == (503, "keys.unreachable")
        assert away.headers["retry-after"] == "1"
        unchecked = await lenient.get(THING, headers=carl.headers)
        assert unchecked.json() == {"id": 7, "owner": None}
        assert (await lenient.get(THING)).status_code == 401
        async with live_db.serving(port=port):
            for api in (strict, lenient):
                answer = await api.get(THING, headers=carl.headers)
                assert answer.json()["owner"] is not None
        assert (await strict.get(THING, headers=carl.headers)).status_code == 503
        async with live_db.serving(port=port):
            assert (await strict.get(THING, headers=carl.headers)).status_code == 200
            await until_told(told_by, 2)
            await until_told(told_too, 1)
    assert await number_of_events(live_db) == 3
    assert {status for _, status, _ in await calls(live_db)} == {200}
    await assert_sums_hold(live_db)


async def test_what_could_not_be_told_is_told_later_and_once(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(reporting, "MOST_IN_BATCH", 3)
    await move_in(live_db)
    service, carl = await service_key(live_db), await key_of(live_db)
    port = free_port()
    async with opened(f"http://127.0.0.1:{port}", service, report_seconds=60) as (api, middleware):
        async with live_db.serving(port=port):
            for _ in range(2):
                assert (await api.get(THING, headers=carl.headers)).status_code == 200
        assert {status for _, status, _ in await calls(live_db)} == {None}
        async with live_db.serving(port=port):
            for _ in range(5):
                assert (await api.get(THING, headers=carl.headers)).status_code == 200
            await until_told(middleware, 6)
            await middleware.outcomes.close(5)
        assert (middleware.outcomes.told, middleware.outcomes.dropped) == (7, 0)
    assert [status for _, status, _ in await calls(live_db)] == [200] * 7
    await assert_sums_hold(live_db)


async def test_too_many_outcomes_are_dropped_and_said_to_be(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "bursar.client")
    await move_in(live_db)
    carl = await key_of(live_db)
    how: dict[str, Any] = {"most_unreported": 3, "report_seconds": 60}
    async with shop(live_db, **how) as (api, middleware):
        for _ in range(5):
            assert (await api.get(THING, headers=carl.headers)).status_code == 200
        assert middleware.outcomes.dropped == 2
    assert middleware.outcomes.told == 3
    assert caplog.text.count("outcomes of calls are dropped") == 1  # not once for each
    assert sorted(s or 0 for _, s, _ in await calls(live_db)) == [0, 0, 200, 200, 200]
    await assert_sums_hold(live_db)


async def test_too_many_at_once_are_refused_at_once(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    carl = await key_of(live_db)
    async with shop(live_db, most_at_once=1, most_waiting=4) as (api, _):
        answers = await asyncio.gather(*(api.get(THING, headers=carl.headers) for _ in range(20)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(503)) == (5, 15)
    assert await number_of_events(live_db) == 5


@pytest.mark.parametrize("said", ["{}", "null", "[]", '{"valid": true}', "<html>"])
async def test_an_answer_that_is_none_of_bursars_is_an_outage(live_db: Live, said: str) -> None:
    """Of a proxy in between, say. What could not be told is told when Bursar is back."""
    await move_in(live_db)
    service, carl = await service_key(live_db), await key_of(live_db)
    how: dict[str, Any] = {"report_seconds": 0.05}
    async with live_db.serving() as url, nonsense(said) as (elsewhere, asked):
        async with opened(elsewhere, service, **how) as (api, middleware):
            away = await api.get(THING, headers=carl.headers)
            assert (away.status_code, away.json()["code"]) == (503, "keys.unreachable")
            middleware._line.url = url
            assert (await api.get(THING, headers=carl.headers)).status_code == 200
            middleware._line.url = elsewhere
            async with asyncio.timeout(20):
                while not any(b"/usage/outcomes" in request for request in asked):
                    await asyncio.sleep(0.02)
            assert middleware.outcomes.told == 0
            middleware._line.url = url
            await until_told(middleware, 1)
        async with opened(elsewhere, service, when_unreachable="allow", **how) as (api, _):
            assert (await api.get(THING, headers=carl.headers)).json()["owner"] is None


async def test_a_request_that_arrives_too_slowly_is_an_outage() -> None:
    service, carl = Held("", secret.new()), Held("", secret.new())
    async with (
        nonsense("{}", "408 Request Timeout") as (url, _),
        opened(url, service, when_unreachable="allow") as (api, _),
    ):
        answer = await api.get(THING, headers=carl.headers)
    assert answer.json() == {"id": 7, "owner": None}


@asynccontextmanager
async def nonsense(said: str, status: str = "200 OK") -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that answers the same to everything, and what it was asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(65_536):
            asked.append(request)
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n\r\n"
            writer.write(head.encode() + said.encode())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    server.close()
    await server.wait_closed()


class Breaking:
    """A line that hands each request on, and cuts off the first answers, whole or in the body."""

    def __init__(self, port: int, cuts: int, *, in_body: bool) -> None:
        self.port, self.cuts, self.in_body, self.requests = port, cuts, in_body, 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out, back = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while request := await reader.read(65_536):
                self.requests += 1
                back.write(request)
                answer = await out.read(65_536)
                if self.requests <= self.cuts:
                    writer.write(answer[:-1] if self.in_body else b"")
                    break
                writer.write(answer)
        finally:
            for each in (back, writer):
                each.close()


@asynccontextmanager
async def breaking(url: str, cuts: int, *, in_body: bool) -> AsyncIterator[tuple[Breaking, str]]:
    line = Breaking(int(url.rpartition(":")[2]), cuts, in_body=in_body)
    server = await asyncio.start_server(line.handle, "127.0.0.1", 0)
    yield line, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("in_body", [False, True])
async def test_an_answer_that_was_lost_is_asked_for_again_and_counted_once(
    live_db: Live, in_body: bool
) -> None:
    await move_in(live_db)
    service, carl = await service_key(live_db), await key_of(live_db)
    async with live_db.serving() as bursar, breaking(bursar, 1, in_body=in_body) as (line, url):
        async with opened(url, service, report_seconds=0.01) as (api, middleware):
            answer = await api.get(THING, headers=carl.headers)
            assert (answer.status_code, answer.json()["left"]) == (200, 999)
            line.cuts = line.requests + 1  # the report's answer is lost, too
            await until_told(middleware, 1)
        assert line.requests == 4
    assert await calls(live_db) == [("/v1/things/{thing_id}", 200, None)]
    await assert_sums_hold(live_db)


async def test_a_second_try_has_the_time_that_the_first_one_left() -> None:
    """Beside it somebody waits in many short steps: a pause of the machine is one step of them."""
    closed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if closed.is_set():
            await reader.read()  # silent, until it is hung up
        else:
            await asyncio.sleep(0.7)
            closed.set()
        writer.close()

    async def wait_for_most_of_a_second() -> None:
        await closed.wait()
        for _ in range(70):
            await asyncio.sleep(0.01)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    service, carl = Held("", secret.new()), Held("", secret.new())
    async with server, opened(url, service, timeout_seconds=1) as (api, _):
        asking = asyncio.create_task(api.get(THING, headers=carl.headers))
        waiting = asyncio.create_task(wait_for_most_of_a_second())
        first, _ = await asyncio.wait({asking, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert (await asking).json()["code"] == "keys.unreachable"
        assert first == {asking}


class Program:
    """The shop as a process of its own."""

    def __init__(self, url: str, service: Held) -> None:
        order = json.dumps({"url": url, "service_key": service.key})
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), order],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def answers(self) -> bool:
        try:
            return httpx2.get(self.base + THING, timeout=60).status_code == 401
        except httpx2.TransportError:
            return False

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        assert b"Traceback" not in said, said.decode()


@asynccontextmanager
async def program(url: str, service: Held) -> AsyncIterator[Program]:
    running = await asyncio.to_thread(Program, url, service)
    try:
        await asyncio.to_thread(until, running.answers, "an answer of the shop")
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


async def test_what_waits_is_told_before_the_server_ends(live_db: Live) -> None:
    await move_in(live_db)
    service, carl = await service_key(live_db), await key_of(live_db)
    async with live_db.serving() as url, program(url, service) as running:
        async with httpx2.AsyncClient(
            base_url=running.base, headers=carl.headers, timeout=60
        ) as api:
            for _ in range(3):
                assert (await api.get(THING)).status_code == 200
        await asyncio.to_thread(running.end, signal.SIGTERM)
    assert [status for _, status, _ in await calls(live_db)] == [200] * 3
    await assert_sums_hold(live_db)


async def test_a_server_that_is_killed_has_counted_all_that_it_answered(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    service, carl = await service_key(live_db), await key_of(live_db)
    answered = 0
    async with live_db.serving() as url, program(url, service) as running:

        async def press(api: httpx2.AsyncClient) -> None:
            nonlocal answered
            while True:
                try:
                    answer = await api.get(THING)
                except httpx2.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                answered += 1
                if answered == 150:
                    running.process.kill()

        async with httpx2.AsyncClient(
            base_url=running.base, headers=carl.headers, timeout=60
        ) as api:
            await asyncio.gather(*(press(api) for _ in range(8)))
    counted = await number_of_events(live_db)
    assert answered <= counted <= answered + 8
    ids = await rows(live_db, "select from usage group by event_id having count(*) > 1")
    assert ids == []
    await assert_sums_hold(live_db)


async def test_an_application_without_a_lifespan_has_one_here(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    async with shop(live_db, plain_app, report_seconds=60) as (api, middleware):
        assert (await api.get(THING, headers=carl.headers)).status_code == 200
        heard: list[str] = []
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            heard.append(message["type"])

        await middleware({"type": "lifespan"}, receive, send)
        assert heard == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert middleware.outcomes.told == 1
    assert [status for _, status, _ in await calls(live_db)] == [200]
