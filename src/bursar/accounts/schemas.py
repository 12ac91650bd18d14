"""Customers as they go over the wire: to themselves in snake_case, to staff in camelCase."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue, StrictBool, computed_field, model_validator

from bursar.accounts.emails import Email
from bursar.accounts.models import CustomerRole, Status, Tier
from bursar.accounts.sign_in import SignedIn
from bursar.auth.actor import Scope
from bursar.auth.passwords import FEWEST_CHARACTERS, MOST_BYTES
from bursar.core.paging import PageFields
from bursar.core.wire import Line, Moment, StaffWire, Wire

Name = Annotated[Line, Field(max_length=100)]
FullName = Annotated[Line, Field(max_length=200)]
Username = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,48}[A-Za-z0-9]$",
        description="3 to 50 letters, digits, dots, dashes and underscores.",
    ),
]
SECRET: dict[str, JsonValue] = {"format": "password", "maxLength": MOST_BYTES}
Password = Annotated[str, Field(min_length=1, json_schema_extra=SECRET)]
"""How long and how common it may be is said by one place: auth/passwords.py."""
NewPassword = Annotated[str, Field(min_length=FEWEST_CHARACTERS, json_schema_extra=SECRET)]
Token = Annotated[str, Field(min_length=1, max_length=500)]
Reason = Annotated[Line, Field(max_length=500)]


class UserFields(BaseModel):
    """What everybody who may see a customer sees."""

    id: UUID
    email: str
    email_verified: bool
    username: str | None
    name: str
    first_name: str
    last_name: str
    user_type: str
    role: str
    tier: str
    status: str
    is_active: bool
    last_login: Moment | None
    created_at: Moment
    updated_at: Moment

    @computed_field  # type: ignore[prop-decorator]
    @property
    def full_name(self) -> str:
        return self.name


class UserOut(UserFields, Wire):
    """A customer, as they see themselves."""


class UserForStaff(UserFields, StaffWire):
    """A customer, as staff see them; the version is the ETag."""

    version: int
    deleted_at: Moment | None
    erased_at: Moment | None


class UserList(PageFields, StaffWire):
    """One page of customers."""

    users: list[UserForStaff]


class Naming(BaseModel):
    """A whole name or its two parts, not both."""

    full_name: FullName | None = None
    name: FullName | None = None
    first_name: Name | None = None
    last_name: Name | None = None

    @model_validator(mode="after")
    def one_way(self) -> "Naming":
        whole = self.full_name or self.name
        if whole and (self.first_name or self.last_name):
            raise ValueError("Send full_name, or first_name and last_name, not both.")
        return self

    def names(self) -> dict[str, str]:
        """As the table wants it; the trigger keeps the rest in step."""
        if (whole := self.full_name or self.name) is not None:
            return {"name": whole}
        given = {"first_name": self.first_name, "last_name": self.last_name}
        return {key: value for key, value in given.items() if value is not None}


class SignUp(Naming, Wire):
    """Somebody who wants an account."""

    email: Email
    password: NewPassword
    username: Username | None = None

    def facts(self) -> dict[str, str]:
        username = {"username": self.username} if self.username else {}
        return {"email": self.email, **username, **self.names()}


class SignIn(Wire):
    """E-mail address and password."""

    email: Annotated[str, Field(min_length=1, max_length=254)]
    password: Password


class SignedInOut(Wire):
    """Somebody is in: who, and the two tokens."""

    user: UserOut
    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds that the access token is good for.")
    scope: Scope = Field(description="`enrol`: nothing but verifying the e-mail address, yet.")

    @classmethod
    def of(cls, signed_in: SignedIn) -> "SignedInOut":
        return cls(
            user=UserOut.model_validate(signed_in.person),
            access_token=signed_in.access_token,
            refresh_token=signed_in.refresh_token,
            expires_in=signed_in.expires_in,
            scope=signed_in.scope,
        )


class Refresh(Wire):
    """The refresh token that was given last; each is good once."""

    refresh_token: Token


class Link(Wire):
    """The token of a link that came by mail."""

    token: Token


class EmailOnly(Wire):
    """An e-mail address."""

    email: Email


class NewPasswordByLink(Link):
    """A new password, by a link that came by mail."""

    new_password: NewPassword


class PasswordChange(Wire):
    """The present password and the next one."""

    current_password: Password
    new_password: NewPassword


class EmailChange(Wire):
    """The address that the account is to have; the password, if the account has one."""

    email: Email
    password: Password | None = None


class Deletion(Wire):
    """The password once more, if the account has one."""

    password: Password | None = None


class Said(Wire):
    """What was done, in a sentence."""

    message: str


class SessionOut(Wire):
    """A place where somebody is signed in."""

    id: UUID
    current: bool
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    address: str | None
    user_agent: str | None
    method: str


class SessionList(PageFields, Wire):
    """Where somebody is signed in."""

    sessions: list[SessionOut]


class SessionsEnded(Wire):
    """How many sessions have ended."""

    ended: int


class UserChange(Naming, Wire):
    """What customers may change of their account; what is left out stays as it is."""

    username: Username | None = None

    def facts(self) -> dict[str, str | None]:
        username = {"username": self.username} if "username" in self.model_fields_set else {}
        return {**username, **self.names()}


class Notifications(Wire):
    """What somebody wants to be told of by mail."""

    receipts: StrictBool = True
    security: Literal[True] = True
    product_news: StrictBool = False
    offers: StrictBool = False


class Preferences(Wire):
    """What a customer has chosen; what is left out has its default."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$")] = "en"
    timezone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = "UTC"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    theme: Literal["system", "light", "dark"] = "system"
    notifications: Notifications = Notifications()


class NewUser(Naming, StaffWire):
    """A customer whom staff add; they choose a password by the link of a reset."""

    email: Email
    username: Username | None = None
    role: CustomerRole = CustomerRole.INDIVIDUAL_CLIENT
    tier: Tier = Tier.FREE
    status: Literal[Status.ACTIVE, Status.SUSPENDED, Status.PENDING] = Status.ACTIVE
    email_verified: StrictBool = False

    def facts(self) -> dict[str, object]:
        rest = self.model_dump(include={"email", "username", "role", "tier", "status"})
        return {**rest, "email_verified": self.email_verified, **self.names()}


class UserEdit(Naming, StaffWire):
    """What staff change of a customer; what is left out stays as it is."""

    email: Email | None = None
    username: Username | None = None
    role: CustomerRole | None = None
    tier: Tier | None = None

    def facts(self) -> dict[str, object]:
        plain = {"email", "role", "tier"}
        facts = {k: v for k, v in self.model_dump(include=plain).items() if v is not None}
        username = {"username": self.username} if "username" in self.model_fields_set else {}
        return {**facts, **username, **self.names()}


class StatusChange(StaffWire):
    """Another status, and why."""

    status: Status
    reason: Reason | None = None


class StatusChanges(StatusChange):
    """Another status for many at once: all of them or none."""

    user_ids: Annotated[list[UUID], Field(min_length=1, max_length=1000)]


class StatusesChanged(StaffWire):
    """Who has another status now; the others had it before."""

    changed: list[UUID]


class UserStats(StaffWire):
    """How many customers there are, by status, and the newest of them."""

    total: int
    by_status: dict[str, int]
    active: int
    new_this_month: int
    recent: list[UserForStaff]


class Impersonation(StaffWire):
    """Why a member of staff wants to be a customer for a while, and whether to change things."""

    reason: Annotated[Reason, Field(min_length=3)]
    write: StrictBool = False


class Impersonating(StaffWire):
    """An access token as the customer; it cannot be refreshed."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int
    scope: Scope
