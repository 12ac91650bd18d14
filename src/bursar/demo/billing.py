"""Demo data of billing: what calls cost this company's customers, by the verbs that staff use."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import service
from bursar.billing.models import BillingMeter
from bursar.billing.months import month_of

METERS: tuple[dict[str, Any], ...] = (
    {"code": "calls", "name": "All calls", "counts": "calls", "endpoints": []},
    {"code": "orders", "name": "Orders", "counts": "units", "endpoints": ["/v1/orders"]},
)
EVERYBODY = {"currency": "USD", "tier": None, "user_id": None, "included": 0, "last_month": None}
PLANS: tuple[dict[str, Any], ...] = (
    {
        **EVERYBODY,
        "name": "Calls",
        "meter": "calls",
        "charging": "monthly",
        "included": 100,
        "price_tiers": [
            {"up_to": 1000, "unit_price": "0.002"},
            {"up_to": None, "unit_price": "0.0015"},
        ],
    },
    {
        **EVERYBODY,
        "name": "Orders, pro",
        "meter": "orders",
        "charging": "at_once",
        "tier": "pro",
        "price_tiers": [{"up_to": None, "unit_price": "0.01"}],
    },
)


async def add(db: AsyncSession) -> int:
    """All of them or none, so that a second time finds them there."""
    if await db.scalar(select(BillingMeter.code).limit(1)) is None:
        for meter in METERS:
            await service.add_meter(db, meter)
        month = month_of(datetime.now(UTC))
        for plan in PLANS:
            await service.add_plan(db, {**plan, "first_month": month})
    return len(PLANS)
