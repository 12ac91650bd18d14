"""A deed leaves one row, in its transaction, without secrets; nobody takes it back."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from bursar.audit import redaction, service
from bursar.auth.actor import ANYBODY, Actor, Kind, Origin
from bursar.core.database import WORKER, Claim, Role, plain_dsn, role_url
from tests.audit.trail import Trail
from tests.conftest import Live
from tests.databases import raw
from tests.world import CARL, DORA, OLIVIA, SUE

KEY = Actor(Kind.KEY, uuid4(), on_behalf_of=CARL.id)


async def test_a_row_says_who_did_what_to_what_and_from_where(trail: Trail) -> None:
    begun = datetime.now(UTC)
    origin = Origin(SUE, "203.0.113.7", "r-1")
    async with trail.live.database.transaction(SUE.claim, origin=origin) as db:
        await service.record(
            db,
            "users.suspended",
            "user",
            CARL.id,
            before={"status": "active", "name": "Carl"},
            after={"status": "suspended", "name": "Carl"},
        )
    [row] = await trail.fetch("select * from audit_logs")
    assert (row["event_type"], row["target_type"]) == ("users.suspended", "user")
    assert (row["actor_kind"], row["actor_id"], row["subject"]) == ("staff", SUE.id, SUE.id)
    assert row["target_id"] == str(CARL.id)
    assert (row["before"], row["after"]) == ('{"status":"active"}', '{"status":"suspended"}')
    assert (row["address"], row["request_id"]) == ("203.0.113.7", "r-1")
    assert row["login_role"] == "staff_user"
    assert begun <= row["occurred_at"] <= datetime.now(UTC)


async def test_without_an_origin_it_is_the_system(trail: Trail) -> None:
    async with trail.live.database.transaction(WORKER) as db:
        await service.record(db, "tests.done")
    [row] = await trail.fetch("select * from audit_logs")
    assert (row["actor_kind"], row["actor_id"], row["login_role"]) == (
        "system",
        None,
        "worker_user",
    )


async def test_the_actor_may_be_known_only_during_the_request(trail: Trail) -> None:
    door = Claim(Role.DOOR)
    async with trail.live.database.transaction(door, origin=Origin(ANYBODY, "::1", "r")) as db:
        await service.record(db, "users.signed_in", "user", DORA.id, actor=DORA)
    [row] = await trail.fetch("select * from audit_logs")
    assert (row["actor_kind"], row["actor_id"], row["address"]) == ("customer", DORA.id, "::1")
    assert row["login_role"] == "auth_user"


async def test_whoever_acts_as_a_customer_is_named(trail: Trail) -> None:
    await trail.deed(actor=await trail.acting_as(CARL, by=SUE))
    [row] = await trail.fetch("select * from audit_logs")
    assert (row["actor_id"], row["impersonator_id"]) == (CARL.id, SUE.id)


async def test_a_key_acts_for_its_customer(trail: Trail) -> None:
    await trail.deed(actor=KEY)
    [row] = await trail.fetch("select * from audit_logs")
    assert (row["actor_kind"], row["actor_id"]) == ("key", KEY.id)
    assert row["on_behalf_of"] == row["subject"] == CARL.id


async def test_what_is_rolled_back_leaves_no_row(trail: Trail) -> None:
    with suppress(ZeroDivisionError):
        async with trail.live.database.transaction(OLIVIA.claim, origin=Origin(OLIVIA)) as db:
            await service.record(db, "tests.done")
            raise ZeroDivisionError
    assert await trail.fetch("select from audit_logs") == []
    assert await trail.fetch("select from audit_unsealed") == []


KEPT = {  # table: what an update of it would do
    "audit_logs": "event_type = event_type",
    "audit_seals": "hash = hash",
    "audit_checkpoints": "document = document",
    "audit_shipments": "place = place",
    "audit_chains": "installation = installation",
}


@pytest.mark.parametrize("role", list(Role))
async def test_no_login_role_rewrites_the_trail(trail: Trail, role: Role) -> None:
    await trail.deed()
    await trail.checkpoint()
    for table in KEPT:
        for statement in (
            f"update {table} set {KEPT[table]}",
            f"delete from {table}",
            f"truncate {table}",
            f"alter table {table} disable trigger all",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await run_as(trail.live, role, statement)


async def test_nobody_but_the_function_writes_a_row(trail: Trail) -> None:
    for role in Role:
        for statement in (
            """insert into audit_logs (event_type, actor_kind, occurred_at, login_role, xid)
               values ('tests.forged', 'staff', now(), 'staff_user', 1)""",
            "insert into audit_unsealed values (1, uuid7())",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await run_as(trail.live, role, statement)


async def test_not_even_the_owner_rewrites_it(trail: Trail) -> None:
    await trail.deed()
    await trail.checkpoint()
    await trail.fetch("insert into audit_shipments (seq, place) values (1, 'x')")
    for table, what in KEPT.items():
        for statement in (
            f"delete from {table}",
            f"truncate {table}",
            f"update {table} set {what}",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await trail.fetch(statement)


async def test_what_waits_for_its_seal_cannot_be_taken_off(trail: Trail) -> None:
    await trail.deed()
    for role in (None, Role.WORKER):
        with pytest.raises(asyncpg.RestrictViolationError):
            await run_as(trail.live, role, "delete from audit_unsealed")


async def test_a_customers_login_role_cannot_speak_as_staff(trail: Trail) -> None:
    nulls = ", ".join(["null"] * 4)
    forged = f"select record_audit('tests.done', {nulls}, 'staff', {nulls}, null)"
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await run_as(trail.live, Role.CUSTOMER, forged)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run_as(trail.live, Role.ANALYTICS, forged)


@pytest.mark.parametrize(
    ("kind", "actor", "customer", "impersonator"),
    [
        ("customer", CARL.id, None, None),  # another customer than the one who asks
        ("customer", None, None, None),
        ("customer", DORA.id, CARL.id, None),
        ("customer", DORA.id, None, SUE.id),  # who does not act as her
        ("customer", CARL.id, None, SUE.id),
        ("key", DORA.id, CARL.id, None),
        ("key", KEY.id, None, None),
        ("system", None, None, None),
        ("nobody", None, None, None),
        ("staff", SUE.id, DORA.id, None),
    ],
)
async def test_a_customers_login_role_speaks_for_one_customer(
    trail: Trail, kind: str, actor: UUID | None, customer: UUID | None, impersonator: UUID | None
) -> None:
    await trail.acting_as(CARL, by=SUE)
    given = {"kind": kind, "actor": actor, "customer": customer, "by": impersonator}
    with pytest.raises(Exception, match="this is no actor that app_user may name"):
        async with trail.live.database.transaction(DORA.claim) as db:
            await db.execute(FORGED, given)


FORGED = text("""
  select record_audit('tests.done', null, null, null, null, :kind, cast(:actor as uuid),
    cast(:customer as uuid), cast(:by as uuid), null, null)
""")


async def test_whoever_acted_as_a_customer_may_be_named_for_a_moment(trail: Trail) -> None:
    """Of a request that was under way when the session ended."""
    acting = await trail.acting_as(CARL, by=SUE)
    await trail.fetch("update sessions set ended_at = now(), end_reason = 'signed_out'")
    await trail.deed(actor=acting)
    await trail.tamper("update sessions set expires_at = now() - interval '2 minutes'")
    with pytest.raises(Exception, match="this is no actor that app_user may name"):
        await trail.deed(actor=acting)


@pytest.mark.parametrize(
    "arguments",
    [
        "'Not a name', null, null, null, null, 'system'",
        "null, null, null, null, null, 'system'",
        "'tests.done', null, null, null, null, 'god'",
        "'tests.done', null, null, '[1]', null, 'system'",
        "'tests.done', null, null, json_build_object('a', repeat('x', 40000)), null, 'system'",
        "'tests.done', repeat('x', 101), null, null, null, 'system'",
    ],
)
async def test_the_function_has_its_limits(trail: Trail, arguments: str) -> None:
    call = f"select record_audit({arguments}, null, null, null, null, null)"
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await run_as(trail.live, Role.WORKER, call)


async def run_as(live: Live, role: Role | None, statement: str) -> None:
    url = raw(live.url)
    if role:
        url = plain_dsn(role_url(make_url(live.url), role, live.settings))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "select set_config('request.jwt.claim.sub', $1, false)", str(SUE.id)
        )
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"),
        ("passwordHash", "abc"),
        ("password_hash", "abc"),
        ("client_secret", {"deep": 1}),
        ("token", "abc"),
        ("refreshTokens", ["abc"]),
        ("otp", 123456),
        ("totp_secret", "abc"),
        ("API_KEY", "abc"),
        ("apiKey", "abc"),
        ("key", "abc"),
        ("harmless", "$argon2id$v=19$m=65536"),
        ("header", "Bearer abc"),
        ("body", b"bytes"),
    ],
)
def test_secrets_are_left_out_at_any_depth(name: str, value: Any) -> None:
    before, after = redaction.encode({"a": [{"b": {name: value}}]}, {name: value})
    assert before == f'{{"a":[{{"b":{{"{name}":"[redacted]"}}}}]}}'
    assert after == f'{{"{name}":"[redacted]"}}'


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("key_id", "k", '"k"'),
        ("password_changed_at", "now", '"now"'),
        ("token", None, "null"),
        ("has_password", True, "true"),
        ("max_tokens", 4096, "4096"),
        ("monkey", "m", '"m"'),
        ("idempotency_keys_days", 30, "30"),
        ("amount", Decimal("10.10"), "10.10"),
        ("who", UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ("what", object(), '"[object]"'),
    ],
)
def test_what_only_describes_a_secret_stays(name: str, value: Any, kept: str) -> None:
    assert redaction.encode({name: value}, None) == (f'{{"{name}":{kept}}}', None)


def test_long_text_is_cut_and_endless_content_left_out() -> None:
    before, after = redaction.encode({"text": "ü" * 40_000}, {"text": "b"})
    assert before
    assert before.endswith('… (40000 characters)"}')
    assert after == '{"text":"b"}'
    before, after = redaction.encode({str(n): "x" * 400 for n in range(200)}, None)
    assert before == '{"[too large]":"81691 bytes"}'


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ({"b": 2}, {"b": 3})),
        ({"a": 1}, {"a": 1, "b": None}, ({}, {"b": None})),
        (None, {"a": 1}, (None, {"a": 1})),
        ({"a": 1}, None, ({"a": 1}, None)),
        (None, None, (None, None)),
    ],
)
def test_only_what_differs_is_kept(before: Any, after: Any, kept: Any) -> None:
    assert redaction.changes(before, after) == kept


async def test_text_and_functions_count_as_nobodys_write(trail: Trail) -> None:
    """They record for themselves: the guard sees the ORM."""
    async with trail.live.database.transaction(OLIVIA.claim, origin=Origin(OLIVIA)) as db:
        await db.execute(text("select 1"))
