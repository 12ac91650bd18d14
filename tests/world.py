"""The people that tests are about, each with a name, so that a failure reads like a story."""

from uuid import UUID

from bursar.auth.actor import Actor, Kind
from bursar.auth.permissions import StaffRole


def _staff(number: int, role: StaffRole) -> Actor:
    return Actor(Kind.STAFF, UUID(f"00000000-0000-7000-8000-0000000000a{number}"), role)


def _customer(number: int) -> Actor:
    return Actor(Kind.CUSTOMER, UUID(f"00000000-0000-7000-8000-0000000000c{number}"))


OLIVIA = _staff(1, StaffRole.OWNER)
ADAM = _staff(2, StaffRole.ADMINISTRATOR)
SUE = _staff(3, StaffRole.SUPPORT)
ANNA = _staff(4, StaffRole.ANALYST)
MARK = _staff(5, StaffRole.MARKETER)
STAFF = (OLIVIA, ADAM, SUE, ANNA, MARK)

CARL = _customer(1)
DORA = _customer(2)
