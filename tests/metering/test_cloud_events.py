"""CloudEvents are calls like others; one that is none is refused alone, and told where."""

from datetime import UTC, datetime
from typing import Any

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import USAGE, Held, service_key
from tests.metering.test_ingest import EVENTS, counted
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA

CLOUD = {
    "specversion": "1.0", "id": "7", "source": "/gateway", "type": "call", "subject": str(CARL.id),
    "data": {"endpoint": "/v1/things", "status_code": 200},
}  # fmt: skip
ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


async def send(live: Live, holder: Held, body: Any, kind: str = BATCH) -> list[dict[str, Any]]:
    async with live.api(**holder.headers) as api:
        answer = await api.post(EVENTS, json=body, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    told: list[dict[str, Any]] = answer.json()["outcomes"]
    return told


async def test_one_or_a_batch(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    time = datetime.now(UTC).replace(microsecond=0)
    one = await send(live_db, shop, {**CLOUD, "time": time.isoformat()}, f"{ONE}; charset=utf-8")
    batch = [CLOUD, {**CLOUD, "id": "8"}, {**CLOUD, "source": "/b"}, {**CLOUD, "data": None}, 7]
    batch.append({**CLOUD, "source": "/gateway 8", "id": "9"})  # else it could be "8 9" of it
    many = await send(live_db, shop, batch)
    assert [each["status"] for each in one] == ["counted"]
    assert [each["status"] for each in many] == [
        "refused", "counted", "counted", "refused", "refused", "refused",
    ]  # fmt: skip
    assert many[0]["code"] == "usage.event_conflict"  # now it has no time
    found = await rows(live_db, "select event_id, timestamp from usage order by recorded_at, 1")
    assert [row["event_id"] for row in found] == ["/gateway 7", "/b 7", "/gateway 8"]
    assert found[0]["timestamp"] == time


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"specversion": "0.3"}, "/specversion", "'1.0'"),
    ({"specversion": 1.0}, "/specversion", "'1.0'"),
    ({"specversion": None}, "/specversion", "'1.0'"),
    ({"type": ""}, "/type", "at least 1 character"), ({"type": 7}, "/type", "string"),
    ({"type": None}, "/type", "string"),
    ({"id": ""}, "/id", "at least 1 character"), ({"id": 7}, "/id", "string"),
    ({"id": "x" * 292}, "/id", "together"), ({"id": "x\n"}, "/id", "pattern"),
    ({"id": "\0"}, "/id", "cannot be stored"),
    ({"source": "x" * 301}, "/source", "at most 300"),
    ({"source": ""}, "/source", "at least 1 character"), ({"source": 7}, "/source", "string"),
    ({"source": "/gateway 8"}, "/source", "URI reference"),
    ({"source": "/gateway\t8"}, "/source", "URI reference"),
    ({"source": "/100%"}, "/source", "URI reference"),
    ({"source": "/stra\u00dfe"}, "/source", "URI reference"),
    ({"time": "2026-11-28"}, "/time", "a date and a zone"),
    ({"time": "2026-11-28T09:00:00"}, "/time", "a date and a zone"),
    ({"time": 1_800_000_000}, "/time", "begins with its date"),
    ({"time": "2026-13-28T09:00:00Z"}, "/time", "month"),
    ({"subject": "things/7"}, "/subject", "UUID"),
    ({"datacontenttype": "text/xml"}, "/datacontenttype", "Only JSON"),
    ({"datacontenttype": "json"}, "/datacontenttype", "Only JSON"),
    ({"data_base64": "e30="}, "/data_base64", "Send `data` as JSON"),
    ({"data": None}, "/data", "dictionary or object"),
    ({"data": "{}"}, "/data", "dictionary or object"),
    ({"data": {}}, "/data/endpoint", "required"),
    ({"data": {"endpoint": "/", "units": 0}}, "/data/units", "greater than or equal to 1"),
    ({"data": {"endpoint": "\0"}}, "/data/endpoint", "cannot be stored"),
]  # fmt: skip


async def test_what_is_at_fault_is_named(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    bad = [{**CLOUD, **changed} for changed, *_ in FAULTS]
    before, *refusals, after = await send(live_db, shop, [{**CLOUD, "id": "1"}, *bad, CLOUD])
    assert (before["status"], after["status"]) == ("counted", "counted")
    for (changed, pointer, says), told in zip(FAULTS, refusals, strict=True):
        assert (told["status_code"], told["code"]) == (422, "invalid_input"), changed
        assert [each["pointer"] for each in told["errors"]] == [pointer], changed
        assert says in told["detail"], changed
    assert await counted(live_db) == 2
    for event, told in zip(bad[::8], refusals[::8], strict=True):
        assert await send(live_db, shop, event, ONE) == [told]


async def test_what_is_missing_is_named(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    for missing in ("specversion", "source", "id", "type", "data"):
        less = {name: value for name, value in CLOUD.items() if name != missing}
        for body, kind in ((less, ONE), ([less], BATCH)):
            [told] = await send(live_db, shop, body, kind)
            assert [each["pointer"] for each in told["errors"]] == [f"/{missing}"]
            known = missing not in ("source", "id")
            assert told["event_id"] == ("/gateway 7" if known else None)


async def test_binary_data_says_what_to_do(live_db: Live) -> None:
    await move_in(live_db)
    binary = {**CLOUD, "data_base64": "e30="}
    del binary["data"]
    [told] = await send(live_db, await service_key(live_db), binary, ONE)
    assert told["detail"].startswith("/data_base64: Send `data` as JSON")


ALLOWED: list[dict[str, Any]] = [
    {"source": "https://example.com/a?b=c#d"}, {"source": "urn:uuid:7"}, {"source": "gateway"},
    {"source": "/a%20b"}, {"source": "//[::1]/x"}, {"source": "mailto:a@b"},
    {"id": "a b"}, {"id": "\u00df"}, {"id": "x" * 291},
    {"time": None}, {"subject": None}, {"datacontenttype": None}, {"data_base64": None},
    {"datacontenttype": "application/json"}, {"datacontenttype": "application/vnd.call+json"},
    {"datacontenttype": "Application/JSON; charset=utf-8"}, {"datacontenttype": "text/json"},
    {"dataschema": "https://example.com/s"}, {"traceparent": "00-7"}, {"events": "extension"},
]  # fmt: skip


async def test_what_the_standard_allows_is_counted(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    data = {"endpoint": "/v1/things", "user_id": str(DORA.id)}
    sent = [{**CLOUD, "id": f"{n}", "data": data, **more} for n, more in enumerate(ALLOWED)]
    told = [*await send(live_db, shop, sent[-1], ONE), *await send(live_db, shop, sent[:-1])]
    assert {each["status"] for each in told} == {"counted"}, told
    found = await rows(live_db, "select user_id, event_id from usage")
    assert {row["event_id"]: row["user_id"] for row in found} == {
        f"{each['source']} {each['id']}": CARL.id if each["subject"] else DORA.id for each in sent
    }


async def test_times_of_rfc_3339(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    now = datetime.now(UTC).replace(tzinfo=None)
    times = [f"{now.isoformat(timespec='microseconds')}789{z}" for z in ("Z", "z", "+00:00")]
    sent = [{**CLOUD, "id": time, "time": time} for time in times]
    assert {each["status"] for each in await send(live_db, shop, sent)} == {"counted"}
    found = await rows(live_db, "select timestamp from usage")
    assert {row["timestamp"] for row in found} == {now.replace(tzinfo=UTC)}


async def test_an_object_that_is_neither_is_no_batch(live_db: Live) -> None:
    shop = await service_key(live_db)
    async with live_db.api(**shop.headers) as api:
        answer = await api.post(EVENTS, json={"data": {}}, headers={"Content-Type": ONE})
    assert answer.status_code == 422


BINARY = {
    "ce-specversion": "1.0", "ce-id": "7", "ce-source": "/gateway", "ce-type": "call",
    "ce-subject": str(CARL.id),
}  # fmt: skip


async def test_an_event_in_binary_mode_is_the_same_event(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    time = datetime.now(UTC).replace(microsecond=0)
    sent: dict[str, str] = {**BINARY, "ce-time": time.isoformat(), "ce-traceparent": "00-7"}
    answers = [await send_binary(live_db, shop, CLOUD["data"], sent) for _ in range(2)]
    assert [each["status"] for each in answers] == ["counted", "duplicate"]
    assert {each["event_id"] for each in answers} == {"/gateway 7"}
    structured = {**CLOUD, "time": time.isoformat()}
    assert [each["status"] for each in await send(live_db, shop, structured, ONE)] == ["duplicate"]
    [row] = await rows(live_db, "select user_id, event_id, timestamp, status_code from usage")
    assert tuple(row.values()) == (CARL.id, "/gateway 7", time, 200)
    keyed = [await send_binary(live_db, shop, CLOUD["data"], {**BINARY, "ce-id": each}, "k", 200)
             for each in ("8", "8")]  # fmt: skip
    assert [each["status"] for each in keyed] == ["counted"] * 2
    other = await send_binary(live_db, shop, CLOUD["data"], {**BINARY, "ce-id": "9"}, "k", 422)
    assert other["code"] == "idempotency.key_reused"
    assert await counted(live_db) == 2


async def send_binary(
    live: Live, holder: Held, data: Any, said: dict[str, str], key: str = "", status: int = 200
) -> dict[str, Any]:
    headers = said | ({"Idempotency-Key": key} if key else {})
    async with live.api(**holder.headers) as api:
        answer = await api.post(EVENTS, json=data, headers=headers)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body["outcomes"][0] if status == 200 else body


async def test_texts_of_headers_are_encoded(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    for said, kept in (("%C3%9F%20b", "\u00df b"), ('"a b"', "a b"), (r'"a\"b%25"', 'a"b%')):
        told = await send_binary(live_db, shop, CLOUD["data"], {**BINARY, "ce-id": said})
        assert (told["status"], told["event_id"]) == ("counted", f"/gateway {kept}")


async def test_what_is_at_fault_in_binary_mode_is_named(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    for said, data, pointer in (
        ({"ce-specversion": "0.3"}, CLOUD["data"], "/specversion"),
        ({"ce-subject": "things/7"}, CLOUD["data"], "/subject"),
        ({"Content-Type": "text/plain"}, CLOUD["data"], "/datacontenttype"),
        ({}, {"endpoint": ""}, "/data/endpoint"),
        ({}, [], "/data"),
    ):
        told = await send_binary(live_db, shop, data, {**BINARY, **said})
        assert told["status"] == "refused"
        assert pointer in [each["pointer"] for each in told["errors"]], said
    less = {name: value for name, value in BINARY.items() if name != "ce-id"}
    told = await send_binary(live_db, shop, CLOUD["data"], less)
    assert [each["pointer"] for each in told["errors"]] == ["/id"]
    assert await counted(live_db) == 0


async def test_where_one_event_goes_no_cloud_event_does(live_db: Live) -> None:
    """Its id would be lost, and what is sent again counted twice."""
    await move_in(live_db)
    shop = await service_key(live_db)
    async with live_db.api(**shop.headers) as api:
        answer = await api.post(USAGE, json=CLOUD["data"], headers=BINARY)
    assert refused(answer) == (422, "invalid_input")
    assert "usage/events" in answer.json()["detail"]
    assert await counted(live_db) == 0
