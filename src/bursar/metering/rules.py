"""What each tier may use, in a second, a minute and a month, and how long usage is kept."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import Tier
from bursar.system import queries as system
from bursar.system.catalogue import Setting, setting

MOST = 10**12

QUOTAS = {Tier.FREE: 1_000, Tier.PRO: 100_000, Tier.ENTERPRISE: 10_000_000}
SECONDS = {Tier.FREE: 10, Tier.PRO: 100, Tier.ENTERPRISE: 1_000}
MINUTES = {Tier.FREE: 300, Tier.PRO: 3_000, Tier.ENTERPRISE: 30_000}


def of_tier(
    key: str, kind: Any, tier: Tier, default: Any, says: str, **limits: Any
) -> Setting[Any]:
    return setting(f"{key}_{tier}", kind, default, f"{says} (tier {tier}).", **limits)


NUMBER = {"ge": 0, "le": MOST}
TERMS: dict[str, Setting[Any]] = {}
for _tier in Tier:
    for _declared in (
        of_tier(
            "quota", int, _tier, QUOTAS[_tier],
            "Calls in a month (UTC) that a customer has; 0: without end", **NUMBER,
        ),
        of_tier(
            "quota_hard", bool, _tier, _tier is not Tier.ENTERPRISE,
            "Whether calls are refused when the month's quota is used up",
        ),
        of_tier(
            "rate_per_second", int, _tier, SECONDS[_tier],
            "Calls in a second, of all keys of a customer together; 0: without end", **NUMBER,
        ),
        of_tier(
            "rate_per_minute", int, _tier, MINUTES[_tier],
            "Calls in a minute, of all keys of a customer together; 0: without end", **NUMBER,
        ),
    ):  # fmt: skip
        TERMS[_declared.key] = _declared

USAGE_RETENTION_MONTHS = setting(
    "usage_retention_months",
    int,
    13,
    "How many whole months raw usage is kept beside the current one; summaries stay.",
    ge=1,
    le=120,
)

DEFAULTS = {key: declared.default for key, declared in TERMS.items()}
"""For the SQL functions, which lay over it what staff have set."""


async def terms(db: AsyncSession) -> Mapping[str, Any]:
    """What holds now, by the key of its setting."""
    return {key: await system.value(db, declared) for key, declared in TERMS.items()}
