"""Appointments by the routes: booked, moved, cancelled by policy, completed, missed."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.accounts.people import actions, change, rows
from tests.booking.desk import (
    ADMIN,
    API,
    ask_to_book,
    at,
    book,
    free,
    get,
    move_in,
    near,
    post,
    provider,
    put,
    refused,
    said,
    service,
    shift,
)
from tests.conftest import Live
from tests.world import ADAM, CARL, DORA, OLIVIA

MINE = f"{API}/appointments"
THEIRS = f"{ADMIN}/appointments"


async def test_a_customer_books_what_is_offered(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, price="20")
    booked = await book(live_db, CARL, cut, at(2), note="A fringe, please")
    assert booked["starts_at"] == said(at(2)).replace("Z", ".000Z")
    assert booked["ends_at"] == said(at(2, 10, 30)).replace("Z", ".000Z")
    assert (booked["status"], booked["payment_status"]) == ("booked", "unpaid")
    assert (booked["price"], booked["currency"]) == (20.00, "USD")
    assert booked["service_name"] == "Haircut"
    assert booked["provider"]["name"] == "Ana"
    assert await actions(live_db, booked["id"]) == ["booking.appointment_booked"]
    assert (await get(live_db, CARL, MINE))["appointments"] == [booked]
    assert (await get(live_db, CARL, f"{MINE}/{booked['id']}")) == booked


async def test_what_is_booked_is_offered_no_more(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    await book(live_db, CARL, cut, at(2))
    for starts_at in (at(2), at(2, 9, 45), at(2, 10, 15)):
        assert refused(await ask_to_book(live_db, DORA, cut, starts_at)) == (
            409,
            "booking.slot_taken",
        )
    assert await rows(live_db, "select from appointments where user_id = $1", DORA.id) == []
    offered = await free(live_db, cut, at(2, 9, 30), at(2, 10, 45))
    assert offered == [said(t).replace("Z", ".000Z") for t in (at(2, 9, 30), at(2, 10, 30))]
    await book(live_db, DORA, cut, at(2, 10, 30))


async def test_whoever_is_free_takes_it(live_db: Live) -> None:
    await move_in(live_db)
    ana, bob = await provider(live_db), await provider(live_db, "Bob")
    cut = await service(live_db, ana, bob)
    both = [await book(live_db, who, cut, at(2)) for who in (CARL, DORA)]
    assert {each["provider"]["name"] for each in both} == {"Ana", "Bob"}
    third = await ask_to_book(live_db, CARL, cut, at(2))
    assert refused(third) == (409, "booking.slot_taken")


async def test_what_was_agreed_stays(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    booked = await book(live_db, CARL, cut, at(2))
    body = {"name": "Cut", "price": "99", "durationMinutes": 60, "providerIds": [ana]}
    assert (await put(live_db, OLIVIA, f"{ADMIN}/services/{cut}", body)).status_code == 200
    now = await get(live_db, CARL, f"{MINE}/{booked['id']}")
    assert (now["price"], now["service_name"]) == (20.00, "Haircut")
    moved = await put(live_db, CARL, f"{MINE}/{booked['id']}", {"starts_at": said(at(3))})
    assert moved.json()["ends_at"] == said(at(3, 10, 30)).replace("Z", ".000Z")


async def test_moving_keeps_the_row_and_frees_the_time(live_db: Live) -> None:
    await move_in(live_db)
    ana, bob = await provider(live_db), await provider(live_db, "Bob")
    cut = await service(live_db, ana, bob)
    booked = await book(live_db, CARL, cut, at(2), provider_id=ana)
    path = f"{MINE}/{booked['id']}"
    to_bob = {"starts_at": said(at(3)), "provider_id": bob}
    moved = await put(live_db, CARL, path, to_bob, **{"If-Match": f'"{booked["version"]}"'})
    assert moved.status_code == 200, moved.text
    assert moved.json()["provider"]["name"] == "Bob"
    assert moved.json()["version"] == booked["version"] + 1
    stale = await put(live_db, CARL, path, to_bob, **{"If-Match": f'"{booked["version"]}"'})
    assert refused(stale) == (412, "precondition_failed")
    assert (await put(live_db, CARL, path, to_bob)).status_code == 200  # nothing to change
    await book(live_db, DORA, cut, at(2), provider_id=ana)
    back = await put(live_db, CARL, path, {"starts_at": said(at(2)), "provider_id": ana})
    assert refused(back) == (409, "booking.slot_taken")
    assert await actions(live_db, booked["id"]) == [
        "booking.appointment_booked",
        "booking.appointment_moved",
    ]


async def test_moving_by_less_than_its_length(live_db: Live) -> None:
    """It does not stand in its own way."""
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db), durationMinutes=60)
    booked = await book(live_db, CARL, cut, at(2))
    later = {"starts_at": said(at(2, 10, 15))}
    moved = await put(live_db, CARL, f"{MINE}/{booked['id']}", later)
    assert moved.status_code == 200, moved.text


async def test_early_cancelling_costs_nothing_late_cancelling_a_share(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    await change(live_db, "cancel_late_refund_percent", 30)
    early, late = await book(live_db, CARL, cut, at(3)), await book(live_db, CARL, cut, at(5))
    await near(live_db, "appointments", late["id"], 3)
    for booked, share in ((early, 100), (late, 30)):
        path = f"{MINE}/{booked['id']}/cancellation"
        answer = await post(live_db, CARL, path, {"reason": "Ill"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["refund_percent"] == share
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["cancel_reason"] == "Ill"
        assert refused(await post(live_db, CARL, path)) == (409, "booking.closed")
    again = await book(live_db, DORA, cut, at(3))
    assert again["status"] == "booked"


async def test_late_moving_would_be_cancelling_for_nothing(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    late = await book(live_db, CARL, cut, at(5))
    await near(live_db, "appointments", late["id"], 3)
    body = {"starts_at": said(at(6))}
    moved = await put(live_db, CARL, f"{MINE}/{late['id']}", body)
    assert refused(moved) == (409, "booking.too_late")
    by_staff = await put(live_db, ADAM, f"{THEIRS}/{late['id']}", body)
    assert by_staff.status_code == 200, by_staff.text


async def test_staff_override_what_goes_back(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    booked = await book(live_db, CARL, cut, at(3))
    path = f"{THEIRS}/{booked['id']}/cancellation"
    answer = await post(live_db, ADAM, path, {"reason": "As agreed", "refundPercent": 40})
    assert answer.json()["refundPercent"] == 40
    assert answer.json()["userId"] == str(CARL.id)


async def test_missed_and_completed_only_once_it_has_begun(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    first, second = await book(live_db, CARL, cut, at(2)), await book(live_db, CARL, cut, at(3))
    for status in ("no_show", "completed"):
        early = await put(live_db, ADAM, f"{THEIRS}/{first['id']}/status", {"status": status})
        assert refused(early) == (409, "booking.too_early")
    sure = await put(live_db, ADAM, f"{THEIRS}/{first['id']}/status", {"status": "confirmed"})
    assert sure.json()["status"] == "confirmed"
    await shift(live_db, "appointments", first["id"], 4)
    await shift(live_db, "appointments", second["id"], 4)
    missed = await put(live_db, ADAM, f"{THEIRS}/{first['id']}/status", {"status": "no_show"})
    assert (missed.json()["status"], missed.json()["refundPercent"]) == ("no_show", 0)
    done = await put(live_db, ADAM, f"{THEIRS}/{second['id']}/status", {"status": "completed"})
    assert done.json()["status"] == "completed"
    for booked in (first, second):
        again = await put(live_db, ADAM, f"{THEIRS}/{booked['id']}/status", {"status": "confirmed"})
        assert refused(again) == (409, "booking.closed")
        late = await post(live_db, CARL, f"{MINE}/{booked['id']}/cancellation")
        assert refused(late) == (409, "booking.closed")
        moved = await put(live_db, ADAM, f"{THEIRS}/{booked['id']}", {"startsAt": said(at(9))})
        assert refused(moved) == (409, "booking.closed")


async def test_what_has_begun_is_not_the_customers_to_cancel(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    booked = await book(live_db, CARL, cut, at(2))
    await shift(live_db, "appointments", booked["id"], 3)
    answer = await post(live_db, CARL, f"{MINE}/{booked['id']}/cancellation")
    assert refused(answer) == (409, "booking.closed")


async def test_what_cannot_be_booked_says_why(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db, hours=[(day, "09:00", "17:00") for day in range(1, 8)])
    bob = await provider(live_db, "Bob")
    cut = await service(live_db, ana)
    gone = await service(live_db, ana, active=False)
    tomorrow = datetime.now(UTC) + timedelta(minutes=30)
    tries: list[tuple[str, str, datetime, dict[str, Any]]] = [
        ("booking.past", cut, at(-1), {}),
        ("booking.too_soon", cut, tomorrow, {}),
        ("booking.too_far", cut, at(91), {}),
        ("booking.outside_hours", cut, at(2, 8, 45), {}),
        ("booking.outside_hours", cut, at(2, 16, 45), {}),
        ("booking.outside_hours", cut, at(2, 10, 7), {}),
        ("booking.unknown_provider", cut, at(2), {"provider_id": bob}),
        ("booking.unknown_provider", cut, at(2), {"provider_id": str(uuid4())}),
        ("booking.unknown_service", gone, at(2), {}),
        ("booking.unknown_service", str(uuid4()), at(2), {"provider_id": ana}),
        ("booking.unknown_service", str(uuid4()), at(2), {}),
    ]
    for code, its_service, starts_at, given in tries:
        answer = await ask_to_book(live_db, CARL, its_service, starts_at, **given)
        assert refused(answer) == (422, code), starts_at
    assert await rows(live_db, "select from appointments") == []


async def test_staff_book_outside_the_hours_and_never_what_is_taken(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db, hours=[])
    cut = await service(live_db, ana)
    body = {"userId": str(CARL.id), "serviceId": cut, "startsAt": said(at(2, 3, 7))}
    booked = await post(live_db, ADAM, THEIRS, body)
    assert booked.status_code == 201, booked.text
    assert refused(await post(live_db, ADAM, THEIRS, body)) == (409, "booking.slot_taken")
    past = {**body, "startsAt": said(at(-1))}
    assert refused(await post(live_db, ADAM, THEIRS, past)) == (422, "booking.past")
    stranger = {**body, "userId": str(uuid4())}
    assert refused(await post(live_db, ADAM, THEIRS, stranger)) == (404, "not_found")


async def test_nobody_hoards_what_they_do_not_pay_for(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut, talk = await service(live_db, ana), await service(live_db, ana, price="0")
    await change(live_db, "booking_open_unpaid_at_most", 2)
    first, _ = [await book(live_db, CARL, cut, at(day)) for day in (2, 3)]
    too_many = (409, "booking.too_many_open")
    assert refused(await ask_to_book(live_db, CARL, cut, at(4))) == too_many
    await book(live_db, CARL, talk, at(4))  # nothing to pay
    await book(live_db, DORA, cut, at(5))
    await post(live_db, CARL, f"{MINE}/{first['id']}/cancellation")
    await book(live_db, CARL, cut, at(6))


async def test_a_key_books_once(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    body = {"service_id": cut, "starts_at": said(at(2))}
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        first, second = [await api.post(MINE, json=body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"


async def test_lists_filter_sort_and_page(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, price="0")
    for day in (4, 2, 3):
        await book(live_db, CARL, cut, at(day))
    await book(live_db, DORA, cut, at(5))
    first = await get(live_db, CARL, f"{MINE}?per_page=2&sort=-starts_at")
    assert [each["starts_at"][:10] for each in first["appointments"]] == [
        str(at(day).date()) for day in (4, 3)
    ]
    assert first["total"] == 3
    rest = await get(live_db, CARL, f"{MINE}?sort=-starts_at&cursor={first['next_cursor']}")
    assert [each["starts_at"][:10] for each in rest["appointments"]] == [str(at(2).date())]
    some = await get(live_db, CARL, f"{MINE}?from={said(at(3, 0))}&to={said(at(4, 0))}")
    assert [each["starts_at"][:10] for each in some["appointments"]] == [str(at(3).date())]
    of_dora = await get(live_db, ADAM, f"{THEIRS}?user_id={DORA.id}")
    assert of_dora["total"] == 1
    of_ana = await get(live_db, ADAM, f"{THEIRS}?provider_id={ana}&status=booked")
    assert of_ana["total"] == 4
    async with live_db.api(CARL) as api:
        assert refused(await api.get(f"{MINE}?sort=price")) == (422, "invalid_input")


@pytest.mark.parametrize("field", ["starts_at", "service_id"])
async def test_a_field_that_is_missing_is_named(live_db: Live, field: str) -> None:
    await move_in(live_db)
    body = {"service_id": str(uuid4()), "starts_at": said(at(2))}
    del body[field]
    answer = await post(live_db, CARL, MINE, body)
    assert answer.json()["errors"][0]["pointer"] == f"/{field}"
