"""Which scopes there are, how long a replaced key lives on, and how many keys somebody may have."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated

from pydantic import StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.scopes import CUSTOMERS, SERVICES
from bursar.core.errors import InvalidInput
from bursar.system import queries as system
from bursar.system.catalogue import setting

MOST_KEYS = 100  # of one customer that are good
LONGEST_GRACE = timedelta(days=30)

ScopeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.:-]{0,99}$")]


def demand_own(names: list[str]) -> list[str]:
    """A name that Bursar itself knows would promise what no key of a customer's can have."""
    if taken := sorted({*CUSTOMERS, *SERVICES}.intersection(names)):
        raise ValueError(f"may not name {taken[0]}, which is a scope of Bursar itself")
    return names


API_SCOPES = setting(
    "api_scopes",
    list[ScopeName],
    [],
    "Scopes of your own API that customers may give their keys; keys/verify asks for them.",
    check=demand_own,
    max_length=100,
)


async def demand_scopes(db: AsyncSession, scopes: Iterable[str], *, service: bool) -> list[str]:
    """Each once and in order, or the sentence that names those there are."""
    own: list[str] = await system.value(db, API_SCOPES)
    known: set[str] = {*SERVICES} if service else {*CUSTOMERS, *own}
    wanted = sorted(set(scopes))
    if unknown := [name for name in wanted if name not in known]:
        allowed = ", ".join(sorted(known))
        raise InvalidInput.at(
            "/scopes",
            f"There is no scope {unknown[0][:100]!r}; there are: {allowed}.",
            "unknown_scope",
        )
    return wanted
