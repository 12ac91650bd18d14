"""What happens around payments in tests: subscribers are told, jobs run, and time of day is ours.

await listen(live)          # before anything is published
await settle(live)          # everything that comes of it
"""

from typing import Any
from uuid import UUID

from bursar.payments.providers import SavedMethod, What
from tests.accounts import people
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.tills import captured, fact, intend, tell
from tests.wallets.purses import Customer
from tests.world import CARL

SUBSCRIBERS = ("payments.receipts", "payments.auto_topups", "payments.methods")


async def listen(live: Live) -> None:
    await people.listen(live, *SUBSCRIBERS)


async def settle(live: Live) -> None:
    """Jobs, the events that they publish, and so on until nothing is left to tell."""
    await run_jobs(live)
    while await people.tell(live, *SUBSCRIBERS):
        await run_jobs(live)


async def save_method(live: Live, who: Customer = CARL, token: str = "pm_1", **given: Any) -> UUID:
    """By a payment, as its provider tells it."""
    provider = given.pop("provider", "stripe")
    test_mode = given.pop("test_mode", True)
    payment = await intend(live, who, 1, provider=provider, save_method=True, test_mode=test_mode)
    facts = {"brand": "visa", "last_four": "4242", "exp_month": 12, "exp_year": 2031, **given}
    await tell(live, captured(payment, 1, provider=provider))
    saved = SavedMethod(token, **facts)
    await tell(live, fact(payment, What.METHOD_SAVED, token, method=saved, provider=provider))
    [row] = await rows(live, "select id from payment_methods where token = $1", token)
    found: UUID = row["id"]
    return found
