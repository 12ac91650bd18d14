"""What booking does by itself: letters and reminders once each, and what nobody pays for goes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from bursar.accounts import tasks as accounts_tasks
from bursar.booking import tasks
from bursar.core.mail_outbox import Shown
from tests.accounts.people import actions, change, mails, rows
from tests.booking.desk import (
    ADMIN,
    API,
    at,
    book,
    do,
    enrol,
    get,
    listen,
    move_in,
    near,
    post,
    provider,
    put,
    said,
    service,
    shift,
    tell,
    training,
)
from tests.conftest import Live
from tests.world import ADAM, CARL, DORA, OLIVIA

CARLS, DORAS = "carl@example.com", "dora@example.com"


def subjects(found: list[Shown]) -> list[str]:
    """Each ends with the company's name."""
    return [each.words.subject.removesuffix(", Bursar") for each in found if each.words]


def words(found: list[Shown]) -> str:
    assert found[0].words is not None
    return found[0].words.text


async def test_each_change_is_told_once(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db, zone="Europe/Berlin")
    cut = await service(live_db, ana, paymentInAdvance=True)
    booked = await book(live_db, CARL, cut, at(2))
    for _ in range(2):  # also after a restart
        await do(live_db, tasks.write_letters)
    found = await mails(live_db, CARLS)
    assert subjects(found) == ["Booked: Haircut"]
    assert "(Europe/Berlin)" in words(found)
    assert re.search(r"Please pay 20\.00 USD by ", words(found))
    path = f"{API}/appointments/{booked['id']}"
    await put(live_db, CARL, path, {"starts_at": said(at(3))})
    await do(live_db, tasks.write_letters)
    await post(
        live_db, ADAM, f"{ADMIN}/appointments/{booked['id']}/cancellation", {"reason": "Ill"}
    )
    await do(live_db, tasks.write_letters)
    found = await mails(live_db, CARLS)
    assert subjects(found) == ["Cancelled: Haircut", "New time: Haircut", "Booked: Haircut"]
    assert "Ill" in words(found)
    version = (await get(live_db, CARL, path))["version"]
    assert version == 3  # a letter is no change


async def test_who_moves_up_is_told(live_db: Live) -> None:
    await move_in(live_db)
    aid = await training(live_db, await provider(live_db), at(3), capacity=1, paymentInAdvance=True)
    mine = (await enrol(live_db, CARL, aid)).json()
    await enrol(live_db, DORA, aid, wait=True)
    await do(live_db, tasks.write_letters)
    assert subjects(await mails(live_db, DORAS)) == ["On the waiting list: First aid"]
    await post(live_db, CARL, f"{API}/enrolments/{mine['id']}/cancellation")
    await do(live_db, tasks.write_letters)
    found = await mails(live_db, DORAS)
    assert subjects(found)[0] == "You have a place: First aid"
    assert "Please pay 50.00 USD by " in words(found)
    [hers] = (await get(live_db, DORA, f"{API}/enrolments"))["enrolments"]
    pay_by = datetime.fromisoformat(hers["pay_by"]) - datetime.now(UTC)
    assert timedelta(hours=23) < pay_by <= timedelta(hours=24)
    told = "select payload ->> 'enrolment_id' as id from events where name = 'booking.moved_up'"
    assert [row["id"] for row in await rows(live_db, told)] == [hers["id"]]


async def test_a_new_time_of_a_training_and_its_end_are_told(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    aid = await training(live_db, ana, at(3))
    await enrol(live_db, CARL, aid)
    await do(live_db, tasks.write_letters)
    body = {
        "title": "First aid",
        "providerId": ana,
        "startsAt": said(at(4)),
        "endsAt": said(at(4, 12)),
        "capacity": 10,
        "price": "50.00",
    }
    assert (await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}", body)).status_code == 200
    await do(live_db, tasks.write_letters)
    await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}/status", {"status": "cancelled"})
    await do(live_db, tasks.write_letters)
    assert subjects(await mails(live_db, CARLS)) == [
        "Cancelled: First aid",
        "New time: First aid",
        "Enrolled: First aid",
    ]


async def test_a_reminder_comes_once_and_again_for_a_new_time(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    aid = await training(live_db, ana, at(5))
    booked = await book(live_db, CARL, cut, at(4))
    await enrol(live_db, DORA, aid)
    await do(live_db, tasks.write_letters)
    await do(live_db, tasks.remind)
    assert len(await mails(live_db, CARLS)) == 1
    await near(live_db, "appointments", booked["id"], 20)
    await near(live_db, "trainings", aid, 20)
    await rows(live_db, "update training_enrolments set letter = null")
    for sql in (
        "alter table training_enrolments disable trigger user",
        "update training_enrolments set created_at = created_at - interval '9 days'",
        "alter table training_enrolments enable trigger user",
    ):
        await rows(live_db, sql)
    for _ in range(2):
        await do(live_db, tasks.remind)
    assert subjects(await mails(live_db, CARLS)) == ["Reminder: Haircut", "Booked: Haircut"]
    assert subjects(await mails(live_db, DORAS)) == ["Reminder: First aid", "Enrolled: First aid"]
    body = {"startsAt": said(at(6))}
    await put(live_db, ADAM, f"{ADMIN}/appointments/{booked['id']}", body)
    [row] = await rows(live_db, "select reminded_at from appointments")
    assert row["reminded_at"] is None


async def test_no_reminder_where_staff_want_none_or_right_after_booking(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db))
    await change(live_db, "booking_reminder_hours", 72)
    await book(live_db, CARL, cut, at(2))  # within the 72 hours
    await do(live_db, tasks.remind)
    assert await mails(live_db, CARLS) == []
    await change(live_db, "booking_reminder_hours", 0)
    await do(live_db, tasks.remind)
    assert await mails(live_db, CARLS) == []


async def late(live: Live) -> None:
    """As though all that is to be paid had been due a minute ago."""
    for table in ("appointments", "training_enrolments"):
        sql = f"update {table} set pay_by = now() - interval '1 minute' where pay_by is not null"
        await rows(live, sql)


async def test_what_nobody_pays_for_is_free_again(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana, paymentInAdvance=True)
    later = await service(live_db, ana)
    aid = await training(live_db, ana, at(3), capacity=1, paymentInAdvance=True)
    held, free = await book(live_db, CARL, cut, at(2)), await book(live_db, CARL, later, at(4))
    assert free["pay_by"] is None
    pay_by = datetime.fromisoformat(held["pay_by"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < pay_by <= timedelta(minutes=60)
    await enrol(live_db, CARL, aid)
    await enrol(live_db, DORA, aid, wait=True)
    await do(live_db, tasks.release_unpaid)
    assert (await get(live_db, CARL, f"{API}/appointments/{held['id']}"))["status"] == "booked"
    await late(live_db)
    for _ in range(2):
        await do(live_db, tasks.release_unpaid)
    gone = await get(live_db, CARL, f"{API}/appointments/{held['id']}")
    assert (gone["status"], gone["cancel_reason"]) == ("cancelled", "It was not paid for in time.")
    assert gone["refund_percent"] == 100  # if it is paid for all the same
    kept = await get(live_db, CARL, f"{API}/appointments/{free['id']}")
    assert kept["status"] == "booked"
    statuses = "select status from training_enrolments order by number"
    assert [row["status"] for row in await rows(live_db, statuses)] == ["cancelled", "enrolled"]
    await book(live_db, DORA, cut, at(2))
    assert "booking.appointment_released" in await actions(live_db, held["id"])


async def test_what_staff_vouch_for_stays(live_db: Live) -> None:
    await move_in(live_db)
    cut = await service(live_db, await provider(live_db), paymentInAdvance=True)
    booked = await book(live_db, CARL, cut, at(2))
    path = f"{ADMIN}/appointments"
    sure = await put(live_db, ADAM, f"{path}/{booked['id']}/status", {"status": "confirmed"})
    assert sure.json()["payBy"] is None
    body = {"userId": str(CARL.id), "serviceId": cut, "startsAt": said(at(3))}
    assert (await post(live_db, ADAM, path, body)).json()["payBy"] is None


async def test_trainings_that_are_over_are_completed(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    over, ahead = [await training(live_db, ana, at(day)) for day in (3, 4)]
    await shift(live_db, "trainings", over, 9)
    await do(live_db, tasks.complete_trainings)
    statuses = {
        its: (await get(live_db, OLIVIA, f"{ADMIN}/trainings/{its}"))["status"]
        for its in (over, ahead)
    }
    assert statuses == {over: "completed", ahead: "scheduled"}


async def test_who_leaves_has_nothing_ahead_and_their_words_go(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    aid = await training(live_db, ana, at(3), capacity=1)
    await listen(live_db)
    over = await book(live_db, CARL, cut, at(2), note="Zebedee's allergies")
    ahead = await book(live_db, CARL, cut, at(4), note="Zebedee again")
    await shift(live_db, "appointments", over["id"], 5)
    await enrol(live_db, CARL, aid)
    await enrol(live_db, DORA, aid, wait=True)
    body: dict[str, Any] = {"status": "deleted"}
    deleted = await put(live_db, OLIVIA, f"{ADMIN}/users/{CARL.id}/status", body)
    assert deleted.status_code == 200, deleted.text
    await tell(live_db)
    sql = "select status from appointments where id = $1"
    assert (await rows(live_db, sql, over["id"]))[0]["status"] == "booked"
    assert (await rows(live_db, sql, ahead["id"]))[0]["status"] == "cancelled"
    [hers] = (await get(live_db, DORA, f"{API}/enrolments"))["enrolments"]
    assert hers["status"] == "enrolled"
    long_ago = "update users set deleted_at = now() - interval '31 days' where id = $1"
    await rows(live_db, long_ago, CARL.id)
    await do(live_db, accounts_tasks.erase_deleted)
    await tell(live_db)
    notes = await rows(live_db, "select note, cancel_reason, user_id from appointments")
    assert [tuple(row) for row in notes] == [(None, None, CARL.id)] * 2
    told = "select from audit_logs where concat(before, after) like '%Zebedee%'"
    assert await rows(live_db, told) == []


async def test_a_customer_takes_their_bookings_away(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    await book(live_db, CARL, await service(live_db, ana), at(2), note="A fringe")
    await book(live_db, DORA, await service(live_db, ana), at(3))
    await enrol(live_db, CARL, await training(live_db, ana, at(4)))
    bookings = (await get(live_db, CARL, f"{API}/users/me/export"))["bookings"]
    [appointment], [enrolment] = bookings["appointments"], bookings["enrolments"]
    assert (appointment["service"], appointment["note"]) == ("Haircut", "A fringe")
    assert (enrolment["training"], enrolment["status"]) == ("First aid", "enrolled")
