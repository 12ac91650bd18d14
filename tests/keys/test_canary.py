"""Keys are nowhere but with their holders: not in a row, a log, an error, an answer or a metric."""

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bursar.audit import redaction
from bursar.core import failures, logs
from bursar.keys import secret
from tests import canaries, databases
from tests.accounts.people import log_in, rows, run_jobs, sign_up
from tests.conftest import Live
from tests.keys.keyholders import API, KEYS, USAGE, ask, key_of, service_key
from tests.metering.test_cloud_events import BINARY, CLOUD, ONE, send, send_binary
from tests.wallets.purses import fund, move_in
from tests.world import CARL, OLIVIA


async def test_keys_are_found_nowhere(live_db: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["usage:write"])
    stranger = secret.new()
    said: list[str] = []
    async with live_db.api() as api:
        for key in (carl.key, stranger, carl.key[:-1]):
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
                for path in ("usage", "usage/quota", "users/me", "api-keys", "nowhere"):
                    answer = await api.get(f"{API}/{path}", headers=headers)
                    said.append(answer.text + str(answer.headers))
            said.append((await ask(live_db, shop, key, units=-1)).text)
            said.append((await ask(live_db, shop, key, event_id="e")).text)
            posted = await api.post(USAGE, json={"endpoint": "/"}, headers=carl.headers)
            said.append(posted.text)
            leaked = [{"token": key, "type": "x"}]
            said.append((await api.post(f"{KEYS}/leaks", json=leaked)).text)
    async with live_db.api(CARL, **{"Idempotency-Key": "once"}) as api:
        made = (await api.post(KEYS, json={"name": "x"})).json()["key"]
        said.append((await api.get(KEYS)).text)
    async with live_db.api(OLIVIA) as api:
        said.append((await api.get(f"{API}/admin/api-keys")).text)
        said.append((await api.get(f"{API}/admin/audit-logs")).text)
    with suppress(Exception):
        await rows(live_db, "insert into api_keys select * from api_keys")
    await run_jobs(live_db)
    text = caplog.text + "".join(said)
    for key in (carl.key, stranger, shop.key, made):
        assert key[secret.SHOWN : -4] not in text  # what is never shown of it
    assert not canaries.in_text(text)
    assert await kept(live_db) == []


async def test_a_key_in_what_services_say_is_not_kept(live_db: Live) -> None:
    """What is said of a call counts all the same; what would be known by it is refused."""
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    shop, carl = await service_key(live_db, "wallets:charge", "usage:ingest"), await key_of(live_db)
    call = {"user_id": str(CARL.id), "endpoint": f"/{carl.key}", "user_agent": carl.key}
    call |= {"location": carl.key, "state": carl.key, "error_message": f"bad key {carl.key}"}
    charge = {"userId": str(CARL.id), "amount": "0.1", "key": "k"}
    async with live_db.api(**shop.headers) as api:
        told = await api.post(USAGE, json=call)
        named = await api.post(USAGE, json={**call, "event_id": carl.key})
        bulk = await api.post(f"{API}/admin/wallets/charges/bulk", json={"charges": [
            charge, {**charge, "key": carl.key}, {**charge, "metadata": {"of": [carl.key]}},
        ]})  # fmt: skip
    assert (told.status_code, named.status_code) == (201, 422)
    statuses = [each["status"] for each in bulk.json()["outcomes"]]
    assert statuses == ["charged", "refused", "refused"]
    assert not canaries.in_text(told.text + named.text + bulk.text)
    [row] = await rows(live_db, "select endpoint, error_message from usage")
    assert tuple(row) == ("/bur_live_[hidden]", "bad key bur_live_[hidden]")
    assert await kept(live_db) == []


async def test_a_key_in_what_names_a_cloud_event_is_not_kept(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Its source and id are kept as one; each is refused, in whatever form the event comes."""
    caplog.set_level(logging.DEBUG, "bursar")
    await move_in(live_db)
    shop, carl, told = await service_key(live_db), await key_of(live_db), list[dict[str, Any]]()
    for said in (carl.key, carl.key.upper(), f"/gateway?key={carl.key}", f"urn:{carl.key[:-12]}"):
        for name in ("source", "id"):
            sent = {**CLOUD, name: said}
            told += await send(live_db, shop, sent, ONE)
            told += (await send(live_db, shop, [CLOUD, sent]))[1:]
            for encoded in (said, said.replace("_", "%5F"), f'"{said}"'):
                headers = {**BINARY, f"ce-{name}": encoded}
                told.append(await send_binary(live_db, shop, CLOUD["data"], headers))
                assert [each["pointer"] for each in told[-1]["errors"]] == [f"/{name}"]
    assert {(each["status"], each["code"]) for each in told} == {("refused", "invalid_input")}
    assert all("This has an API key in it" in each["detail"] for each in told)
    async with live_db.api(OLIVIA) as staff:
        exported = await staff.get(f"{API}/admin/usage/export")
        assert exported.status_code == 200
    assert not canaries.in_text(caplog.text + str(told) + exported.text)
    assert await kept(live_db) == []


async def test_a_key_that_somebody_writes_elsewhere_is_not_kept(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Into a path, a query, a request id, a user agent, a name: as people do by mistake."""
    caplog.set_level(logging.DEBUG, "bursar")  # the client's own log is the caller's
    await move_in(live_db)
    carl, said = await key_of(live_db), list[str]()
    for key in (carl.key, secret.new(), carl.key.upper(), carl.key[:-12]):
        async with live_db.api(CARL, **{"X-Request-Id": key, "User-Agent": key}) as api:
            answers = [
                await api.delete(f"{KEYS}/{key}"),
                await api.get(f"{API}/{key}"),
                await api.get(f"{API}/usage/{key.replace('_', '%5F')}"),
                await api.get("/health", headers={"X-Request-Id": f"the.{key}"[:64]}),
                *[await api.get(f"{KEYS}?{name}={key}") for name in ("search", "sort", "cursor")],
                *[await api.post(KEYS, json=body) for body in bodies_with(key)],
            ]
            email = f"user{len(said)}@example.com"
            await sign_up(api, email)
            session = await log_in(api, email)
            answers.append(await api.get(f"{API}/auth/sessions", headers=session.headers))
        said += [answer.text + str(answer.headers) for answer in answers]
        assert [answer.status_code for answer in answers[-5:]] == [422] * 4 + [200]
        assert answers[-1].json()["sessions"][0]["user_agent"] == "bur_live_[hidden]"
    assert not canaries.in_text(caplog.text + "".join(said))
    assert await kept(live_db) == []


async def kept(live: Live) -> list[str]:
    async with databases.connected(databases.as_superuser(live.url)) as superuser:
        return await canaries.in_tables(superuser)


def bodies_with(key: str) -> list[dict[str, Any]]:
    named: dict[str, Any] = {"name": "x"}
    wrong = {"scopes": [key]}, {"allowed_addresses": [key]}, {"expires_at": key}
    return [{"name": f"it is {key}"}, *({**named, **each} for each in wrong)]


async def test_the_name_of_a_key_is_none(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    async with live_db.api(CARL) as api:
        named = {"name": f"mine: {carl.key}"}
        for answer in (
            await api.post(KEYS, json=named),
            await api.put(f"{KEYS}/{carl.id}", json=named),
        ):
            assert answer.status_code == 422
            assert "This has an API key in it" in answer.json()["errors"][0]["detail"]
        masked = await api.put(f"{KEYS}/{carl.id}", json={"name": f"mine: {carl.key[:13]}…"})
        assert masked.status_code == 200


@pytest.mark.parametrize("form", [logs.JsonLines(), logs.TextLines()], ids=["json", "text"])
def test_a_line_of_the_log_shows_no_key(form: logging.Formatter) -> None:
    """Whatever was written into it: this is behind all who log."""
    key = secret.new()
    try:
        raise ValueError(key)
    except ValueError:
        raised = sys.exc_info()
    fields = {"path": f"/{key}", key: 1}
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it is %s", (key,), raised)
    record.fields = fields
    line = form.format(record)
    assert not canaries.in_text(line)
    assert line.count("bur_live_[hidden]") >= 4


async def test_a_key_that_is_kept_somewhere_is_found(live_db: Live, tmp_path: Path) -> None:
    """As it is searched for in what each test leaves (tests/conftest.py, tests/databases.py)."""
    key = secret.new()
    await rows(live_db, "create table kept (month int, value text) partition by list (month)")
    await rows(live_db, "create table kept_1 partition of kept for values in (1)")
    for value in (key, key.lower(), key[:-10], f"({key}", f'{{"a": "{key}"}}', f"{key}" * 9_999):
        await rows(live_db, "insert into kept values (1, $1)", value)
        assert await kept(live_db) == ["kept_1"]
        await rows(live_db, "delete from kept")
    await rows(live_db, "create table raw as select $1::bytea as value", key.encode())
    assert await kept(live_db) == ["raw"]
    await rows(live_db, "drop table kept, raw")
    assert canaries.in_files(tmp_path) == []
    (tmp_path / "log").write_bytes(b"\xff" + key.encode())
    assert canaries.in_files(tmp_path) == [str(tmp_path / "log")]


PRINTS = """
from bursar.keys import secret
def test_prints(): print(secret.new())
def test_prints_masked(): print(secret.new()[: secret.SHOWN])
"""
ROOT = Path(__file__).parents[2]


def test_a_test_with_a_key_in_its_output_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_makereport")
    (tmp_path / "test_it.py").write_text(PRINTS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 passed" in run.stdout
    assert "API keys stand in: Captured stdout call" in run.stdout


def test_a_key_in_a_row_of_the_audit_trail_is_left_out() -> None:
    key = secret.new()
    assert redaction.redact({"note": f"he wrote {key}"}) == {"note": redaction.REDACTED}


def test_a_key_in_what_is_kept_of_an_error_is_left_out() -> None:
    said = failures.message(ValueError(f"{secret.new()} is not good"))
    assert said == "ValueError: bur_live_[hidden] is not good"
