"""A customer hears once of each step of each quota, however it was used up."""

from datetime import UTC, datetime
from typing import Any

from bursar.core.database import WORKER
from bursar.metering.tasks import mail_warnings
from tests.accounts.people import mails, rows, run_jobs
from tests.conftest import Live
from tests.keys.keyholders import API, code, key_of, service_key, set_terms, verify
from tests.metering.test_ingest import event, outcomes
from tests.wallets.purses import move_in
from tests.world import CARL, OLIVIA

NO_RATES = {f"rate_per_{unit}_{tier}": 0 for unit in ("second", "minute")
            for tier in ("free", "pro")}  # fmt: skip


async def warned(live: Live) -> list[tuple[Any, ...]]:
    query = "select percent, used, quota from quota_warnings order by noticed_at, percent"
    return [tuple(row.values()) for row in await rows(live, query)]


async def mailed(live: Live) -> list[str]:
    """The percents that were mailed, after one more turn of the job."""
    async with live.database.transaction(WORKER) as db:
        await mail_warnings(db, {})
    await run_jobs(live)
    found = await mails(live, "carl@example.com")
    subjects = [each.words.subject for each in found if each.words]
    return sorted(
        subject.split()[3] for subject in subjects if "quota" in subject or "%" in subject
    )


async def test_warnings_are_mailed_once(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=10, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    for _ in range(7):
        await verify(live_db, shop, carl)
    assert await warned(live_db) == []
    await verify(live_db, shop, carl)
    assert [await mailed(live_db) for _ in range(2)] == [["80"]] * 2
    for _ in range(4):
        await verify(live_db, shop, carl)
    assert await warned(live_db) == [(80, 8, 10), (100, 10, 10)]
    assert [await mailed(live_db) for _ in range(2)] == [["100", "80"]] * 2


async def test_who_was_suspended_meanwhile_is_warned_too(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=10, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, units=8)
    await rows(live_db, "update users set status = 'suspended' where id = $1", CARL.id)
    assert await mailed(live_db) == ["80"]


async def test_of_two_steps_in_one_minute_only_the_higher_is_mailed(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=20, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, units=16)
    await verify(live_db, shop, carl, units=4)
    assert await warned(live_db) == [(80, 16, 20), (100, 20, 20)]
    assert [await mailed(live_db) for _ in range(2)] == [["100"]] * 2
    await set_terms(live_db, quota_free=30, quota_hard_free=False)
    await verify(live_db, shop, carl, units=20)  # both in one statement
    assert [await mailed(live_db) for _ in range(2)] == [["100", "100"]] * 2
    assert await rows(live_db, "select from quota_warnings where mailed_at is null") == []


async def test_a_quota_that_has_changed_warns_again(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=20, quota_pro=280, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, units=20)
    async with live_db.api(OLIVIA) as api:
        grants = f"{API}/admin/users/{CARL.id}/usage/grants"
        assert (await api.post(grants, json={"units": 80, "reason": "x"})).status_code == 201
    assert await warned(live_db) == [(80, 20, 20), (100, 20, 20)]
    await verify(live_db, shop, carl, units=80)
    assert await code(live_db, shop, carl) == "QUOTA_EXCEEDED"
    assert (await warned(live_db))[2:] == [(80, 100, 100), (100, 100, 100)]
    await rows(live_db, "update users set tier = 'pro' where id = $1", CARL.id)
    await verify(live_db, shop, carl, units=204)
    assert (await warned(live_db))[4:] == [(80, 304, 360)]
    assert await mailed(live_db) == ["80"]  # how it stands now


async def test_what_is_reported_warns_too(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=10)
    shop = await service_key(live_db)
    assert await outcomes(live_db, shop, event(1, units=7)) == ["counted"]
    assert await warned(live_db) == []
    assert await outcomes(live_db, shop, event(2), event(3, units=4)) == ["counted"] * 2
    assert await warned(live_db) == [(80, 12, 10), (100, 12, 10)]
    [row] = await rows(live_db, "select month, is_hard from quota_warnings where percent = 80")
    assert tuple(row.values()) == (f"{datetime.now(UTC):%Y-%m}", True)
    assert await mailed(live_db) == ["100"]
