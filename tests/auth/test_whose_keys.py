"""Whose Idempotency-Keys these are; by other names all that was done would be done again."""

from uuid import UUID

import pytest

from bursar.auth.actor import ANYBODY, SYSTEM, Actor, Kind, StaffRole, operator

CARL, OLIVIA, KEY, LINE = (UUID(int=n) for n in range(1, 5))

NAMES = [
    (Actor(Kind.CUSTOMER, CARL), f"{CARL}", f"customer:{CARL}"),
    (Actor(Kind.CUSTOMER, CARL, impersonator=OLIVIA), f"{CARL}", f"customer:{CARL}"),
    (Actor(Kind.KEY, KEY, on_behalf_of=CARL, line=LINE), f"{CARL}", f"customer:{CARL}"),
    (Actor(Kind.KEY, KEY, line=LINE), f"{LINE}", f"key:{LINE}"),
    (Actor(Kind.STAFF, OLIVIA, StaffRole.OWNER), f"{OLIVIA}", f"staff:{OLIVIA}"),
    (operator(StaffRole.OWNER), f"{operator(StaffRole.OWNER).id}",
     "staff:00000000-0000-7000-8000-000000000001"),
    (SYSTEM, "", "system"),
    (ANYBODY, "", "nobody"),
]  # fmt: skip


@pytest.mark.parametrize(("actor", "subject", "scope"), NAMES)
def test_the_names_stay(actor: Actor, subject: str, scope: str) -> None:
    assert (actor.claim.subject, actor.remembered_as) == (subject, scope)
