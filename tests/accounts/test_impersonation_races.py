"""Nobody acts as a customer any longer than both of them may come in."""

import asyncio

import httpx2

from tests.accounts.colleagues import ADMINISTRATOR, STAFF, hire
from tests.accounts.colleagues import log_in as staff_log_in
from tests.accounts.people import ADMIN_USERS, rows, sign_up
from tests.conftest import Live

LIVE = "select from sessions where impersonator is not null and ended_at is null"


async def begin(api: httpx2.AsyncClient, user_id: str, headers: dict[str, str]) -> int:
    url = f"{ADMIN_USERS}/{user_id}/impersonation"
    body = {"reason": "Ticket 14", "write": True}
    return (await api.post(url, json=body, headers=headers)).status_code


async def test_a_suspension_of_the_customer_leaves_no_impersonation(live_db: Live) -> None:
    await hire(live_db, "olivia")
    async with live_db.api() as api:
        olivia = await staff_log_in(api, "olivia")
        for turn in range(4):
            carl = await sign_up(api, f"carl{turn}@example.com")
            suspend = api.put(
                f"{ADMIN_USERS}/{carl.id}/status",
                json={"status": "suspended"},
                headers=olivia.signed,
            )
            before = [begin(api, carl.id, olivia.signed) for _ in range(8)]
            after = [begin(api, carl.id, olivia.signed) for _ in range(8)]
            answers = await asyncio.gather(*before, suspend, *after)
            assert answers[8].status_code == 200  # type: ignore[union-attr]
            assert {each for each in answers if isinstance(each, int)} <= {200, 409}
            assert await rows(live_db, LIVE) == []


async def test_a_suspension_of_the_staff_member_leaves_no_impersonation(live_db: Live) -> None:
    await hire(live_db, "olivia")
    async with live_db.api() as api:
        olivia = await staff_log_in(api, "olivia")
        carl = await sign_up(api)
        for turn in range(4):
            adam_id = await hire(live_db, f"adam{turn}", ADMINISTRATOR)
            adam = await staff_log_in(api, f"adam{turn}")
            suspend = api.put(
                f"{STAFF}/{adam_id}/status", json={"status": "suspended"}, headers=olivia.signed
            )
            before = [begin(api, carl.id, adam.signed) for _ in range(8)]
            after = [begin(api, carl.id, adam.signed) for _ in range(8)]
            answers = await asyncio.gather(*before, suspend, *after)
            assert answers[8].status_code == 200  # type: ignore[union-attr]
            assert {each for each in answers if isinstance(each, int)} <= {200, 401, 403}
            assert await rows(live_db, LIVE) == []
