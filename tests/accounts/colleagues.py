"""The people who work here, as they really come in: with a password, by the routes of staff."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx2
import pyotp

from bursar.accounts import joining
from bursar.auth.actor import Origin, operator
from bursar.auth.door import Door
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import Tokens
from tests.accounts.people import OTHER_PASSWORD, PASSWORD, rows
from tests.conftest import Live

DOOR = "/api/v1/admin/auth"
STAFF = "/api/v1/admin/staff"
OWNER, ADMINISTRATOR, SUPPORT = StaffRole.OWNER, StaffRole.ADMINISTRATOR, StaffRole.SUPPORT
ANALYST = StaffRole.ANALYST


@dataclass
class Colleague:
    """Somebody who works here, with the tokens of one session."""

    id: str
    email: str
    access_token: str
    refresh_token: str
    scope: str

    @property
    def signed(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


def door(live: Live) -> Door:
    """The operator's, as the command opens it."""
    return Door(live.database, Tokens(live.settings.secret_keys), Origin(operator(OWNER)))


async def hire(live: Live, name: str, role: StaffRole = OWNER) -> str:
    """`olivia` is olivia@example.com."""
    member = await joining.create(
        door(live), email=f"{name}@example.com", name=name.title(), role=role, password=PASSWORD
    )
    return str(member.id)


async def try_login(
    api: httpx2.AsyncClient, name: str, password: str = PASSWORD, **more: Any
) -> httpx2.Response:
    body = {"email": f"{name}@example.com", "password": password, **more}
    return await api.post(f"{DOOR}/login", json=body)


async def log_in(api: httpx2.AsyncClient, name: str, **more: Any) -> Colleague:
    answer = await try_login(api, name, **more)
    assert answer.status_code == 200, answer.text
    return colleague(answer)


def colleague(answer: httpx2.Response) -> Colleague:
    body = answer.json()
    user = body["user"]
    return Colleague(
        user["id"], user["email"], body["accessToken"], body["refreshToken"], body["scope"]
    )


async def hired(
    live: Live, api: httpx2.AsyncClient, name: str, role: StaffRole = OWNER
) -> Colleague:
    await hire(live, name, role)
    return await log_in(api, name)


async def enrol(api: httpx2.AsyncClient, who: Colleague) -> tuple[str, list[str]]:
    """A second factor: the secret in the authenticator, and the recovery codes."""
    begun = await api.post(f"{DOOR}/totp", json={"password": PASSWORD}, headers=who.signed)
    assert begun.status_code == 200, begun.text
    secret = begun.json()["secret"]
    confirmed = await api.post(
        f"{DOOR}/totp/confirmation", json={"code": code_of(secret)}, headers=who.signed
    )
    assert confirmed.status_code == 200, confirmed.text
    who.access_token = confirmed.json()["accessToken"]
    return secret, confirmed.json()["recoveryCodes"]


def code_of(secret: str) -> str:
    return pyotp.TOTP(secret).now()


async def let_time_pass(live: Live) -> None:
    """As though the last code was used a while ago, and nobody had tried anything since."""
    await rows(live, "update admin_users set totp_last_step = totp_last_step - 10")
    await rows(live, "delete from attempts")


async def trail(live: Live, target: str | UUID) -> list[Any]:
    query = "select event_type, actor_kind, actor_id, before::text, after::text from audit_logs"
    return await rows(live, f"{query} where target_id = $1 order by id", str(target))


async def everything_audited(live: Live) -> str:
    """The whole trail as one text, to look for what must not be in it."""
    [row] = await rows(live, "select coalesce(string_agg(a::text, ' '), '') t from audit_logs a")
    return str(row["t"])


async def invite(api: httpx2.AsyncClient, email: str = "ivan@example.com", **more: Any) -> Any:
    body = {"email": email, "name": "Ivan", "role": "support", **more}
    answer = await api.post(STAFF, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def accept(api: httpx2.AsyncClient, token: str, **more: Any) -> httpx2.Response:
    body = {"token": token, "password": OTHER_PASSWORD, **more}
    return await api.post(f"{DOOR}/accept-invitation", json=body)


def code(answer: httpx2.Response) -> tuple[int, str]:
    """How it was refused; an empty code where it was not."""
    return answer.status_code, answer.json().get("code", "")
