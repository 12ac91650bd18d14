"""Staff as they go over the wire, all in camelCase; a secret stands in an answer once or never."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from bursar.accounts.emails import Email
from bursar.accounts.models import StaffStatus
from bursar.accounts.schemas import FullName, NewPassword, Password, Token
from bursar.accounts.sign_in import SignedIn
from bursar.auth.actor import OPERATOR_ID, Actor, Scope
from bursar.auth.permissions import GRANTED, Permission, StaffRole
from bursar.core.paging import PageFields
from bursar.core.wire import Moment, StaffWire

Code = Annotated[
    str,
    Field(min_length=1, max_length=100, description="Of the authenticator, or a recovery code."),
]


class StaffOut(StaffWire):
    """Somebody who works here; the version is the ETag."""

    id: UUID
    email: str
    name: str
    role: StaffRole
    status: StaffStatus
    has_second_factor: bool
    invited_by: UUID | None
    last_login: Moment | None
    created_at: Moment
    updated_at: Moment
    version: int


class StaffList(PageFields, StaffWire):
    """One page of the people who work here."""

    staff: list[StaffOut]


class StaffStats(StaffWire):
    """How many people work here, by status and by role, and those who came last."""

    total: int
    by_status: dict[str, int]
    by_role: dict[str, int]
    recent: list[StaffOut]


class NewStaff(StaffWire):
    """Somebody who is invited to work here."""

    email: Email
    name: FullName = ""
    role: StaffRole


class StaffEdit(StaffWire):
    """What changes of a member of staff; what is left out stays as it is."""

    email: Email | None = None
    name: FullName | None = None
    role: StaffRole | None = None

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in dict(self).items() if value is not None}


class StaffStatusChange(StaffWire):
    """Whether somebody may come in. Invited and deleted are not for setting."""

    status: Literal[StaffStatus.ACTIVE, StaffStatus.SUSPENDED]


class StaffSignIn(StaffWire):
    """E-mail address and password, and the code of the second factor where there is one."""

    email: Annotated[str, Field(min_length=1, max_length=254)]
    password: Password
    code: Code | None = None


class StaffSignedIn(StaffWire):
    """Somebody is in: who, and the two tokens."""

    user: StaffOut
    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of it
    expires_in: int = Field(description="Seconds that the access token is good for.")
    scope: Scope = Field(description="`enrol`: nothing but setting up a second factor, yet.")

    @classmethod
    def of(cls, signed_in: SignedIn) -> "StaffSignedIn":
        return cls(
            user=StaffOut.model_validate(signed_in.person),
            access_token=signed_in.access_token,
            refresh_token=signed_in.refresh_token,
            expires_in=signed_in.expires_in,
            scope=signed_in.scope,
        )


class StaffRefresh(StaffWire):
    """The refresh token that was given last; each is good once."""

    refresh_token: Token


class StaffEmailOnly(StaffWire):
    """An e-mail address."""

    email: Email


class StaffPasswordByLink(StaffWire):
    """A new password, by a link that came by mail."""

    token: Token
    new_password: NewPassword


class StaffPasswordChange(StaffWire):
    """The present password and the next one."""

    current_password: Password
    new_password: NewPassword


class Acceptance(StaffWire):
    """What an invited member of staff chooses; without a name the one of the invitation stays."""

    token: Token
    password: NewPassword
    name: FullName | None = None


class Said(StaffWire):
    """What was done, in a sentence."""

    message: str


class Me(StaffWire):
    """Who is signed in, and what they may do. An operator's token is of no person."""

    id: UUID
    email: str | None
    name: str
    role: StaffRole
    status: StaffStatus
    permissions: list[Permission]
    scope: Scope
    has_second_factor: bool
    recovery_codes_left: int
    last_login: Moment | None
    created_at: Moment | None

    @classmethod
    def of(cls, actor: Actor, person: Any, recovery_codes_left: int) -> "Me":
        fields = {name: getattr(person, name, None) for name in cls.model_fields}
        return cls.model_validate(
            {
                **fields,
                "permissions": permissions_of(StaffRole(person.role)),
                "scope": actor.scope,
                "recovery_codes_left": recovery_codes_left,
            }
        )

    @classmethod
    def operator(cls, actor: Actor) -> "Me":
        role = actor.role or StaffRole.OWNER
        return cls(
            id=OPERATOR_ID,
            email=None,
            name="Operator",
            role=role,
            status=StaffStatus.ACTIVE,
            permissions=permissions_of(role),
            scope=actor.scope,
            has_second_factor=False,
            recovery_codes_left=0,
            last_login=None,
            created_at=None,
        )


def permissions_of(role: StaffRole) -> list[Permission]:
    return sorted(GRANTED[role])


class StaffSession(StaffWire):
    """A place where somebody is signed in."""

    id: UUID
    current: bool
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    address: str | None
    user_agent: str | None
    method: str

    @classmethod
    def of(cls, row: Any, actor: Actor) -> "StaffSession":
        fields = {name: getattr(row, name, None) for name in cls.model_fields}
        return cls.model_validate({**fields, "current": row.id == actor.session})


class StaffSessions(PageFields, StaffWire):
    """Where somebody is signed in."""

    sessions: list[StaffSession]


class StaffSessionsEnded(StaffWire):
    """How many sessions have ended."""

    ended: int


class SecondFactorWish(StaffWire):
    """The password again, and a code where there is a second factor already."""

    password: Password | None = None
    code: Code | None = None


class SecondFactorBegun(StaffWire):
    """For the authenticator, told once; it holds when a code of it was sent."""

    secret: str
    uri: str = Field(description="What a QR code for the authenticator says.")


class CodeOnly(StaffWire):
    """A code of the second factor."""

    code: Code


class SecondFactorAdded(StaffWire):
    """The second factor holds. The recovery codes are told once; the token carries everything."""

    recovery_codes: Sequence[str]
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of it
    expires_in: int
    scope: Scope = Scope.FULL


class SecondFactorRemoval(StaffWire):
    """The password and a code."""

    password: Password | None = None
    code: Code


class RecoveryCodes(StaffWire):
    """New recovery codes, told once; those from before are good no more."""

    recovery_codes: Sequence[str]
