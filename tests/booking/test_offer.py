"""What staff offer: providers, hours, exceptions and services, and what of it cannot be."""

from typing import Any
from uuid import uuid4

from tests.accounts.people import actions, rows
from tests.booking.desk import (
    ADMIN,
    API,
    at,
    book,
    free,
    get,
    made,
    move_in,
    post,
    provider,
    put,
    refused,
    said,
    service,
)
from tests.conftest import Live
from tests.wallets.purses import hire
from tests.world import ADAM, ANNA, CARL, DORA, MARK, OLIVIA

PROVIDERS, SERVICES = f"{ADMIN}/providers", f"{ADMIN}/services"
NOON = {"weekday": 1, "starts": "09:00", "ends": "12:00"}


def codes(answer: Any) -> set[str]:
    problem = answer.json()
    return {problem["code"], *(each["code"] for each in problem.get("errors", ()))}


async def test_a_provider_is_made_and_changed(live_db: Live) -> None:
    body = {"name": "Ana", "email": "Ana@Example.com", "timeZone": "Europe/Berlin"}
    ana = await made(live_db, "providers", body)
    assert (ana["email"], ana["active"], ana["version"]) == ("ana@example.com", True, 1)
    path = f"{PROVIDERS}/{ana['id']}"
    tag = {"If-Match": '"1"'}
    changed = await put(live_db, ADAM, path, {**body, "name": "Anna"}, **tag)
    assert (changed.json()["name"], changed.headers["ETag"]) == ("Anna", '"2"')
    assert refused(await put(live_db, ADAM, path, body, **tag)) == (412, "precondition_failed")
    same = await put(live_db, ADAM, path, {**body, "name": "Anna"})
    assert same.json()["version"] == 2
    assert await actions(live_db, ana["id"]) == [
        "booking.provider_created",
        "booking.provider_changed",
    ]
    mars = await post(live_db, OLIVIA, PROVIDERS, {**body, "timeZone": "Mars/Olympus"})
    assert refused(mars) == (422, "booking.unknown_time_zone")
    await made(live_db, "providers", {"name": "Bob"})
    found = await get(live_db, ANNA, f"{PROVIDERS}?search=EXAMPLE")
    assert [each["name"] for each in found["providers"]] == ["Anna"]
    everybody = await get(live_db, ANNA, f"{PROVIDERS}?sort=-name&active=true")
    assert [each["name"] for each in everybody["providers"]] == ["Bob", "Anna"]


async def test_a_week_is_set_as_a_whole(live_db: Live) -> None:
    ana = await provider(live_db, hours=[])
    path = f"{PROVIDERS}/{ana}/working-hours"
    afternoon = {"weekday": 1, "starts": "13:00", "ends": "24:00"}
    assert (await get(live_db, ANNA, path))["hours"] == []
    week = await put(live_db, ADAM, path, {"hours": [afternoon, NOON]})
    assert week.json()["hours"] == [NOON, afternoon]
    tag = week.headers["ETag"]
    again = await put(live_db, ADAM, path, {"hours": [NOON, afternoon]}, **{"If-Match": tag})
    assert again.headers["ETag"] == tag
    less = await put(live_db, ADAM, path, {"hours": [NOON]}, **{"If-Match": tag})
    assert less.headers["ETag"] != tag
    stale = await put(live_db, ADAM, path, {"hours": []}, **{"If-Match": tag})
    assert refused(stale) == (412, "precondition_failed")
    overlap = {"weekday": 1, "starts": "11:59", "ends": "15:00"}
    twice = await put(live_db, ADAM, path, {"hours": [NOON, overlap]})
    assert refused(twice) == (422, "booking.hours_overlap")
    assert (await get(live_db, ANNA, path))["hours"] == [NOON]
    assert (await actions(live_db, ana)).count("booking.hours_changed") == 2


NO_HOURS: list[dict[str, Any]] = [
    {"starts": "12:00", "ends": "12:00"},
    {"starts": "13:00", "ends": "12:00"},
    {"starts": "24:00", "ends": "24:00"},
    {"starts": "25:00"},
    {"starts": "9:00"},
    {"ends": "24:01"},
    {"weekday": 0},
    {"weekday": 8},
    {"weekday": 1.5},
]


async def test_hours_that_are_none(live_db: Live) -> None:
    ana = await provider(live_db, hours=[])
    path = f"{PROVIDERS}/{ana}/working-hours"
    for bad in NO_HOURS:
        answer = await put(live_db, ADAM, path, {"hours": [{**NOON, **bad}]})
        assert refused(answer) == (422, "invalid_input"), bad


async def test_an_exception_comes_and_goes(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    path = f"{PROVIDERS}/{ana}/exceptions"
    day = await made(
        live_db, f"providers/{ana}/exceptions", {"kind": "closed", "day": str(at(2).date())}
    )
    assert (day["startsAt"], day["endsAt"]) == (
        said(at(2, 0)).replace("Z", ".000Z"),
        said(at(3, 0)).replace("Z", ".000Z"),
    )
    assert await free(live_db, cut, at(2, 0), at(3, 0)) == []
    assert (await get(live_db, ANNA, path))["exceptions"] == [day]
    async with live_db.api(ADAM) as api:
        other = await provider(live_db, "Bob")
        foreign = await api.delete(f"{PROVIDERS}/{other}/exceptions/{day['id']}")
        assert refused(foreign) == (404, "not_found")
        assert (await api.delete(f"{path}/{day['id']}")).status_code == 204
    assert len(await free(live_db, cut, at(2, 0), at(3, 0))) > 90
    assert {"booking.exception_added", "booking.exception_removed"} <= set(
        await actions(live_db, ana)
    )


NO_EXCEPTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "value_error"),
    ({"startsAt": said(at(2))}, "value_error"),
    ({"startsAt": said(at(2)), "endsAt": said(at(3)), "day": "2030-01-01"}, "value_error"),
    ({"startsAt": said(at(3)), "endsAt": said(at(2))}, "ends_before_start"),
    ({"startsAt": said(at(3)), "endsAt": said(at(500))}, "too_long"),
    ({"kind": "extra", "startsAt": said(at(3)), "endsAt": said(at(40))}, "too_long"),
    ({"day": "9999-12-31"}, "value_error"),
]


async def test_exceptions_that_are_none(live_db: Live) -> None:
    ana = await provider(live_db)
    path = f"{PROVIDERS}/{ana}/exceptions"
    for bad, code in NO_EXCEPTIONS:
        answer = await post(live_db, ADAM, path, {"kind": "closed", **bad})
        assert answer.status_code == 422, bad
        assert code in codes(answer), bad


async def test_a_closed_day_by_the_providers_clock(live_db: Live) -> None:
    """Eleven hours before UTC begins the day there, and it has the hours that it has."""
    ana = await provider(live_db, zone="Pacific/Auckland")
    body = {"kind": "closed", "day": "2026-09-27"}  # clocks go forward at two in the morning
    day = await made(live_db, f"providers/{ana}/exceptions", body)
    assert (day["startsAt"], day["endsAt"]) == (
        "2026-09-26T12:00:00.000Z",
        "2026-09-27T11:00:00.000Z",
    )


async def test_a_service_is_offered_changed_and_withdrawn(live_db: Live) -> None:
    await move_in(live_db)
    ana, bob = await provider(live_db), await provider(live_db, "Bob")
    cut = await service(live_db, ana, description="With a warm towel", price="20")
    seen = await get(live_db, CARL, f"{API}/services/{cut}")
    assert (seen["price"], [each["name"] for each in seen["providers"]]) == (20, ["Ana"])
    assert "email" not in seen["providers"][0]
    body = {
        "name": "Haircut",
        "price": "25.50",
        "durationMinutes": 45,
        "providerIds": [bob],
    }
    changed = await put(live_db, ADAM, f"{SERVICES}/{cut}", body, **{"If-Match": '"2"'})
    assert changed.status_code == 200, changed.text
    assert [each["name"] for each in changed.json()["providers"]] == ["Bob"]
    found = await get(live_db, CARL, f"{API}/services?search=hair&provider_id={bob}")
    assert [each["id"] for each in found["services"]] == [cut]
    assert (await get(live_db, CARL, f"{API}/services?provider_id={ana}"))["services"] == []
    await put(live_db, ADAM, f"{SERVICES}/{cut}", {**body, "active": False})
    assert (await get(live_db, CARL, f"{API}/services"))["services"] == []
    async with live_db.api(CARL) as api:
        assert refused(await api.get(f"{API}/services/{cut}")) == (404, "not_found")
        gone = await api.get(f"{API}/services/{cut}/availability")
        assert refused(gone) == (404, "not_found")
    assert (await get(live_db, MARK, f"{SERVICES}?active=false"))["total"] == 1
    assert (await get(live_db, MARK, f"{SERVICES}/{cut}/availability"))["slots"] == []
    done = await actions(live_db, cut)
    assert done.count("booking.service_providers_changed") == 2


async def test_whoever_is_not_active_is_offered_no_more(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    booked = await book(live_db, CARL, cut, at(2))
    body = {"name": "Ana", "active": False}
    await put(live_db, ADAM, f"{PROVIDERS}/{ana}", body)
    assert await free(live_db, cut, at(3, 0), at(4, 0), DORA) == []
    kept = await get(live_db, CARL, f"{API}/appointments/{booked['id']}")
    assert kept["status"] == "booked"


NO_SERVICES: list[tuple[dict[str, Any], str]] = [
    ({"price": "-0.01"}, "booking.negative_price"),
    ({"price": "20.001"}, "money.too_many_digits"),
    ({"price": "20.5", "currency": "JPY"}, "money.too_many_digits"),
    ({"price": "1e400"}, "invalid_input"),
    ({"currency": "XAU"}, "payments.unknown_currency"),
    ({"currency": "ABC"}, "payments.unknown_currency"),
    ({"currency": "usd"}, "invalid_input"),
    ({"durationMinutes": 0}, "greater_than_equal"),
    ({"durationMinutes": 1441}, "less_than_equal"),
    ({"durationMinutes": 30.5}, "invalid_input"),
    ({"bufferAfterMinutes": -1}, "greater_than_equal"),
    ({"providerIds": [str(uuid4())]}, "booking.unknown_provider"),
    ({"name": ""}, "too_short"),
]


async def test_services_that_are_none(live_db: Live) -> None:
    await hire(live_db)
    await made(live_db, "assets", {"code": "JPY", "scale": 0})
    for bad, code in NO_SERVICES:
        body = {"name": "Haircut", "price": "20.00", "durationMinutes": 30, **bad}
        answer = await post(live_db, OLIVIA, SERVICES, body)
        assert answer.status_code == 422, bad
        assert code in codes(answer), bad
    assert await rows(live_db, "select from services") == []


async def test_prices_have_the_digits_of_their_currency(live_db: Live) -> None:
    await hire(live_db)
    await made(live_db, "assets", {"code": "JPY", "scale": 0})
    for price, currency, shown in (
        ("20", "USD", "20.00"),
        ("500", "JPY", "500"),
        ("0", "USD", "0.00"),
    ):
        body = {"name": "Cut", "price": price, "currency": currency, "durationMinutes": 30}
        answer = await post(live_db, OLIVIA, SERVICES, body)
        assert f'"price":{shown},' in answer.text
