"""An API behind the middleware: without a good key nobody gets further, and each call counts."""

import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI

from bursar.client import BursarKeys
from bursar.client.endpoints import endpoint_of
from bursar.keys import secret
from tests.accounts.people import rows
from tests.client.shops import calls, inner, opened, plain_app, shop, shop_app
from tests.conftest import Live
from tests.keys.keyholders import (
    KEYS,
    Held,
    assert_sums_hold,
    key_of,
    number_of_events,
    service_key,
)
from tests.wallets.purses import move_in
from tests.world import CARL

THING = "/v1/things/7"
NOWHERE = "http://127.0.0.1:1"

mounted = FastAPI()
mounted.mount("/inner", inner)


@mounted.get("/{rest:path}")
async def read_rest(rest: str) -> str:
    return rest


def told(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"]
    assert (body["status"], answer.headers["cache-control"]) == (answer.status_code, "no-store")
    return answer.status_code, body["code"]


async def test_a_call_is_let_in_counted_once_and_its_end_is_told(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:read"])
    async with shop(live_db) as (api, middleware):
        answer = await api.get(THING, headers={**carl.headers, "User-Agent": "a\x01b"})
        assert answer.json() == {
            "id": 7, "owner": str(CARL.id), "key": carl.id, "tier": "free",
            "scopes": ["usage:read"], "left": 999,
        }  # fmt: skip
        assert answer.headers["ratelimit-policy"] == '"second";q=10;w=1'
        assert answer.headers["ratelimit"].startswith('"second";r=')
        assert (await api.get(THING, headers={"X-API-Key": carl.key})).status_code == 200
        assert (await api.post(f"{THING}/breaks", headers=carl.headers)).status_code == 500
        assert (await api.get(f"{THING}/status/404", headers=carl.headers)).status_code == 404
        assert (await api.get("/nowhere/5", headers=carl.headers)).status_code == 404
    assert (middleware.outcomes.told, middleware.outcomes.dropped) == (5, 0)
    assert await calls(live_db) == [
        ("/v1/things/{thing_id}", 200, None),
        ("/v1/things/{thing_id}", 200, None),
        ("/v1/things/{thing_id}/breaks", 500, "ZeroDivisionError"),
        ("/v1/things/{thing_id}/status/{status}", 404, None),
        ("unmatched", 404, None),
    ]
    first, *_ = await rows(live_db, "select * from usage order by timestamp, id")
    assert (str(first["ip_address"]), first["user_agent"]) == ("127.0.0.1", "ab")
    assert await rows(live_db, "select from usage where response_time_ms is null") == []
    await assert_sums_hold(live_db)


async def test_what_is_no_key_is_refused_without_asking(live_db: Live) -> None:
    service = await service_key(live_db)
    async with opened(NOWHERE, service) as (api, _):
        nothing = await api.get(THING)
        assert told(nothing) == (401, "auth.sign_in_needed")
        assert nothing.headers["www-authenticate"] == "Bearer"
        for key in ("x", service.key[:-1], "bur_live_" + "A" * 36, "\u00e9"):
            raw = [(b"x-api-key", key.encode())]
            assert told(await api.get(THING, headers=raw)) == (401, "auth.bad_token")
        headers = {"Authorization": "Basic eDp5", "X-API-Key": service.key}
        assert told(await api.get(THING, headers=headers)) == (401, "auth.sign_in_needed")
        assert (await api.get(THING, headers={"X-Request-Id": "a" * 20})).json()[
            "request_id"
        ] == "a" * 20


async def test_why_a_key_is_not_good_for_a_call(live_db: Live) -> None:
    await move_in(live_db)
    keys: dict[str, Held] = {
        "good": await key_of(live_db, scopes=["usage:read"], allowed_addresses=["127.0.0.1"]),
        "elsewhere": await key_of(
            live_db, scopes=["usage:read"], allowed_addresses=["203.0.113.9"]
        ),
        "poor": await key_of(live_db),
        "slow": await key_of(live_db, scopes=["usage:read"], per_minute=1),
        "over": await key_of(live_db, scopes=["usage:read"], per_month=1),
        "revoked": await key_of(live_db, scopes=["usage:read"]),
        "made up": Held("", secret.new()),
    }
    async with shop(live_db, needs="usage:read") as (api, _):

        async def ask(name: str) -> Any:
            return await api.get(THING, headers=keys[name].headers)

        for name in ("good", "slow", "over", "revoked"):
            assert (await ask(name)).status_code == 200, name
        assert told(await ask("elsewhere")) == (403, "keys.forbidden_address")
        assert told(await ask("poor")) == (403, "auth.missing_scope")
        assert "usage:read" in (await ask("poor")).json()["detail"]
        slow = await ask("slow")
        assert told(slow) == (429, "usage.too_many_calls")
        assert 1 <= int(slow.headers["retry-after"]) <= 60
        assert slow.headers["ratelimit"].startswith('"key-minute";r=0;')
        over = await ask("over")
        assert told(over) == (429, "usage.quota_exceeded")
        assert int(over.headers["retry-after"]) > 0
        async with live_db.api(CARL) as own:
            assert (await own.delete(f"{KEYS}/{keys['revoked'].id}")).status_code == 200
        revoked = await ask("revoked")
        assert told(revoked) == (401, "auth.bad_token")
        assert "revoked" in revoked.json()["detail"]
        assert told(await ask("made up")) == (401, "auth.bad_token")
        await rows(live_db, "update users set status = 'suspended' where id = $1", CARL.id)
        assert "not active" in (await ask("good")).json()["detail"]
    assert await number_of_events(live_db) == 4


async def test_what_needs_no_key(live_db: Live) -> None:
    async with opened(NOWHERE, await service_key(live_db), exempt=["/health"]) as (api, _):
        assert (await api.get("/health")).json() is True
        preflight = {"Access-Control-Request-Method": "GET", "Origin": "https://a.example"}
        assert (await api.options(THING, headers=preflight)).status_code == 405
        assert told(await api.options(THING)) == (401, "auth.sign_in_needed")
    async with opened(NOWHERE, await service_key(live_db), exempt=lambda scope: True) as (api, _):
        assert (await api.get(THING)).json() == {"id": 7, "owner": None}


async def test_a_single_exempt_path_opens_no_part_of_it() -> None:
    async with opened(NOWHERE, Held("", secret.new()), exempt="/health") as (api, _):
        assert (await api.get("/health")).json() is True
        for path in ("/", "/h", "/he", "/health/", "/healthy"):
            assert told(await api.get(path)) == (401, "auth.sign_in_needed"), path


async def test_a_service_key_that_is_not_good_is_no_outage(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Or whoever allows calls without Bursar would allow them without a limit for ever."""
    await move_in(live_db)
    carl, wrong = await key_of(live_db), await service_key(live_db, "usage:ingest")
    async with shop(live_db, service=wrong, when_unreachable="allow") as (api, _):
        assert told(await api.get(THING, headers=carl.headers)) == (503, "keys.unreachable")
    assert "403" in caplog.text
    assert carl.key not in caplog.text
    for bad in (
        {"service_key": "bur_live_x"}, {"when_unreachable": "maybe"}, {"timeout_seconds": 0},
    ):  # fmt: skip
        facts: dict[str, Any] = {"url": NOWHERE, "service_key": wrong.key, **bad}
        with pytest.raises(ValueError, match=r"service key|when_unreachable|timeout_seconds"):
            BursarKeys(plain_app, **facts)


async def test_units_and_endpoint_of_ones_own(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    how = {"units": lambda scope: 7, "endpoint": lambda scope: "/mine"}
    async with shop(live_db, plain_app, **how) as (api, _):
        assert (await api.get(THING, headers=carl.headers)).text == "plain"
    [row] = await rows(live_db, "select units, endpoint, status_code from usage")
    assert tuple(row.values()) == (7, "/mine", 200)


@pytest.mark.parametrize(
    ("app", "path", "name"),
    [
        (shop_app, "/v1/things/7", "/v1/things/{thing_id}"),
        (shop_app, "/v1/things/7/breaks", "/v1/things/{thing_id}/breaks"),
        (shop_app, "/inner/parts/x", "/inner/parts/{part}"),
        (shop_app, "/inner/x/y/z", "unmatched"),
        (inner, "/parts/x", "/parts/{part}"),
        (mounted, "/inner/parts/x", "/inner/parts/{part}"),
        (mounted, "/inner/x/y/z", "unmatched"),  # no later route gets what is mounted elsewhere
        (mounted, "/outer/parts/x", "/{rest}"),
        (plain_app, "/v2/things/7f3a/parts/x", "/v2/things/{id}/parts/x"),
        (plain_app, "/" + "x" * 999, "/" + "x" * 299),
        (plain_app, "/a\x00\ud800", "/a?"),
    ],
)
def test_a_call_is_counted_as_its_route(app: Any, path: str, name: str) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
    assert endpoint_of(scope, app) == name
    assert endpoint_of({**scope, "path": f"/root{path}", "root_path": "/root"}, app) == name
    assert endpoint_of({**scope, "root_path": path[:2]}, app) == name  # half a segment is no root


class Socket:
    """A WebSocket as an application sees it: what it sends is kept."""

    def __init__(self, holder: Held | None, **scope: Any) -> None:
        headers = [(b"x-api-key", holder.key.encode())] if holder else []
        self.scope = {
            "type": "websocket", "path": "/socket", "headers": headers, "client": None, **scope
        }  # fmt: skip
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return {"type": "websocket.connect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    assert scope["bursar"].user_id == str(CARL.id)
    await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
    await send({"type": "websocket.close", "code": 1000})


async def test_a_websocket_is_asked_about_before_it_is_opened(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    async with shop(live_db, echo) as (_, middleware):
        good, bad, denied = (
            Socket(carl), Socket(None), Socket(None, extensions={"websocket.http.response": {}}),
        )  # fmt: skip
        for each in (good, bad, denied):
            await middleware(each.scope, each.receive, each.send)
        accept, _ = good.sent
        assert [name for name, _ in accept["headers"]] == [
            b"x-own", b"ratelimit-policy", b"ratelimit",
        ]  # fmt: skip
        assert bad.sent == [{"type": "websocket.close", "code": 1008}]
        assert [m["type"] for m in denied.sent] == [
            "websocket.http.response.start", "websocket.http.response.body",
        ]  # fmt: skip
        assert denied.sent[0]["status"] == 401
    [row] = await rows(live_db, "select endpoint, status_code, response_time_ms from usage")
    assert tuple(row.values()) == ("/socket", 101, None)


def test_importing_it_brings_nothing_of_the_server() -> None:
    heavy = {"fastapi", "starlette", "sqlalchemy", "pydantic", "asyncpg", "alembic", "uvicorn"}
    program = "import sys, bursar.client; print(*sys.modules, sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy & set(found) == set()
    ours = {name for name in found if name.startswith("bursar.")}
    assert {name for name in ours if not name.startswith("bursar.client")} == {
        "bursar.core", "bursar.core.addresses", "bursar.core.api_keys", "bursar.core.rates",
        "bursar.keys", "bursar.keys.secret",
    }  # fmt: skip


async def test_who_has_to_pay_first_is_told_so(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    await rows(live_db, "insert into usage_stops (user_id) values ($1)", CARL.id)
    async with shop(live_db) as (api, _):
        answer = await api.get(THING, headers=carl.headers)
    assert told(answer) == (402, "usage.payment_required")
