"""What payments and booking tell a business's own systems, by the real routes and over the wire."""

from typing import Any

import orjson

from bursar.booking import letters
from bursar.core import events
from bursar.payments.providers import What
from tests.booking import desk
from tests.conftest import Live
from tests.payments.tills import captured, fact, intend
from tests.payments.tills import tell as tell_fact
from tests.wallets.purses import move_in
from tests.webhooks.receivers import Receiver, endpoint_for, receiver, work
from tests.world import CARL, DORA, OLIVIA

PAYMENTS = "/api/v1/payments"
PERSONAL = ("email", "name", "secret", "token", "note", "number", "phone", "address")


def heard(there: Receiver) -> list[tuple[str, dict[str, Any]]]:
    said = sorted((orjson.loads(body) for _, body in there.got), key=lambda each: each["timestamp"])
    return [(each["type"], each["data"]) for each in said]


async def test_a_payment_from_its_money_to_its_refund(live: Live) -> None:
    await move_in(live)
    transfer = {"payment_method": "bank_transfer", "amount": 20}
    async with receiver() as there:
        endpoint = await endpoint_for(live, there.url, events=["payments.*"])
        async with live.api(CARL) as customer, live.api(OLIVIA) as owner:
            asked = (await customer.post(PAYMENTS, json=transfer)).json()
            await work(live)
            assert there.got == []  # asked for is not paid
            await owner.post(f"/api/v1/admin/payments/{asked['id']}/confirmation")
            await work(live)
            paid = {
                "payment_id": asked["id"],
                "user_id": str(CARL.id),
                "purpose": "top_up",
                "subject_id": None,
            }
            assert heard(there) == [("payments.completed", paid)]
            there.verified(endpoint["secret"])
            await owner.post(f"{PAYMENTS}/{asked['id']}/refunds", json={"amount": 5})
            other = (await customer.post(PAYMENTS, json=transfer)).json()
            await customer.post(f"{PAYMENTS}/{other['id']}/cancellation")
            await work(live)
        assert heard(there)[1:] == [
            ("payments.refunded", paid),
            ("payments.failed", {**paid, "payment_id": other["id"]}),
        ]


async def test_a_dispute_is_told_when_it_begins_and_when_it_ends(live: Live) -> None:
    await move_in(live)
    payment = await intend(live, CARL, 20)
    await tell_fact(live, captured(payment, 20))
    async with receiver() as there:
        await endpoint_for(live, there.url, events=["payments.disputed"])
        await tell_fact(live, fact(payment, What.DISPUTE_OPENED, "du_1", 20))
        await tell_fact(live, fact(payment, What.DISPUTE_LOST, "du_1", 20))
        await work(live)
        told = [(data["payment_id"], data["dispute_status"]) for _, data in heard(there)]
        assert told == [(str(payment), "open"), (str(payment), "lost")]


async def test_what_is_booked_moved_and_cancelled(live: Live) -> None:
    await move_in(live)
    ana = await desk.provider(live)
    cut = await desk.service(live, ana)
    async with receiver() as there, receiver() as elsewhere:
        await endpoint_for(live, there.url, events=["booking.*"])
        await endpoint_for(live, elsewhere.url, events=["payments.*"])
        booked = await desk.book(live, CARL, cut, desk.at(2, 10))
        await desk.post(live, CARL, f"{desk.API}/appointments/{booked['id']}/cancellation")
        course = await desk.training(live, ana, desk.at(5, 10), capacity=1)
        one = (await desk.enrol(live, CARL, course)).json()
        two = (await desk.enrol(live, DORA, course, wait=True)).json()
        await desk.post(live, CARL, f"{desk.API}/enrolments/{one['id']}/cancellation")
        await work(live)
        async with live.database.transaction(desk.WORKER) as db:
            await letters.write_all(db)
        await work(live)
        assert heard(there) == [
            ("booking.appointment_booked", {"appointment_id": booked["id"]}),
            (
                "booking.appointment_changed",
                {"appointment_id": booked["id"], "status": "cancelled"},
            ),
            ("booking.training_changed", {"training_id": course}),
            ("booking.enrolled", {"enrolment_id": one["id"]}),
            ("booking.enrolled", {"enrolment_id": two["id"]}),
            ("booking.enrolment_cancelled", {"enrolment_id": one["id"]}),
            ("booking.moved_up", {"enrolment_id": two["id"]}),
        ]
        assert elsewhere.got == []


def test_what_leaves_the_house_has_nothing_personal_in_it() -> None:
    """Ids and kinds; whoever may know more asks the API with a key that may."""
    for name, event in events.public().items():
        for field in event.model_fields:
            assert not any(word in field for word in PERSONAL), f"{name}: {field}"
