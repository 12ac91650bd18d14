"""Trainings: places, waiting lists, and what follows when one of them is cancelled."""

from datetime import timedelta
from typing import Any

from bursar.auth.actor import Actor, Kind
from tests.accounts.people import actions, change, rows
from tests.booking.desk import (
    ADMIN,
    API,
    ask_to_book,
    at,
    book,
    crowd,
    enrol,
    get,
    made,
    move_in,
    post,
    provider,
    put,
    refused,
    said,
    service,
    shift,
    training,
)
from tests.conftest import Live
from tests.wallets.purses import hire
from tests.world import ADAM, CARL, DORA, OLIVIA

MINE = f"{API}/enrolments"


async def counted(live: Live, its_training: str) -> tuple[int, int]:
    found = await get(live, CARL, f"{API}/trainings/{its_training}")
    return found["enrolled"], found["waiting"]


def as_staff_wrote(its_provider: str, **given: Any) -> dict[str, Any]:
    return {
        "title": "First aid",
        "providerId": its_provider,
        "startsAt": said(at(3)),
        "endsAt": said(at(3, 12)),
        "capacity": 1,
        "price": "50.00",
        **given,
    }


async def test_places_are_taken_until_none_is_left(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=1)
    first = await enrol(live_db, CARL, aid)
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["status"], body["title"], body["price"]) == ("enrolled", "First aid", 50.00)
    assert body["position"] is None
    assert refused(await enrol(live_db, DORA, aid)) == (409, "booking.full")
    waits = await enrol(live_db, DORA, aid, wait=True)
    assert (waits.json()["status"], waits.json()["position"]) == ("waiting", 1)
    assert await counted(live_db, aid) == (1, 1)
    for who in (CARL, DORA):
        twice = await enrol(live_db, who, aid, wait=True)
        assert refused(twice) == (409, "booking.already_enrolled")
    assert await actions(live_db, body["id"]) == ["booking.enrolment_created"]


async def test_who_waits_first_gets_the_place(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=1)
    people = [Actor(Kind.CUSTOMER, each) for each in await crowd(live_db, 3)]
    enrolments = [(await enrol(live_db, who, aid, wait=True)).json() for who in (CARL, *people)]
    positions = [each["position"] for each in enrolments]
    assert positions == [None, 1, 2, 3]
    second = f"{MINE}/{enrolments[2]['id']}"
    left = await post(live_db, people[1], f"{second}/cancellation")
    assert left.json()["status"] == "cancelled"
    assert (await get(live_db, people[2], f"{MINE}/{enrolments[3]['id']}"))["position"] == 2
    await post(live_db, CARL, f"{MINE}/{enrolments[0]['id']}/cancellation", {"reason": "Ill"})
    assert (await get(live_db, people[0], MINE))["enrolments"][0]["status"] == "enrolled"
    assert (await get(live_db, people[2], MINE))["enrolments"][0]["position"] == 1
    assert await counted(live_db, aid) == (1, 1)
    again = await enrol(live_db, CARL, aid, wait=True)
    assert again.json()["position"] == 2


async def test_more_places_are_for_who_waits_and_fewer_than_taken_are_refused(
    live_db: Live,
) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    aid = await training(live_db, ana, at(3), capacity=1)
    for who in (CARL, *(Actor(Kind.CUSTOMER, each) for each in await crowd(live_db, 3))):
        await enrol(live_db, who, aid, wait=True)
    path = f"{ADMIN}/trainings/{aid}"
    more = await put(live_db, ADAM, path, as_staff_wrote(ana, capacity=3))
    assert more.status_code == 200, more.text
    assert (more.json()["enrolled"], more.json()["waiting"]) == (3, 1)
    fewer = await put(live_db, ADAM, path, as_staff_wrote(ana, capacity=2))
    assert refused(fewer) == (409, "booking.below_enrolled")
    assert await counted(live_db, aid) == (3, 1)


async def test_enrolling_spoils_no_edit_by_staff(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    aid = await training(live_db, ana, at(3))
    async with live_db.api(ADAM) as api:
        tag = (await api.get(f"{ADMIN}/trainings/{aid}")).headers["ETag"]
    await enrol(live_db, CARL, aid)
    body = as_staff_wrote(ana, title="Second aid", capacity=10)
    changed = await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}", body, **{"If-Match": tag})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["title"], changed.json()["enrolled"]) == ("Second aid", 1)
    stale = await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}", body, **{"If-Match": tag})
    assert refused(stale) == (412, "precondition_failed")


async def test_a_cancelled_training_is_over_for_everybody(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    aid = await training(live_db, ana, at(3), capacity=1)
    for who in (CARL, DORA):
        await enrol(live_db, who, aid, wait=True)
    assert refused(await ask_to_book(live_db, CARL, cut, at(3))) == (409, "booking.slot_taken")
    body = {"status": "cancelled", "reason": "Ana is ill"}
    cancelled = await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}/status", body)
    assert cancelled.status_code == 200, cancelled.text
    assert (cancelled.json()["enrolled"], cancelled.json()["waiting"]) == (0, 0)
    for who in (CARL, DORA):
        [found] = (await get(live_db, who, MINE))["enrolments"]
        assert (found["status"], found["refund_percent"]) == ("cancelled", 100)
        assert found["cancel_reason"] == "Ana is ill"
    assert refused(await enrol(live_db, CARL, aid)) == (409, "booking.closed")
    again = await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}/status", body)
    assert refused(again) == (409, "booking.closed")
    await book(live_db, CARL, cut, at(3))  # the time is free again


async def test_a_training_and_an_appointment_never_at_once(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    await book(live_db, CARL, cut, at(3, 11))
    body = as_staff_wrote(ana)
    assert refused(await post(live_db, ADAM, f"{ADMIN}/trainings", body)) == (
        409,
        "booking.slot_taken",
    )
    aid = await training(live_db, ana, at(4))
    moved = await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}", body)
    assert refused(moved) == (409, "booking.slot_taken")
    assert (await get(live_db, CARL, f"{API}/trainings/{aid}"))["starts_at"][:10] == str(
        at(4).date()
    )


async def test_the_last_day_to_enrol_is_for_customers(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    aid = await training(live_db, ana, at(3), enrolUntil=said(at(2)))
    await rows(live_db, "update trainings set enrol_until = now() - interval '1 hour'")
    assert refused(await enrol(live_db, CARL, aid)) == (409, "booking.enrolment_over")
    body = {"userId": str(CARL.id)}
    by_staff = await post(live_db, ADAM, f"{ADMIN}/trainings/{aid}/enrolments", body)
    assert by_staff.status_code == 201, by_staff.text
    assert by_staff.json()["userId"] == str(CARL.id)
    await shift(live_db, "trainings", aid, 4)
    late = {"userId": str(DORA.id)}
    over = await post(live_db, ADAM, f"{ADMIN}/trainings/{aid}/enrolments", late)
    assert refused(over) == (409, "booking.closed")
    own = (await get(live_db, CARL, MINE))["enrolments"][0]["id"]
    assert refused(await post(live_db, CARL, f"{MINE}/{own}/cancellation")) == (
        409,
        "booking.closed",
    )


async def test_what_goes_back_by_policy_or_by_staff(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=2)
    await change(live_db, "cancel_free_hours", 24 * 7)
    mine = (await enrol(live_db, CARL, aid)).json()["id"]
    late = await post(live_db, CARL, f"{MINE}/{mine}/cancellation")
    assert late.json()["refund_percent"] == 50
    hers = (await enrol(live_db, DORA, aid)).json()["id"]
    path = f"{ADMIN}/enrolments/{hers}/cancellation"
    kind = await post(live_db, ADAM, path, {"refundPercent": 90, "reason": "As agreed"})
    assert kind.json()["refundPercent"] == 90


async def test_a_waiting_list_has_an_end(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=1)
    await change(live_db, "booking_waiting_at_most", 0)
    await enrol(live_db, CARL, aid)
    assert refused(await enrol(live_db, DORA, aid, wait=True)) == (409, "booking.full")


async def test_lists_of_trainings(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    await training(live_db, ana, at(5), title="Latte art")
    aid = await training(live_db, ana, at(3), description="With a real espresso machine")
    over = await training(live_db, ana, at(4), title="Cupping")
    await shift(live_db, "trainings", over, 10)
    listed = await get(live_db, CARL, f"{API}/trainings")
    assert [each["title"] for each in listed["trainings"]] == ["First aid", "Latte art"]
    found = await get(live_db, CARL, f"{API}/trainings?search=ESPRESSO")
    assert [each["id"] for each in found["trainings"]] == [aid]
    everything = await get(live_db, OLIVIA, f"{ADMIN}/trainings?when=any&sort=-title")
    assert [each["title"] for each in everything["trainings"]] == [
        "Latte art",
        "First aid",
        "Cupping",
    ]
    await enrol(live_db, CARL, aid)
    who = await get(live_db, OLIVIA, f"{ADMIN}/trainings/{aid}/enrolments?status=enrolled")
    assert [each["userId"] for each in who["enrolments"]] == [str(CARL.id)]


async def test_a_training_that_cannot_be(live_db: Live) -> None:
    ana = await provider(live_db)
    tries: list[tuple[str, dict[str, Any]]] = [
        ("booking.past", {"startsAt": said(at(-1))}),
        ("ends_before_start", {"endsAt": said(at(3))}),
        ("too_long", {"endsAt": said(at(3) + timedelta(days=40))}),
        ("ends_before_start", {"enrolUntil": said(at(4))}),
        ("booking.unknown_provider", {"providerId": str(CARL.id)}),
        ("greater_than_equal", {"capacity": 0}),
        ("booking.negative_price", {"price": "-1"}),
        ("money.too_many_digits", {"price": "1.005"}),
        ("payments.unknown_currency", {"currency": "XAU"}),
    ]
    for code, given in tries:
        answer = await post(live_db, OLIVIA, f"{ADMIN}/trainings", as_staff_wrote(ana, **given))
        assert answer.status_code == 422, given
        problem = answer.json()
        codes = {problem["code"], *(each["code"] for each in problem.get("errors", ()))}
        assert code in codes, (given, problem)
    assert await rows(live_db, "select from trainings") == []
    await hire(live_db)
    await made(live_db, "assets", {"code": "JPY", "scale": 0})
    yen = await made(live_db, "trainings", as_staff_wrote(ana, price="1000", currency="JPY"))
    assert yen["price"] == 1000
