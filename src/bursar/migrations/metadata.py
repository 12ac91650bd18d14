"""All tables of Bursar in one place, for migrations and for the check that models match them."""

from typing import Any

from bursar.accounts import models as accounts
from bursar.audit import models as audit
from bursar.auth import models as auth
from bursar.billing import models as billing
from bursar.booking import models as booking
from bursar.core import idempotency, mail
from bursar.core.database import Base
from bursar.keys import models as keys
from bursar.metering import models as metering
from bursar.payments import around_models as around_payments
from bursar.payments import models as payments
from bursar.rewards import models as rewards
from bursar.system import models as system
from bursar.wallets import models as wallets
from bursar.webhooks import models as webhooks

DOMAINS = (
    idempotency,
    mail,
    auth,
    audit,
    system,
    accounts,
    webhooks,
    wallets,
    rewards,
    payments,
    booking,
    keys,
    metering,
    around_payments,
    billing,
)  # importing them is what fills the metadata

target_metadata = Base.metadata
SQL_ONLY = frozenset(  # no model describes them: only SQL reads and writes them
    (
        "alembic_version",
        "applied_sql",
        "workers",
        "events",
        "event_positions",
        "attempts",
        "meters",
        "one_time_tokens",
        "provider_times",
        "series_numbers",
        "usage_kept",
    )
)


def ours(thing: Any, name: str | None, kind: str, reflected: bool, _: Any) -> bool:
    """The tables that models describe; the queue library and migrate itself look after theirs, and
    the months of usage (usage_2026_11, …) are parts of a table that is described."""
    elsewhere = str(name) in SQL_ONLY or str(name).startswith(("pgqueuer", "usage_2"))
    return not (kind == "table" and reflected and elsewhere)
