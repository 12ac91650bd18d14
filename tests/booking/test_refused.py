"""What is to go back and its provider refuses: into the wallet an hour later, unless contested."""

from decimal import Decimal
from uuid import UUID

import pytest

from bursar.booking import tasks
from bursar.payments.providers import What
from tests.accounts.people import rows, run_jobs
from tests.billing.payers import an_hour_later
from tests.booking.desk import API, at, book, do, post, tell
from tests.booking.test_paying import (
    MARK,
    Json,
    appointment,
    comes,
    contested,
    opened,
    settle_all,
)
from tests.conftest import Live
from tests.payments.tills import fact, intend
from tests.payments.tills import tell as tell_fact
from tests.wallets.purses import balance_of, freeze
from tests.world import CARL, DORA

WENT = "select destination, status, amount from refunds where payment_id = $1 order by id"
WAITING = "select from pgqueuer where entrypoint = 'booking.give_one_back'"
ASKED, GIVEN = ("provider", "pending", 20), ("wallet", "completed", 20)
REFUSED = ("provider", "failed", 20)


async def by_card(live: Live, booked: Json) -> UUID:
    given = {"purpose": "appointment", "appointment_id": UUID(booked["id"])}
    payment_id = await intend(live, CARL, 20, **given)
    await comes(live, payment_id)
    return payment_id


async def went(live: Live, payment_id: UUID) -> list[tuple[str, str, Decimal]]:
    return [tuple(row) for row in await rows(live, WENT, payment_id)]


async def refuses(live: Live, payment_id: UUID) -> None:
    """The provider, and tells it twice."""
    pending = "select id from refunds where payment_id = $1 and status = 'pending'"
    [asked] = await rows(live, pending, payment_id)
    said = {"refund_id": str(asked["id"]), "reason": "expired_or_canceled_card"}
    for _ in range(2):
        await tell_fact(live, fact(payment_id, What.REFUND_FAILED, f"re_{asked['id']}", **said))
        await tell(live, MARK)


async def cancelled_and_refused(live: Live) -> tuple[Json, UUID]:
    """A booking of CARL's that was paid by card, and that payment."""
    _, cut = await opened(live)
    booked = await book(live, CARL, cut, at(3))
    payment_id = await by_card(live, booked)
    await post(live, CARL, f"{API}/appointments/{booked['id']}/cancellation")
    await do(live, tasks.give_back)
    await run_jobs(live)  # the provider is asked
    await refuses(live, payment_id)
    return booked, payment_id


async def hours_pass(live: Live) -> None:
    for _ in range(2):
        await an_hour_later(live)
        await settle_all(live)


async def test_what_a_cancelled_booking_gives_back(live_db: Live) -> None:
    booked, payment_id = await cancelled_and_refused(live_db)
    hers = await intend(live_db, DORA, 20)
    await comes(live_db, hers)
    for what in (What.DISPUTE_OPENED, What.DISPUTE_WON):  # hers is no reason to ask for his again
        await contested(live_db, hers, what)
    await settle_all(live_db)
    assert await went(live_db, payment_id) == [REFUSED]
    assert await rows(live_db, WAITING) == []
    await hours_pass(live_db)
    assert await went(live_db, payment_id) == [REFUSED, GIVEN]
    assert await balance_of(live_db, CARL) == 20
    assert (await appointment(live_db, booked["id"]))["payment_status"] == "refunded"


async def test_where_the_wallet_is_closed_staff_are_told_and_nothing_is_tried_for_ever(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    _, payment_id = await cancelled_and_refused(live_db)
    await freeze(live_db, CARL, "closed")
    await hours_pass(live_db)
    assert await went(live_db, payment_id) == [REFUSED]
    told = f"20.00 USD of the payment {payment_id} has no wallet to go to: for staff"
    assert caplog.text.count(told) == 1
    assert await rows(live_db, WAITING) == []


async def test_what_was_paid_twice(live_db: Live) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(3))
    first, second = [await by_card(live_db, booked) for _ in range(2)]
    await run_jobs(live_db)
    await refuses(live_db, second)
    await settle_all(live_db)
    assert await went(live_db, second) == [REFUSED]
    await hours_pass(live_db)
    assert await went(live_db, second) == [REFUSED, GIVEN]
    assert await went(live_db, first) == []
    assert await balance_of(live_db, CARL) == 20
    assert (await appointment(live_db, booked["id"]))["payment_status"] == "paid"


async def test_what_is_contested_is_given_to_nobody(live_db: Live) -> None:
    """All of it was on its way back, so that nothing of it counts as contested."""
    _, payment_id = await cancelled_and_refused(live_db)
    await contested(live_db, payment_id, What.DISPUTE_OPENED)
    await hours_pass(live_db)
    assert await went(live_db, payment_id) == [REFUSED]
    await contested(live_db, payment_id, What.DISPUTE_WON)
    await hours_pass(live_db)
    assert await went(live_db, payment_id) == [REFUSED, ASKED]  # by its provider, once more
    assert await balance_of(live_db, CARL) == 0


async def test_a_second_payment_that_was_contested_goes_back_once_that_is_won(
    live_db: Live,
) -> None:
    _, cut = await opened(live_db)
    booked = await book(live_db, CARL, cut, at(2))
    _, second = [await by_card(live_db, booked) for _ in range(2)]
    await run_jobs(live_db)
    await refuses(live_db, second)
    await contested(live_db, second, What.DISPUTE_OPENED)
    await hours_pass(live_db)
    assert await went(live_db, second) == [REFUSED]
    await contested(live_db, second, What.DISPUTE_WON)
    await hours_pass(live_db)
    assert await went(live_db, second) == [REFUSED, ASKED]
