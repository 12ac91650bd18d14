"""The Actor: who a request acts as, in the words of Python, of PostgreSQL and of the log."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from bursar.auth.permissions import GRANTED, Permission, StaffRole
from bursar.core.database import NOBODY, Claim, Role


class Kind(StrEnum):
    """What sort of caller it is."""

    CUSTOMER = "customer"
    STAFF = "staff"
    KEY = "key"
    SYSTEM = "system"
    NOBODY = "nobody"


DATABASE_ROLES = {
    Kind.CUSTOMER: Role.CUSTOMER,
    Kind.KEY: Role.CUSTOMER,
    Kind.STAFF: Role.STAFF,
    Kind.SYSTEM: Role.WORKER,
}


class Scope(StrEnum):
    """How much of what they may do an access token carries."""

    FULL = "full"
    READ = "read"  # staff who look at the portal as a customer, without leave to write
    ENROL = "enrol"  # staff who still owe their second factor: their own account, nothing else


@dataclass(frozen=True)
class Actor:
    """Made once per request from verified facts; a handler never looks at a token itself."""

    kind: Kind
    id: UUID | None = None
    role: StaffRole | None = None
    on_behalf_of: UUID | None = None  # the customer whose key it is
    line: UUID | None = None  # of a key: the first of those that were rotated into one another
    session: UUID | None = None
    impersonator: UUID | None = None  # the member of staff who acts as this customer
    scope: Scope = Scope.FULL
    key_scopes: frozenset[str] = frozenset()
    is_paced: bool = False  # a key, of which only so many calls are taken in a second

    @property
    def customer(self) -> UUID | None:
        """Whose things these are, whether they ask themselves or a key of theirs does."""
        return self.id if self.kind is Kind.CUSTOMER else self.on_behalf_of

    @cached_property
    def claim(self) -> Claim:
        """Its subject is also whose Idempotency-Keys these are: the customer's, whichever of their
        keys asks; the person's of the staff; a service's, which is the line of its keys, or what
        was sent with one would be done again with that into which it was rotated."""
        if self.kind is Kind.NOBODY:
            return NOBODY
        return Claim(DATABASE_ROLES[self.kind], str(self.customer or self.line or self.id or ""))

    def may(self, permission: Permission) -> bool:
        return self.role is not None and permission in GRANTED[self.role]

    @cached_property
    def name(self) -> str:
        """As the log writes it."""
        name = f"{self.kind}:{self.id}" if self.id else str(self.kind)
        return f"{name} by staff:{self.impersonator}" if self.impersonator else name

    @cached_property
    def remembered_as(self) -> str:
        """The same in the ledger, whose operations have said the kind as well from the first day,
        and are never changed. A stored answer cannot say it: row-level security compares whose it
        is with the claim, which says it nowhere."""
        kind = Kind.CUSTOMER if self.customer else self.kind
        return f"{kind}:{self.claim.subject}" if self.claim.subject else str(kind)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose doing a transaction is, and where it came from; the audit writes it down."""

    actor: Actor
    address: str | None = None
    request_id: str | None = None


ANYBODY = Actor(Kind.NOBODY)
SYSTEM = Actor(Kind.SYSTEM)

OPERATOR_ID = UUID("00000000-0000-7000-8000-000000000001")


def operator(role: StaffRole) -> Actor:
    """Whoever runs commands on the server's own machine: no person of the staff table."""
    return Actor(Kind.STAFF, OPERATOR_ID, role)
