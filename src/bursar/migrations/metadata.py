"""All tables of Bursar in one place, for migrations and for the check that models match them."""

from typing import Any

from bursar.accounts import models as accounts
from bursar.audit import models as audit
from bursar.auth import models as auth
from bursar.core import idempotency, mail
from bursar.core.database import Base
from bursar.payments import around_models as around_payments
from bursar.payments import models as payments
from bursar.rewards import models as rewards
from bursar.system import models as system
from bursar.wallets import models as wallets

DOMAINS = (
    idempotency,
    mail,
    auth,
    audit,
    system,
    accounts,
    wallets,
    rewards,
    payments,
    around_payments,
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
        "one_time_tokens",
    )
)


def ours(thing: Any, name: str | None, kind: str, reflected: bool, _: Any) -> bool:
    """The tables that models describe; the queue library and migrate itself look after theirs."""
    elsewhere = str(name) in SQL_ONLY or str(name).startswith("pgqueuer")
    return not (kind == "table" and reflected and elsewhere)
