"""Every tier has quotas and rates of its own, wherever a call is counted or looked at."""

from datetime import UTC, datetime

import pytest

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import USAGE, key_of, service_key, set_terms
from tests.metering.test_ingest import event, outcomes
from tests.metering.test_verify import codes, verify_at
from tests.wallets.purses import move_in
from tests.world import CARL

TIERS = [  # quota, whether it is hard, calls in a second and in a minute
    ("free", 10, True, 3, 30), ("pro", 20, False, 5, 60), ("enterprise", 40, True, 7, 120),
]  # fmt: skip
EACH = pytest.mark.parametrize(("tier", "quota", "hard", "second", "minute"), TIERS)


async def become(live: Live, its_tier: str) -> None:
    await move_in(live)
    for tier, quota, hard, second, minute in TIERS:
        terms = {"quota": quota, "quota_hard": hard, "rate_per_second": second,
                 "rate_per_minute": minute}  # fmt: skip
        await set_terms(live, **{f"{name}_{tier}": value for name, value in terms.items()})
    await rows(live, "update users set tier = $2 where id = $1", CARL.id, its_tier)


@EACH
async def test_keys_are_held_to_their_owners_tier(
    live_db: Live, tier: str, quota: int, hard: bool, second: int, minute: int
) -> None:
    await become(live_db, tier)
    carl = await key_of(live_db)
    noon = datetime(2026, 12, 30, 12, tzinfo=UTC)
    told = await verify_at(live_db, noon, *[carl.key] * (second + 1))
    assert codes(told) == [*["VALID"] * second, "RATE_LIMITED"]
    assert (told[0]["tier"], told[0]["quota"]) == (tier, quota)
    assert (told[0]["rate"]["policy"], told[0]["rate"]["limit"]) == ("second", second)
    later = noon.replace(hour=13)
    [last] = await verify_at(live_db, later, carl.key, units=quota - second)
    [over] = await verify_at(live_db, later, carl.key)
    assert (last["code"], last["used"]) == ("VALID", quota)
    assert over["code"] == ("QUOTA_EXCEEDED" if hard else "VALID")
    assert over["retry_after_seconds"] == (35 * 3600 if hard else None)  # to the next month
    await rows(live_db, "update settings set value = '0' where key like 'rate_per_second_%'")
    evening = noon.replace(day=31, hour=20)
    many = await verify_at(live_db, evening, *[carl.key] * (minute + 1), counts=False)
    assert codes(many) == [*["VALID"] * minute, "RATE_LIMITED"]


@EACH
async def test_what_is_reported_is_held_against_the_tier(
    live_db: Live, tier: str, quota: int, hard: bool, second: int, minute: int
) -> None:
    await become(live_db, tier)
    shop = await service_key(live_db)
    assert await outcomes(live_db, shop, event(units=quota * 8 // 10)) == ["counted"]
    [row] = await rows(live_db, "select percent, quota, is_hard from quota_warnings")
    assert tuple(row.values()) == (80, quota, hard)
    async with live_db.api(CARL) as api:
        seen = (await api.get(f"{USAGE}/quota")).json()
    assert (seen["tier"], seen["quota"], seen["is_hard"]) == (tier, quota, hard)
    assert (seen["rate_per_second"], seen["rate_per_minute"]) == (second, minute)


@pytest.mark.parametrize("limit", [7, 70, 997])
async def test_a_limit_that_divides_no_minute_is_exact(live_db: Live, limit: int) -> None:
    """However many of the calls come in one statement, or each in its own."""
    await move_in(live_db)
    await set_terms(live_db, rate_per_second_free=0, rate_per_minute_free=limit, quota_free=0)
    carl = await key_of(live_db)
    noon = datetime(2026, 12, 30, 12, 0, 0, 123457, tzinfo=UTC)
    many = await verify_at(live_db, noon, *[carl.key] * (limit + 1))
    assert codes(many) == [*["VALID"] * limit, "RATE_LIMITED"]
    assert [each["rate"]["remaining"] for each in many] == [*reversed(range(limit)), 0]
    assert many[-2]["rate"]["reset_seconds"] == 60
    later = noon.replace(hour=13)
    alone = [(await verify_at(live_db, later, carl.key))[0] for _ in range(min(limit, 70))]
    assert codes(alone) == ["VALID"] * min(limit, 70)
    assert alone[-1]["rate"]["remaining"] == limit - min(limit, 70)
