"""What staff may set of payments."""

from decimal import Decimal

from bursar.system.catalogue import setting

TOP_UP_LEAST = setting(
    "top_up_least",
    Decimal,
    Decimal(1),
    "The smallest amount that customers may pay into their wallet at once, in units of each"
    " currency.",
    gt=0,
    le=Decimal(10) ** 9,
)
TOP_UP_MOST = setting(
    "top_up_most",
    Decimal,
    Decimal(10_000),
    "The largest amount that customers may pay into their wallet at once, in units of each"
    " currency.",
    gt=0,
    le=Decimal(10) ** 9,
)
ABANDONED_HOURS = setting(
    "payments_abandoned_hours",
    int,
    72,
    "After how many hours a payment that nobody has gone on with is given up at its provider.",
    ge=1,
    le=8760,
)
EVENTS_DAYS = setting(
    "payment_events_days",
    int,
    90,
    "How many days webhooks of providers are kept after they have been dealt with.",
    ge=7,
    le=3650,
)
RECEIPTS_MAILED = setting(
    "receipts_mailed",
    bool,
    True,
    "Whether customers get their receipt by mail when a payment completes.",
)
