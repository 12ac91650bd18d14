"""A database with everybody of the matrix in it, and what each of them would send where."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import httpx2

from bursar.app import create_app
from bursar.auth import hashes, sessions
from bursar.auth.actor import Kind, operator
from bursar.auth.permissions import StaffRole
from bursar.auth.scopes import CUSTOMERS, SERVICES
from bursar.auth.tokens import LIFETIME_SECONDS, Tokens
from bursar.core.database import Claim, Role
from bursar.keys import secret
from tests import databases
from tests.accounts.people import OTHER_PASSWORD, PASSWORD, rows
from tests.billing.scenery import BILLING_BODIES, set_out_billing
from tests.booking.scenery import BOOKING_BODIES, set_out_booking
from tests.conftest import Live
from tests.matrix import (
    ABSENT,
    AND_STAFF,
    CALLERS,
    CARLS_KEY,
    IVAN,
    NEWCOMER,
    ONLY_ONES_OWN,
    PENDING,
    POOR_KEY,
    SERVICE_KEY,
    STATED,
    TESS,
    Caller,
)
from tests.wallets.scenery import MONEY_BODIES, set_out_money
from tests.webhooks.scenery import WEBHOOK_BODIES, set_out_webhooks
from tests.world import CARL, DORA, OLIVIA, STAFF

# What a caller would send to each route that reads a body; {n} is another number each time.
BODIES: dict[str, Any] = {
    "POST /api/v1/auth/signup": {"email": "new{n}@example.com", "password": PASSWORD},
    "POST /api/v1/auth/login": {"email": "carl@example.com", "password": PASSWORD},
    "POST /api/v1/auth/refresh": {"refresh_token": "x" * 60},
    "POST /api/v1/auth/verify-email": {"token": "x" * 43},
    "POST /api/v1/auth/forgot-password": {"email": "carl@example.com"},
    "POST /api/v1/auth/reset-password": {"token": "x" * 43, "new_password": OTHER_PASSWORD},
    "POST /api/v1/auth/change-password": {
        "current_password": PASSWORD,
        "new_password": OTHER_PASSWORD,
    },
    "POST /api/v1/auth/change-email": {"email": "other{n}@example.com", "password": PASSWORD},
    "PUT /api/v1/users/{user_id}": {"full_name": "Somebody Else {n}"},
    "PUT /api/v1/users/{user_id}/preferences": {"theme": "dark"},
    "POST /api/v1/users/{user_id}/deletion": {"password": PASSWORD},
    "POST /api/v1/admin/auth/login": {"email": "staff-a1@example.com", "password": PASSWORD},
    "POST /api/v1/admin/auth/refresh": {"refreshToken": "x" * 60},
    "POST /api/v1/admin/auth/accept-invitation": {"token": "x" * 43, "password": PASSWORD},
    "POST /api/v1/admin/auth/forgot-password": {"email": "staff-a1@example.com"},
    "POST /api/v1/admin/auth/reset-password": {"token": "x" * 43, "newPassword": OTHER_PASSWORD},
    "POST /api/v1/admin/auth/oidc/code": {"continuation": "x", "code": "123456"},
    "POST /api/v1/admin/auth/change-password": {
        "currentPassword": PASSWORD,
        "newPassword": OTHER_PASSWORD,
    },
    "POST /api/v1/admin/auth/totp": {"password": PASSWORD},
    "POST /api/v1/admin/auth/totp/confirmation": {"code": "123456"},
    "DELETE /api/v1/admin/auth/totp": {"password": PASSWORD, "code": "123456"},
    "POST /api/v1/admin/auth/recovery-codes": {"code": "123456"},
    "POST /api/v1/admin/staff": {"email": "hire{n}@example.com", "role": "analyst"},
    "PUT /api/v1/admin/staff/{member_id}": {"name": "Somebody {n}"},
    "PUT /api/v1/admin/staff/{member_id}/status": {"status": "suspended"},
    "POST /api/v1/admin/users": {"email": "made{n}@example.com"},
    "POST /api/v1/admin/users/status-changes": {"userIds": [str(CARL.id)], "status": "suspended"},
    "PUT /api/v1/admin/users/{user_id}": {"name": "Somebody {n}"},
    "PUT /api/v1/admin/users/{user_id}/status": {"status": "suspended"},
    "POST /api/v1/admin/users/{user_id}/impersonation": {"reason": "They wrote to us"},
    "PUT /api/v1/admin/settings": {"company_name": "Otters {n}"},
    "PUT /api/v1/admin/settings/{key}": {"value": "Otters {n}"},
    "POST /api/v1/api-keys": {"name": "Key {n}"},
    "PUT /api/v1/api-keys/{key_id}": {"name": "Key {n}"},
    "POST /api/v1/api-keys/leaks": [{"token": "x", "type": "bursar_api_key"}],
    "POST /api/v1/api-keys/{key_id}/rotation": {"grace_seconds": 60},
    "POST /api/v1/admin/api-keys": {"name": "Service {n}", "scopes": ["keys:verify"]},
    "PUT /api/v1/admin/api-keys/{key_id}": {"name": "Service {n}"},
    "POST /api/v1/admin/api-keys/{key_id}/rotation": {"graceSeconds": 60},
    "POST /api/v1/keys/verify": {"key": "x", "endpoint": "/v1/things"},
    "POST /api/v1/usage": {"endpoint": "/v1/things", "user_id": str(CARL.id)},
    "POST /api/v1/usage/events": {
        "events": [{"endpoint": "/v1/things", "user_id": str(CARL.id), "event_id": "e{n}"}]
    },
    "POST /api/v1/usage/outcomes": {
        "outcomes": [{"usage_id": str(ABSENT), "user_id": str(CARL.id), "status_code": 200}]
    },
    "POST /api/v1/admin/users/{user_id}/usage/grants": {"units": 5, "reason": "They wrote to us"},
    **MONEY_BODIES,
    **WEBHOOK_BODIES,
    **BOOKING_BODIES,
    **BILLING_BODIES,
}

numbers = count(1)

PASSWORD_HASH = hashes.new(PASSWORD.encode())
CUSTOMER_ROWS = [(CARL, "carl", "active"), (DORA, "dora", "active"), (PENDING, "pia", "pending")]
STAFF_ROWS = [
    *((each.id, str(each.role), "active") for each in (*STAFF, NEWCOMER)),
    (TESS, "marketer", "active"),
    (IVAN, "marketer", "invited"),
]
CUSTOMER_ROW = """
insert into users (id, email, name, password_hash, status, email_verified)
values ($1, $2, initcap($3), $4, $5::text, $5::text = 'active')
on conflict (id) do update set email = excluded.email, name = excluded.name, erased_at = null,
  password_hash = excluded.password_hash, status = excluded.status, username = null,
  email_verified = excluded.email_verified, login_attempts = 0, locked_until = null
"""
STAFF_ROW = """
insert into admin_users (id, email, name, role, status, password_hash, totp_secret,
  totp_confirmed_at)
values ($1, $2, 'Somebody', $3, $4, $5, case when $1 = $6::uuid then 'sealed'::bytea end,
  case when $1 = $6::uuid then now() end)
on conflict (id) do update set email = excluded.email, name = excluded.name, role = excluded.role,
  status = excluded.status, password_hash = excluded.password_hash, login_attempts = 0,
  totp_secret = excluded.totp_secret, totp_confirmed_at = excluded.totp_confirmed_at,
  totp_pending = null
"""

KEY_ROWS = (
    (CARLS_KEY, CARL.id, [*CUSTOMERS]),
    (POOR_KEY, CARL.id, []),
    (SERVICE_KEY, None, [*SERVICES]),
)
SECRETS = {key_id: secret.new() for key_id, _, _ in KEY_ROWS}
KEY_ROW = """
insert into api_keys (id, user_id, scopes, key_hash, start, last_four, last_used_at)
values ($1, $2, $3, $4, left($5, 13), right($5, 4), now())
"""


async def set_out_keys(database: Any) -> None:
    """The same keys each time, as a process may know them by heart; none has called too often."""
    await database.execute("delete from api_keys")
    await database.execute("delete from meters")
    for key_id, user_id, scopes in KEY_ROWS:
        key = SECRETS[key_id]
        await database.execute(KEY_ROW, key_id, user_id, scopes, secret.digest(key), key)


# Whoever writes to a table has locked it like this until the transaction ends, also without a row.
WRITTEN_TO = """
select relation::regclass::text as "table" from pg_locks join pg_class on pg_class.oid = relation
where pid = pg_backend_pid() and locktype = 'relation' and mode = 'RowExclusiveLock'
  and relkind = 'r'
"""


async def set_scene(database: Any) -> tuple[dict[str, Any], set[str]]:
    """Everybody has their account as it was, whatever was done to it; nothing is throttled.

    Answers what has an id of its own this time, by the name that routes give it, and the tables
    that all of this stands in.
    """
    async with database.transaction():
        for actor, name, status in CUSTOMER_ROWS:
            email = f"{name}@example.com"
            await database.execute(CUSTOMER_ROW, actor.id, email, name, PASSWORD_HASH, status)
        for member_id, role, status in STAFF_ROWS:
            email = f"staff-{str(member_id)[-2:]}@example.com"
            stored = PASSWORD_HASH if status == "active" else None
            await database.execute(STAFF_ROW, member_id, email, role, status, stored, TESS)
        await database.execute("delete from attempts")
        await database.execute("delete from user_preferences")
        things = await set_out_money(database, proposer=TESS)
        things |= await set_out_webhooks(database)
        await set_out_keys(database)
        things |= await set_out_billing(database)
        things |= await set_out_booking(database)
        return things, {row["table"] for row in await database.fetch(WRITTEN_TO)}


async def sign_in_all(live: Live, tokens: Tokens) -> dict[str, tuple[str | None, UUID | None]]:
    """By the name of the caller: the access token and the session of it."""
    found: dict[str, tuple[str | None, UUID | None]] = {}
    async with live.database.transaction(Claim(Role.DOOR)) as db:
        for caller in CALLERS:
            actor = caller.actor
            if caller.key:
                found[caller.name] = SECRETS[caller.key], None
                continue
            if actor is None or actor.id is None or caller.name == "operator":
                continue
            by = caller.impersonator
            opened = await sessions.open(
                db,
                actor.kind,
                actor.id,
                method="impersonation" if by else "password",
                scope=caller.scope,
                impersonator=by.id if by else None,
            )
            token = tokens.sign(opened.actor(actor.role))
            found[caller.name] = token, opened.session_id
            if caller.name == "ended session":
                await sessions.end(db, opened.session_id, reason="signed_out")
    found["nobody"] = None, None
    found["expired token"] = tokens.sign(CARL, lifetime_seconds=-60), None
    found["token of a stranger's making"] = Tokens(["of a stranger"]).sign(OLIVIA), None
    found["operator"] = tokens.sign(operator(StaffRole.OWNER)), None
    await live.app.state.endings.look()
    return found


TABLES = """
select format('select %L as "table", count(*), sum(age(xmin)) - count(*) * age(xid ''3'') as sum
  from %s', c.oid::regclass, c.oid::regclass) as query
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
  and c.relname <> 'meters' -- a call of a key uses up some of its rate
"""


SESSIONS = "select count(*), sum(xmin::text::bigint) from sessions"


async def fingerprint_query(live: Live) -> str:
    """Every row of every table by the transaction that wrote it, in one number each: what does not
    change it has written nothing, not even the same once more."""
    return " union all ".join(row["query"] for row in await rows(live, TABLES))


@dataclass
class Scene:
    """A database with everybody in it, and what each caller shows at the door."""

    live: Live
    api: httpx2.AsyncClient
    database: asyncpg.Connection
    fingerprints: str
    tokens: Tokens
    signed_in: dict[str, tuple[str | None, UUID | None]] = field(default_factory=dict)
    signed_in_at: float = 0
    sessions: asyncpg.Record | None = None  # as they were then; to open them all takes long
    things: dict[str, Any] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    looked: tuple[str, dict[str, Any]] = "", {}

    async def begin(self) -> None:
        self.things, tables = await set_scene(self.database)
        self.tables = {*tables, "sessions"}
        is_old = monotonic() - self.signed_in_at > LIFETIME_SECONDS / 2
        if is_old or await self.database.fetchrow(SESSIONS) != self.sessions:
            self.signed_in_at = monotonic()
            await self.database.execute("delete from sessions")
            self.signed_in = await sign_in_all(self.live, self.tokens)
            self.sessions = await self.database.fetchrow(SESSIONS)

    async def fingerprint(self) -> dict[str, Any]:
        """As long as no transaction that writes has ended on the whole server, what it was."""
        moment = await self.database.fetchval("select pg_current_snapshot()::text")
        if moment != self.looked[0]:
            found = await self.database.fetch(self.fingerprints)
            self.looked = moment, {row["table"]: (row["count"], row["sum"]) for row in found}
        return dict(self.looked[1])

    async def call(self, route: str, caller: Caller, path: str, **headers: str) -> httpx2.Response:
        token, _ = self.signed_in[caller.name]
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = json.dumps(BODIES[route]) if route in BODIES else None
        if body:
            headers["Content-Type"] = "application/json"
            body = body.replace("{n}", str(next(numbers)))
        return await self.api.request(route.split()[0], path, content=body, headers=headers)

    def path(self, route: str, caller: Caller | None, *, absent: bool = False) -> str:
        """Of the caller's own thing where such things have an owner; None: of somebody else's."""
        return re.sub(
            r"{(\w+)}",
            lambda found: str(ABSENT if absent else self.thing(route, found[1], caller)),
            route.split()[1],
        )

    def thing(self, route: str, name: str, caller: Caller | None) -> Any:
        if name == "key_id":
            return SERVICE_KEY if "/admin/" in route else CARLS_KEY
        if name == "session_id":
            return self.signed_in[caller.name if caller else "carl, customer"][1] or ABSENT
        actor = caller.actor if caller else None
        theirs = STATED[route] in ONLY_ONES_OWN or (
            STATED[route].startswith(AND_STAFF) and actor and actor.kind is Kind.CUSTOMER
        )
        if name == "user_id" and theirs:
            return actor.id if actor else CARL.id
        things = {
            "provider": "stripe",
            "user_id": CARL.id,
            "key": "company_name",
            "member_id": TESS,
            **self.things,
        }
        found = IVAN if route.endswith("/invitation") else things[name]
        if isinstance(found, dict):  # each customer has one of their own
            return found.get(actor.id if actor else CARL.id, found[CARL.id])
        return found


@asynccontextmanager
async def opened(**given: Any) -> AsyncIterator[Scene]:
    settings = databases.test_settings(**given)
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    database = await asyncpg.connect(databases.raw(url))
    query = await fingerprint_query(live)
    async with live.api() as api:
        yield Scene(live, api, database, query, Tokens(settings.secret_keys))
    await database.close()
    await live.app.state.till.close()
    await live.database.close()
    await databases.discard(url)
