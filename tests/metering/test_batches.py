"""Half-bad batches: each item has an outcome of its own, however bad it is, and at any size."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Live
from tests.keys.keyholders import API, USAGE, Held, assert_sums_hold, key_of, service_key, verify
from tests.metering.test_ingest import EVENTS, counted, event, post
from tests.metering.test_outcomes import OUTCOMES, outcome
from tests.wallets.purses import move_in, refused
from tests.world import CARL

NUL, HALF, HALVES = r'"a\u0000b"', r'"\ud800"', r'"\udc00\ud800"'


def bad(field: str, **facts: Any) -> str:
    """An event with one more field as it stands in the JSON text: Python would not write it."""
    return f"{json.dumps(event(**{'event_id': 'bad', **facts}))[:-1]}, {field}}}"


async def send(live: Live, holder: Held, *items: str, path: str = EVENTS) -> Any:
    body = f'{{"{path.rpartition("/")[2]}": [{", ".join(items)}]}}'
    async with live.api(**holder.headers, **{"Content-Type": "application/json"}) as api:
        return await api.post(path, content=body.encode())


GOOD = json.dumps(event())


UNSTORABLE = [  # a field with a bad text for each ?, and where it is found
    ('"endpoint": ?', "/endpoint"), ('"user_agent": ?', "/user_agent"),
    ('"timestamp": ?', "/timestamp"), ('"user_id": ?', "/user_id"),
    ('"nobodys": ?', "/nobodys"), ('"nobodys": {"deep": [{"er": ?}]}', "/nobodys/deep"),
    ('"nobodys": {?: 1}', "/nobodys"), ('"nobodys": [7, {"a": ?}]', "/nobodys"),
    ("?: 1", ""), ('"a/b": {"c": ?, "hugest": ' + "9" * 400 + "}", "/a~1b/c"),
]  # fmt: skip


async def test_what_cannot_be_stored_is_refused_alone(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    cases = [(bad(field.replace("?", text)), pointer)
             for field, pointer in UNSTORABLE for text in (NUL, HALF, HALVES)]  # fmt: skip
    answer = await send(live_db, shop, GOOD, *(item for item, _ in cases), GOOD)
    assert answer.status_code == 200, answer.text
    good, *refusals, again = answer.json()["outcomes"]
    assert (good["status"], again["status"]) == ("counted", "duplicate")
    for (item, pointer), told in zip(cases, refusals, strict=True):
        assert (told["status"], told["status_code"], told["event_id"]) == ("refused", 422, "bad")
        [error] = told["errors"]
        assert (error["pointer"], error["code"]) == (pointer, "unstorable"), item
        assert told["detail"] == f"{pointer or 'body'}: {error['detail']}"
        assert "a NUL, half a character or an endless number" in error["detail"]
    assert await counted(live_db) == 1
    await assert_sums_hold(live_db)


ENDLESS = (
    "9" * 5000,
    f"-{'9' * 5000}",
    f"{'9' * 5000}.5",
    "1e999",
    "-1E-999",
    "1e999999999999999999999",
)


async def test_a_number_that_cannot_be_read_is_refused_alone(live_db: Live) -> None:
    """JSON has no end of numbers, so these are some; but nothing here could hold them."""
    await move_in(live_db)
    shop = await service_key(live_db)
    fields = [(field, pointer) for field, pointer in UNSTORABLE if ": ?" in field]
    cases = [
        (bad(field.replace("?", text)), pointer) for field, pointer in fields for text in ENDLESS
    ]
    answer = await send(live_db, shop, GOOD, *(item for item, _ in cases), *ENDLESS, GOOD)
    assert answer.status_code == 200, answer.text
    good, *refusals, again = answer.json()["outcomes"]
    assert (good["status"], again["status"]) == ("counted", "duplicate")
    pointers = [pointer for _, pointer in cases] + [""] * len(ENDLESS)
    for pointer, told in zip(pointers, refusals, strict=True):
        assert (told["status"], told["status_code"]) == ("refused", 422)
        [error] = told["errors"]
        assert (error["pointer"], error["code"]) == (pointer, "unstorable")
    assert await counted(live_db) == 1
    await assert_sums_hold(live_db)


async def test_an_id_that_cannot_be_stored_is_not_repeated(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    items = [bad(f'"event_id": {text}') for text in (NUL, HALF, HALVES)]
    answer = await send(live_db, shop, *items, GOOD)
    *told, good = answer.json()["outcomes"]
    assert good["status"] == "counted"
    assert {(each["event_id"], each["errors"][0]["pointer"]) for each in told} == {
        (None, "/event_id")
    }


async def test_escapes_of_what_can_be_stored_are_no_mistake(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    fields = (r'"state": "\\u0000"', r'"state": "\ud83e\udda6"', r'"state": "\u00e9"',
              r'"nobodys": "\\\\ud800"')  # fmt: skip
    items = [bad(field, event_id=f"{n}") for n, field in enumerate(fields)]
    answer = await send(live_db, shop, *items)
    assert answer.json()["counted"] == len(fields), answer.text


async def test_a_name_of_any_length_is_not_repeated_in_full(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    items = [bad(f'"{"x" * 2000}": {NUL}')] * 1000
    answer = await send(live_db, shop, *items)
    assert answer.json()["refused"] == 1000
    assert len(answer.content) < 1_200_000


async def test_what_is_no_text_at_all_is_still_refused_whole(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    headers = {**shop.headers, "Content-Type": "application/json"}
    for broken in (b"\xff", b"\xed\xa0\x80", b'"', b"NaN"):
        body = b'{"events": [%s, {"endpoint": "%s"}]}' % (GOOD.encode(), broken)
        body = body.replace(b'"NaN"', b"NaN")
        async with live_db.api() as api:
            answer = await api.post(EVENTS, content=body, headers=headers)
        assert refused(answer) == (422, "invalid_input")
    assert await counted(live_db) == 0


async def test_only_a_batch_may_be_large(live_db: Live) -> None:
    """A large body takes long to read; who may not send one is refused before that."""
    await move_in(live_db)
    shop = await service_key(live_db)
    headers = {**shop.headers, "Content-Type": "application/json"}
    most = live_db.settings.max_batch_bytes
    large, too_large = b" " * most, b" " * (most + 1)
    async with live_db.api() as api:
        told = [
            (await api.post(USAGE, content=large, headers=headers)),
            (await api.post(f"{API}/api-keys/leaks", content=large, headers=headers)),
            (await api.post(EVENTS, content=too_large, headers=headers)),
        ]
        assert [refused(each) for each in told] == [(413, "body.too_large")] * 3
        assert [str(live_db.settings.max_body_bytes) in each.text for each in told[:2]] == [
            True
        ] * 2
        assert str(most) in told[2].text
        assert "1000 items" in told[2].json()["detail"]
        assert "items" not in told[0].text
        unknown = await api.post(
            EVENTS, content=large, headers={"Content-Type": "application/json"}
        )
        assert unknown.status_code == 401
        assert refused(await api.post(EVENTS, content=large, headers=headers))[0] == 422


async def test_one_event_alone_is_refused_as_ever(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    headers = {**shop.headers, "Content-Type": "application/json"}
    async with live_db.api() as api:
        answer = await api.post(USAGE, content=bad(f'"nobodys": {NUL}'), headers=headers)
    assert refused(answer) == (422, "invalid_input")


async def test_an_outcome_that_cannot_be_stored_is_refused_alone(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    good, other = [json.dumps(outcome(await verify(live_db, shop, carl))) for _ in range(2)]
    worse = f'{other[:-1]}, "error_message": {NUL}}}'
    worst = f'{{"usage_id": {HALF}}}'
    slow = f'{other[:-1]}, "response_time_ms": 1e999}}'
    answer = await send(live_db, shop, good, worse, worst, slow, path=OUTCOMES)
    assert answer.status_code == 200, answer.text
    told = answer.json()["outcomes"]
    assert [each["status"] for each in told] == ["recorded", "refused", "refused", "refused"]
    pointers = [each["errors"][0]["pointer"] for each in told[1:]]
    assert pointers == ["/error_message", "/usage_id", "/response_time_ms"]
    assert (told[1]["usage_id"], told[2]["usage_id"]) == (json.loads(other)["usage_id"], None)


MISFITS: list[tuple[Any, str]] = [  # what is wrong with each of them is in one place
    (None, ""), (True, ""), (7, ""), (1.5, ""), ("text", ""), ([], ""), ([{}], ""),
    ({}, "/endpoint"), (event(endpoint=None), "/endpoint"), (event(endpoint=7), "/endpoint"),
    (event(event_id=7), "/event_id"), (event(event_id=["e-1"]), "/event_id"),
    (event(event_id={"e": 1}), "/event_id"), (event(event_id=""), "/event_id"),
    (event(event_id="x" * 301), "/event_id"), (event(event_id=True), "/event_id"),
    (event(units=0), "/units"), (event(units="1"), "/units"), (event(user_id=7), "/user_id"),
    (event(timestamp=7), "/timestamp"), (event(status_code=99), "/status_code"),
]  # fmt: skip


async def test_an_item_that_is_none_is_refused_at_its_field(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    good = event(event_id="good")
    answer = await post(live_db, shop, {"events": [good, *(item for item, _ in MISFITS), good]})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["counted"], body["duplicates"], body["refused"]) == (1, 1, len(MISFITS))
    for (item, pointer), told in zip(MISFITS, body["outcomes"][1:-1], strict=True):
        assert (told["status"], told["status_code"]) == ("refused", 422), item
        assert (told["code"], told["errors"][0]["pointer"]) == ("invalid_input", pointer), item
        assert len(told["errors"]) == 1, item
        assert told["detail"].startswith(pointer or "body"), item
        said = item.get("event_id") if isinstance(item, dict) else None
        assert told["event_id"] == (said[:300] or None if isinstance(said, str) else None)
    assert await counted(live_db) == 1
    await assert_sums_hold(live_db)


async def test_of_the_same_id_in_one_batch_the_first_is_counted(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    same = [event(1, units=2), event(1), event(1, units=2), event(1, user_id=str(uuid4()))]
    answer = await post(live_db, shop, {"events": same})
    told = answer.json()["outcomes"]
    assert [(each["status"], each["status_code"], each.get("code")) for each in told] == [
        ("counted", 201, None), ("refused", 409, "usage.event_conflict"), ("duplicate", 200, None),
        ("refused", 422, "usage.unknown_customer"),
    ]  # fmt: skip
    assert [each["event_id"] for each in told] == ["e-1"] * 4
    assert await counted(live_db) == 1
    await assert_sums_hold(live_db)


LONGEST: dict[str, Any] = {
    "endpoint": "e" * 300, "location": "l" * 500, "state": "s" * 100,
    "date_from": "2026-01-01T00:00:00.000000+00:00", "date_to": "2026-01-02T00:00:00.000000+00:00",
    "response_time_ms": 86_400_000, "status_code": 599,
    "error_message": "m" * 1000, "ip_address": "2001:0db8:0000:0000:0000:0000:0000:0001",
    "user_agent": "u" * 500, "units": 10**9, "user_id": str(CARL.id),
}  # fmt: skip


async def test_a_thousand_of_the_greatest_length_fit_in_one_request(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    longest = {**LONGEST, "api_key_id": carl.id, "timestamp": datetime.now(UTC).isoformat()}
    events = [{**longest, "event_id": f"{n:0300d}"} for n in range(1000)]
    body = json.dumps({"events": events}, indent=1).encode()
    assert len(body) > 3 * 1024 * 1024
    headers = {**shop.headers, "Content-Type": "application/json"}
    async with live_db.api() as api:
        answer = await api.post(EVENTS, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["counted"] == 1000
    assert await counted(live_db) == 1000


@pytest.mark.parametrize("number", [1001, 10_000])
async def test_too_many_are_refused_with_the_limit(live_db: Live, number: int) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    now = datetime.now(UTC).isoformat()
    events = [event(n, status_code=200, response_time_ms=48, timestamp=now) for n in range(number)]
    answer = await post(live_db, shop, {"events": events})
    assert refused(answer) == (413, "usage.too_many_events")
    assert answer.json()["limit"] == 1000
    assert str(number) in answer.json()["detail"]
    assert await counted(live_db) == 0


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": 7}, [], 7, "x", {"events": None}])
async def test_what_is_no_batch(live_db: Live, body: Any) -> None:
    answer = await post(live_db, await service_key(live_db), body)
    assert answer.status_code == 422, answer.text
