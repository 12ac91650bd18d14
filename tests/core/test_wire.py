"""The wire: every failure a problem document, every answer with an id, nothing secret shown."""

import json
import logging
from contextlib import suppress
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter, Request
from fastapi.responses import Response
from hypothesis import given
from hypothesis import strategies as st

from bursar.app import create_app
from bursar.auth.guard import everyone
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.wire import Moment, Route, StaffWire, Wire, exact_json
from tests import notes
from tests.conftest import Live
from tests.world import CARL, OLIVIA

SETTINGS = "/api/v1/admin/settings"
NOTES = "/api/v1/notes"
FIELDS = {"type", "title", "status", "detail", "code", "request_id"}


async def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The document, after a look at everything that each one must have."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) >= FIELDS
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["type"] == f"/docs/errors#{code}"
    assert document["request_id"] == answer.headers["x-request-id"]
    return document


async def test_an_unknown_path(live_db: Live) -> None:
    async with live_db.api() as api:
        for path in (
            "/nope",
            "/api/v1/nope",
            "/api/nope",
            "/api/v1/admin/nope",
            "/docs/nope",
        ):
            await problem(await api.get(path), 404, "not_found")


async def test_a_wrong_method_says_which_are_right(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.patch(SETTINGS)
        await problem(answer, 405, "method_not_allowed")
        assert "PUT" in answer.headers["allow"]
        await problem(await api.request("BREW", "/health"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe{}",
        b'{"company_name": "\xc3"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999999999}',
        b'{"a": 1e99999999999999999999}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\ud800"}',
        b'{"a\\u0000": 1}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b'"text"',
    ],
)
async def test_a_body_that_is_no_good_json(live_db: Live, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    async with live_db.api(OLIVIA) as api:
        answer = await api.put(SETTINGS, content=body, headers=headers)
    await problem(answer, 422, "invalid_input")


async def test_who_may_not_ask_is_told_so_before_the_body_is_read(live_db: Live) -> None:
    headers = {"content-type": "application/json"}
    async with live_db.api() as nobody, live_db.api(CARL) as carl:
        broken = {"content": b"{{{", "headers": headers}
        await problem(await nobody.put(SETTINGS, **broken), 401, "auth.sign_in_needed")
        await problem(await carl.put(SETTINGS, **broken), 403, "auth.not_allowed")


async def test_a_flood_of_mistakes_is_answered_briefly(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.put(SETTINGS, json={f"k{n}": 1 for n in range(20_000)})
    assert len((await problem(answer, 422, "invalid_input"))["errors"]) == 100
    assert "20000 of 20000" in answer.json()["detail"]


async def test_a_body_of_another_type(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.put(SETTINGS, content=b"a=1", headers={"content-type": "text/plain"})
    await problem(answer, 422, "invalid_input")


async def test_each_bad_field_has_its_pointer(live_db: Live) -> None:
    await notes.install(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.post(NOTES, json={"body": 5, "rank": "high"})
    document = await problem(answer, 422, "invalid_input")
    assert {error["pointer"] for error in document["errors"]} == {"/body", "/rank"}
    assert "(2 fields are wrong)" in document["detail"]


@pytest.mark.parametrize("path", ["/notes/%00", "/notes/nine", "/notes/%F0%28%8C%BC"])
async def test_a_path_that_is_no_id(live_db: Live, path: str) -> None:
    await notes.install(live_db)
    async with live_db.api(CARL) as api:
        for place in (path, path.replace("notes", "hot-notes")):
            await problem(await api.get(f"/api/v1{place}"), 422, "invalid_input")


@pytest.mark.parametrize("body", ["\x00", "a\x00b"])
async def test_what_postgresql_cannot_store_is_the_callers_mistake(
    live_db: Live, body: str
) -> None:
    await notes.install(live_db)
    async with live_db.api(CARL) as api:
        await problem(await api.post(NOTES, json={"body": body}), 422, "invalid_input")
        await problem(
            await api.post(NOTES, json={"body": "x", "rank": 10**400}), 422, "invalid_input"
        )


async def test_a_defect_is_told_by_its_id_and_nothing_else(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter(route_class=Route, dependencies=[everyone])

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("password=hunter2 select * from users")

    live_db.app.include_router(router)
    async with live_db.api() as api:
        answer = await api.get("/broken")
        again = await api.get("/health")
    document = await problem(answer, 500, "internal")
    assert "hunter2" not in answer.text
    assert "select" not in answer.text
    assert again.status_code == 200
    [record] = [r for r in caplog.records if r.exc_info]
    assert record.fields["request_id"] == document["request_id"]  # type: ignore[attr-defined]


async def test_head_is_a_get_without_its_body(live_db: Live) -> None:
    async with live_db.serving() as base, aiohttp.ClientSession(base) as session:
        for path in ("/health", "/nope", SETTINGS, "/docs"):
            async with session.get(path) as got, session.head(path) as head:
                assert await got.read()
                assert (head.status, await head.read()) == (got.status, b"")
                assert head.headers["content-type"] == got.headers["content-type"]


async def test_a_request_keeps_the_id_it_brings(live_db: Live) -> None:
    async with live_db.api() as api:
        kept = await api.get("/health", headers={"X-Request-Id": "order-4711.a"})
        made = await api.get("/health", headers={"X-Request-Id": "bad id\t"})
        other = await api.get("/health")
    assert kept.headers["x-request-id"] == "order-4711.a"
    assert len(made.headers["x-request-id"]) == 24
    assert made.headers["x-request-id"] != other.headers["x-request-id"]


async def test_one_line_per_request_and_no_secret_in_it(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="bursar.request"):
        async with live_db.api(OLIVIA) as api:
            answer = await api.get(f"{SETTINGS}/company_name?token=secret-in-query")
    [record] = [r for r in caplog.records if r.name == "bursar.request"]
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["request_id"] == answer.headers["x-request-id"]
    assert (fields["method"], fields["status"]) == ("GET", 200)
    assert fields["path"] == f"{SETTINGS}/company_name"
    assert fields["actor"] == f"staff:{OLIVIA.id}"
    assert "secret-in-query" not in json.dumps(fields)
    assert "Bearer" not in json.dumps(fields)


async def test_every_answer_has_the_security_headers(live_db: Live) -> None:
    async with live_db.api() as api:
        for path in ("/health", "/nope", "/docs", "/docs/assets/swagger-ui.css", SETTINGS):
            headers = (await api.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "default-src 'self'" in headers["content-security-policy"]


async def test_the_unversioned_path_is_the_newest_version(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        versioned = await api.get("/api/v1/admin/settings/company_name")
        unversioned = await api.get("/api/admin/settings/company_name")
        health = await api.get("/api/health")
    assert versioned.json() == unversioned.json()
    assert health.json() == {"status": "healthy"}


ORIGIN = {"Origin": "https://shop.example"}


async def test_cors_is_off_until_an_origin_is_named(live_db: Live) -> None:
    ask = {**ORIGIN, "Access-Control-Request-Method": "GET"}
    async with live_db.api() as api:
        answers = [
            await api.options("/health", headers=ask),
            await api.get("/health", headers=ORIGIN),
        ]
        for answer in answers:
            assert "access-control-allow-origin" not in answer.headers


async def test_pages_of_a_named_origin_may_read_answers_and_refusals(live_db: Live) -> None:
    named = live_db.settings.model_copy(update={"cors_origins": ("https://shop.example",)})
    live = Live(live_db.url, named, create_app(named, live_db.url))
    ask = {
        **ORIGIN,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization, if-match, if-none-match, x-request-id",
    }
    async with live.api(OLIVIA) as api:
        preflight = await api.options(SETTINGS, headers=ask)
        read = await api.get(SETTINGS, headers=ORIGIN)
        large = await api.put(SETTINGS, content=b"x" * (named.max_body_bytes + 1), headers=ORIGIN)
        missing = await api.get("/nope", headers=ORIGIN)
        other = await api.get(SETTINGS, headers={"Origin": "https://elsewhere.example"})
    await live.database.close()
    assert preflight.status_code == 200
    for answer in (preflight, read, large, missing):
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in other.headers
    assert (large.status_code, missing.status_code) == (413, 404)


async def test_what_has_an_etag_may_be_kept_and_asked_about(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        one = await api.get(f"{SETTINGS}/company_name")
        many = await api.get(SETTINGS)
    assert one.headers["cache-control"] == "private, no-cache"
    assert many.headers["cache-control"] == "no-store"


async def test_a_name_that_only_looks_like_camel_case_is_left_alone(live_db: Live) -> None:
    router = APIRouter(dependencies=[everyone])

    @router.get("/query")
    async def query(request: Request) -> str:
        return request.url.query

    live_db.app.include_router(router)
    async with live_db.api() as api:
        for sent, seen in (
            ("perPage=2&searchFor=a", "per_page=2&search_for=a"),
            ("PayerID=A", "PayerID=A"),
            ("filter%5Bname%5D=x", "filter%5Bname%5D=x"),
            ("note=perPage", "note=perPage"),
        ):
            assert (await api.get(f"/query?{sent}")).json() == seen


async def test_metrics_need_their_token(live_db: Live) -> None:
    async with live_db.api() as api:
        await problem(await api.get("/metrics"), 404, "not_found")


async def test_the_documentation_works_without_a_network(live_db: Live) -> None:
    async with live_db.api() as api:
        page = await api.get("/docs")
        assets = [part.split('"')[0] for part in page.text.split('="/')[1:]]
        assert len(assets) == 3
        for asset in assets:
            assert (await api.get(f"/{asset}")).status_code == 200
        errors = await api.get("/docs/errors")
    assert "http" not in page.text.replace("<!doctype html>", "")
    for code in BursarError.registry:
        assert f'id="{code}"' in errors.text


def test_two_errors_cannot_share_a_code() -> None:
    with pytest.raises(TypeError, match="share the code not_found"):

        class Again(BursarError, status=404, code="not_found"):
            """Twice."""


class Merchant(Wire):
    """As customers see it."""

    join_date: Moment
    monthly_volume: Decimal


class StaffMerchant(Merchant, StaffWire):
    """As staff see it."""


def test_customers_read_snake_and_staff_read_camel_and_both_write_either() -> None:
    for given_body in (
        {"join_date": "2026-01-02T03:04:05+02:00", "monthly_volume": "1.5"},
        {"joinDate": "2026-01-02T03:04:05+02:00", "monthlyVolume": "1.5"},
    ):
        assert Merchant(**given_body).model_dump(mode="json") == {  # type: ignore[arg-type]
            "join_date": "2026-01-02T01:04:05.000Z",
            "monthly_volume": "1.5",
        }
        staff = StaffMerchant(**given_body).model_dump(mode="json")  # type: ignore[arg-type]
        assert set(staff) == {"joinDate", "monthlyVolume"}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_number_keeps_every_digit(number: Decimal) -> None:
    assert exact_json(f'{{"amount": {number:f}}}'.encode())["amount"] == number


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    with suppress(InvalidInput):
        exact_json(body)


def test_no_depth_breaks_the_reader() -> None:
    """Neither one that is read nor one that is refused, nor one that lies just in between."""
    for depth in range(700, 1001):
        with suppress(InvalidInput):
            exact_json(b"[" * depth + b'"\\u00e9"' + b"]" * depth)


async def test_a_body_is_read_exactly_through_the_whole_stack(live_db: Live) -> None:
    router = APIRouter(route_class=Route, dependencies=[everyone])

    @router.post("/exact")
    async def exact(request: Request) -> Response:
        return Response(repr((await request.json())["amount"]))

    live_db.app.include_router(router)
    async with live_db.api() as api:
        answer = await api.post(
            "/exact", content=b'{"amount": 12345678901234567890.123456789012345678}'
        )
    assert answer.text == "Decimal('12345678901234567890.123456789012345678')"
