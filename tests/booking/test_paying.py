"""Bookings that are paid for: what is due, what a payment does, and what goes back, once."""

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2

from bursar.auth.actor import Actor
from bursar.booking import tasks
from bursar.payments.providers import What
from tests.accounts.people import change, rows, run_jobs
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
    refused,
    service,
    shift,
    tell,
    training,
)
from tests.booking.test_jobs import late
from tests.conftest import Live
from tests.payments.tills import captured, fact, row_of
from tests.payments.tills import tell as tell_fact
from tests.wallets.purses import balance_of
from tests.world import ADAM, CARL, DORA

MARK = "booking.mark_paid"
Json = dict[str, Any]


async def opened(live: Live) -> tuple[str, str]:
    """Two customers, a service for 20 dollars and its provider; the marker of payments listens."""
    await move_in(live)
    ana = await provider(live)
    await listen(live, MARK)
    return ana, await service(live, ana, paymentInAdvance=True)


async def ask_to_pay(live: Live, who: Actor, **what: str) -> httpx2.Response:
    """By the method whose provider is asked for nothing before staff have counted the money."""
    body = {"payment_method": "bank_transfer", **what}
    return await post(live, who, f"{API}/payments", body)


async def intent(live: Live, who: Actor, **what: str) -> UUID:
    answer = await ask_to_pay(live, who, **what)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def pay(live: Live, who: Actor, **what: str) -> UUID:
    """The money comes, and the booking hears of it."""
    payment_id = await intent(live, who, **what)
    await comes(live, payment_id)
    return payment_id


async def comes(live: Live, payment_id: UUID) -> None:
    payment = await row_of(live, payment_id)
    by_hand = {"provider": payment["provider"], "object_id": str(payment_id)}
    await tell_fact(live, captured(payment_id, payment["amount"], **by_hand))
    await tell(live, MARK)


async def settle_all(live: Live) -> None:
    """Every refund is asked for, done, and heard of; twice, for once has to be enough."""
    for _ in range(2):
        await do(live, tasks.give_back)
        await run_jobs(live)
        await tell(live, MARK)


async def appointment(live: Live, its_id: str, who: Actor = CARL) -> Json:
    return await get(live, who, f"{API}/appointments/{its_id}")


async def test_paid_it_is_confirmed_and_stays(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(2))
    payment_id = await pay(live_db, CARL, appointment_id=booked["id"])
    payment = await row_of(live_db, payment_id)
    assert (payment["amount"], payment["purpose"]) == (Decimal("20.00"), "appointment")
    found = await appointment(live_db, booked["id"])
    assert (found["status"], found["payment_status"]) == ("confirmed", "paid")
    assert (found["payment_id"], found["pay_by"]) == (str(payment_id), None)
    await late(live_db)
    await do(live_db, tasks.release_unpaid)
    await tell(live_db, MARK)
    assert await appointment(live_db, booked["id"]) == found
    again = await ask_to_pay(live_db, CARL, appointment_id=booked["id"])
    assert refused(again) == (409, "booking.already_paid")


async def test_what_nothing_is_due_for(live_db: Live) -> None:
    ana, cut = await opened(live_db)
    hers = await book(live_db, DORA, cut, at(2))
    gone = await book(live_db, CARL, cut, at(3))
    await post(live_db, CARL, f"{API}/appointments/{gone['id']}/cancellation")
    talk = await book(live_db, CARL, await service(live_db, ana, price="0"), at(4))
    aid = await training(live_db, ana, at(5), capacity=1)
    await enrol(live_db, DORA, aid)
    tries = [
        ({"appointment_id": hers["id"]}, (404, "not_found")),
        ({"appointment_id": str(uuid4())}, (404, "not_found")),
        ({"appointment_id": gone["id"]}, (409, "booking.closed")),
        ({"appointment_id": talk["id"]}, (409, "booking.nothing_due")),
        ({"training_id": aid}, (404, "not_found")),
        ({"service_id": str(uuid4())}, (404, "not_found")),
    ]
    for what, expected in tries:
        assert refused(await ask_to_pay(live_db, CARL, **what)) == expected, what
    await enrol(live_db, CARL, aid, wait=True)
    waiting = await ask_to_pay(live_db, CARL, training_id=aid)
    assert refused(waiting) == (409, "booking.nothing_due")
    wrong = await ask_to_pay(live_db, DORA, training_id=aid, amount="1")
    assert refused(wrong) == (422, "payments.wrong_amount")
    assert await rows(live_db, "select from payments") == []


async def test_a_service_can_be_paid_for_by_itself(live_db: Live) -> None:
    _, cut = await opened(live_db)
    payment_id = await pay(live_db, CARL, service_id=cut)
    await settle_all(live_db)
    assert (await row_of(live_db, payment_id))["status"] == "completed"


async def test_early_all_goes_back_late_a_share_missed_nothing(live_db: Live) -> None:
    _, cut = await opened(live_db)
    await change(live_db, "cancel_late_refund_percent", 33)
    early, soon, missed = [await book(live_db, CARL, cut, at(day)) for day in (3, 4, 5)]
    paid = [await pay(live_db, CARL, appointment_id=each["id"]) for each in (early, soon, missed)]
    await post(live_db, CARL, f"{API}/appointments/{early['id']}/cancellation")
    await near(live_db, "appointments", soon["id"], 3)
    await post(live_db, CARL, f"{API}/appointments/{soon['id']}/cancellation")
    await shift(live_db, "appointments", missed["id"], 6)
    path = f"{ADMIN}/appointments/{missed['id']}/status"
    await put(live_db, ADAM, path, {"status": "no_show"})
    await settle_all(live_db)
    back = [(await row_of(live_db, each))["refunded"] for each in paid]
    assert back == [Decimal("20.00"), Decimal("6.60"), Decimal(0)]
    stands = [
        (await appointment(live_db, each["id"]))["payment_status"] for each in (early, soon, missed)
    ]
    assert stands == ["refunded", "partially_refunded", "paid"]
    assert await balance_of(live_db, CARL) == Decimal("26.60")  # what is paid by hand
    assert len(await rows(live_db, "select from refunds")) == 2


async def test_staff_say_otherwise(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked, missed = [await book(live_db, CARL, cut, at(day)) for day in (3, 4)]
    first, second = [
        await pay(live_db, CARL, appointment_id=each["id"]) for each in (booked, missed)
    ]
    path = f"{ADMIN}/appointments"
    await post(live_db, ADAM, f"{path}/{booked['id']}/cancellation", {"refundPercent": 0})
    await shift(live_db, "appointments", missed["id"], 6)
    forgiven = {"status": "no_show", "refundPercent": 75}
    await put(live_db, ADAM, f"{path}/{missed['id']}/status", forgiven)
    await settle_all(live_db)
    assert (await row_of(live_db, first))["refunded"] == 0
    assert (await row_of(live_db, second))["refunded"] == 15


async def test_money_that_comes_too_late_goes_back(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(2))
    payment_id = await intent(live_db, CARL, appointment_id=booked["id"])
    await late(live_db)
    await do(live_db, tasks.release_unpaid)
    await book(live_db, DORA, cut, at(2))
    await comes(live_db, payment_id)
    await settle_all(live_db)
    found = await appointment(live_db, booked["id"])
    assert (found["status"], found["payment_status"]) == ("cancelled", "refunded")
    assert (await row_of(live_db, payment_id))["status"] == "refunded"


async def test_what_is_paid_twice_goes_back_once(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(2))
    first, second = [await intent(live_db, CARL, appointment_id=booked["id"]) for _ in range(2)]
    await comes(live_db, first)
    await comes(live_db, second)
    await settle_all(live_db)
    assert (await row_of(live_db, first))["status"] == "completed"
    assert (await row_of(live_db, second))["status"] == "refunded"
    found = await appointment(live_db, booked["id"])
    assert (found["payment_id"], found["payment_status"]) == (str(first), "paid")
    assert await balance_of(live_db, CARL) == 20


async def test_a_part_of_the_price_is_for_staff_to_look_at(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(2))
    payment_id = await intent(live_db, CARL, appointment_id=booked["id"])
    by_hand = {"provider": "manual", "object_id": str(payment_id)}
    await tell_fact(live_db, captured(payment_id, 5, **by_hand))
    await tell(live_db, MARK)
    await settle_all(live_db)
    assert (await appointment(live_db, booked["id"]))["payment_status"] == "unpaid"
    assert await rows(live_db, "select from refunds") == []


async def test_a_cancelled_training_gives_everybody_their_money(live_db: Live) -> None:
    ana, _ = await opened(live_db)
    aid = await training(live_db, ana, at(5))
    for who in (CARL, DORA):
        await enrol(live_db, who, aid)
    paid = [await pay(live_db, who, training_id=aid) for who in (CARL, DORA)]
    assert (await get(live_db, CARL, f"{API}/enrolments"))["enrolments"][0][
        "payment_status"
    ] == "paid"
    await put(live_db, ADAM, f"{ADMIN}/trainings/{aid}/status", {"status": "cancelled"})
    await settle_all(live_db)
    assert [(await row_of(live_db, each))["status"] for each in paid] == ["refunded"] * 2
    assert [await balance_of(live_db, who) for who in (CARL, DORA)] == [50, 50]
    again = await training(live_db, ana, at(6))
    await enrol(live_db, CARL, again)
    await pay(live_db, CARL, training_id=again)


async def test_who_enrols_again_pays_again(live_db: Live) -> None:
    """The new enrolment is not the old one, nor its payment."""
    ana, _ = await opened(live_db)
    aid = await training(live_db, ana, at(5))
    mine = (await enrol(live_db, CARL, aid)).json()
    first = await pay(live_db, CARL, training_id=aid)
    await post(live_db, CARL, f"{API}/enrolments/{mine['id']}/cancellation")
    await enrol(live_db, CARL, aid)
    await settle_all(live_db)
    second = await pay(live_db, CARL, training_id=aid)
    await settle_all(live_db)
    assert [(await row_of(live_db, each))["status"] for each in (first, second)] == [
        "refunded",
        "completed",
    ]


async def test_a_payment_that_is_contested_is_not_given_back(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(3))
    await pay(live_db, CARL, appointment_id=booked["id"])
    await rows(live_db, "insert into disputes (payment_id, provider_dispute_id, amount)"
               " select id, 'dp_1', amount from payments")  # fmt: skip
    await post(live_db, CARL, f"{API}/appointments/{booked['id']}/cancellation")
    await settle_all(live_db)
    assert await rows(live_db, "select from refunds") == []
    [row] = await rows(live_db, "select refund_asked_at from appointments")
    assert row["refund_asked_at"] is None  # it waits until that is decided


async def contested(live: Live, payment_id: UUID, what: What) -> None:
    payment = await row_of(live, payment_id)
    about = {"amount": payment["amount"], "provider": payment["provider"]}
    await tell_fact(live, fact(payment_id, what, f"dp_{payment_id}", **about))
    await tell(live, MARK)


async def test_what_is_contested_just_before_it_would_go_back_waits(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(3))
    payment_id = await pay(live_db, CARL, appointment_id=booked["id"])
    await post(live_db, CARL, f"{API}/appointments/{booked['id']}/cancellation")
    await do(live_db, tasks.give_back)  # the job is added, and has not run
    await contested(live_db, payment_id, What.DISPUTE_OPENED)
    await settle_all(live_db)
    assert await rows(live_db, "select from refunds") == []
    await contested(live_db, payment_id, What.DISPUTE_WON)
    await settle_all(live_db)
    assert (await row_of(live_db, payment_id))["status"] == "refunded"
    assert await balance_of(live_db, CARL) == 20
