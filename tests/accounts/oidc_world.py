"""A browser between Bursar and a provider, and installations whose settings name one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2

from bursar.app import create_app
from bursar.auth.actor import ANYBODY, Kind, Origin
from bursar.auth.door import Door
from tests import databases
from tests.accounts.people import rows
from tests.conftest import Live
from tests.oidc_program import CLIENT, SECRET

PATHS = {Kind.CUSTOMER: "/api/v1/auth/oidc", Kind.STAFF: "/api/v1/admin/auth/oidc"}


def named(issuer: str) -> dict[str, str]:
    """The settings that name one provider for customers and for staff."""
    given = {"issuer": issuer, "client_id": CLIENT, "client_secret": SECRET}
    return {f"{who}_oidc_{k}": v for who in ("customer", "staff") for k, v in given.items()}


@asynccontextmanager
async def installation(issuer: str, **given: Any) -> AsyncIterator[Live]:
    settings = databases.test_settings(**named(issuer), **given)
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    try:
        yield live
    finally:
        await live.database.close()
        await databases.discard(url)


class Browser:
    """Keeps cookies for Bursar, follows the redirects of a provider."""

    def __init__(self, live: Live, kind: Kind = Kind.CUSTOMER) -> None:
        self.kind, self.api = kind, live.api()
        self.web = httpx2.AsyncClient(trust_env=False, timeout=60)

    async def __aenter__(self) -> "Browser":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.aclose()
        await self.web.aclose()

    async def start(self) -> str:
        """Where Bursar sends it."""
        answer = await self.api.get(f"{PATHS[self.kind]}/start")
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def at_provider(self, address: str, **form: str) -> str:
        """Where the provider sends it, once somebody has signed in there."""
        if form:
            answer = await self.web.post(address, data=form)
        else:
            answer = await self.web.get(address)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    async def back(self, callback: str, **changed: str | None) -> httpx2.Response:
        """Follows the link to Bursar, perhaps with a part that somebody has changed."""
        parts = urlsplit(callback)
        query = {**dict(parse_qsl(parts.query)), **changed}
        sent = urlencode({k: v for k, v in query.items() if v is not None})
        return await self.api.get(f"{parts.path}?{sent}")

    async def sign_in(self, **form: str) -> httpx2.Response:
        return await self.back(await self.at_provider(await self.start(), **form))


async def sign_in(live: Live, kind: Kind = Kind.CUSTOMER, **form: str) -> httpx2.Response:
    """In a new browser."""
    async with Browser(live, kind) as browser:
        return await browser.sign_in(**form)


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def customer(live: Live, email: str = "carl@example.com", **given: Any) -> str:
    return await person(live, "users", {"email": email, "email_verified": True, **given})


async def member(live: Live, email: str = "carl@example.com", **given: Any) -> str:
    return await person(live, "admin_users", {"email": email, "role": "support", **given})


async def person(live: Live, table: str, facts: dict[str, Any]) -> str:
    """As though they had been there for long."""
    places = ", ".join(f"${n}" for n in range(1, len(facts) + 1))
    sql = f"insert into {table} ({', '.join(facts)}) values ({places}) returning id"
    [row] = await rows(live, sql, *facts.values())
    return str(row["id"])


TABLES = ("users", "admin_users", "identities", "sessions", "audit_logs")


async def written(live: Live) -> list[int]:
    """How much there is of whatever a sign-in writes."""
    return [len(await rows(live, f"select from {table}")) for table in TABLES]


async def nothing_happened(live: Live) -> bool:
    """Nobody is signed up, linked or signed in."""
    users, _, *rest = await written(live)
    return not any([users, *rest])


def door(live: Live) -> Door:
    return Door(live.database, live.app.state.tokens, Origin(ANYBODY))
