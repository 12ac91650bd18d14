"""An erased account: every column of every table is looked at for what names the person."""

from uuid import UUID

from bursar.accounts import queries, tasks
from bursar.core.database import WORKER
from tests.accounts.colleagues import ADMINISTRATOR, hired
from tests.accounts.people import AUTH, PASSWORD, USERS, link_in_mail, rows, run_jobs, sign_up
from tests.conftest import Live

OLD, NEW, NAME = "carl.carlson@example.com", "carlson@example.org", "Zebedee Quux"
TEXTS = """
  select table_name, column_name from information_schema.columns join information_schema.tables
    using (table_schema, table_name)
  where table_schema = 'public' and table_type = 'BASE TABLE' and table_name <> 'audit_logs'
"""


async def places(live: Live, *words: str) -> set[str]:
    """Where any of these stands, as text or as the bytes of it."""
    found = set()
    for table, column in await rows(live, TEXTS):
        kept = await rows(live, f'select distinct "{column}"::text as v from "{table}"')
        text = " ".join(str(row["v"]) for row in kept).lower()
        if any(word.lower() in text or word.encode().hex() in text for word in words):
            found.add(f"{table}.{column}")
    return found


async def erase(live: Live) -> None:
    await rows(live, "update users set deleted_at = now() - interval '31 days'")
    async with live.database.transaction(WORKER) as db:
        await tasks.erase_deleted(db, {})


async def test_nothing_names_the_person_but_the_audit(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api, OLD, full_name=NAME, username="zebedee.quux")
        keyed = {**carl.headers, "Idempotency-Key": "k1"}
        await api.post(f"{AUTH}/forgot-password", json={"email": OLD})
        await api.post(f"{AUTH}/login", json={"email": OLD, "password": "not the password"})
        wish = {"email": NEW, "password": PASSWORD}
        await api.post(f"{AUTH}/change-email", json=wish, headers=carl.headers)
        token = await link_in_mail(live_db, NEW)
        changed = await api.post(f"{AUTH}/verify-email", json={"token": token})
        assert changed.json()["email"] == NEW
        await rows(
            live_db,
            "insert into idempotency_keys (subject, key, fingerprint, status, headers, body)"
            " values ($1, 'k1', '', 200, '{}', '')",
            carl.id,
        )
        closed = await api.post(f"{USERS}/me/deletion", json={"password": PASSWORD}, headers=keyed)
        assert closed.status_code == 202, closed.text
    await run_jobs(live_db)
    assert "users.email" in await places(live_db, OLD, NEW)
    assert "mails.recipient" in await places(live_db, OLD)
    await erase(live_db)
    assert await places(live_db, OLD, NEW, NAME, "zebedee", "quux") == set()
    assert await rows(live_db, "select from idempotency_keys where subject = $1", carl.id) == []
    [row] = await rows(live_db, "select * from users")
    assert (row["last_login"], row["login_attempts"], row["locked_until"]) == (None, 0, None)


async def test_the_export_tells_nothing_of_the_staff_member_who_looks_in(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        adam = await hired(live_db, api, "adam", ADMINISTRATOR)
        url = f"/api/v1/admin/users/{carl.id}/impersonation"
        looked = await api.post(url, json={"reason": "ticket 7"}, headers=adam.signed)
        assert looked.is_success, looked.text
    async with live_db.database.transaction(WORKER) as db:
        told = await queries.open_sessions(db, UUID(carl.id))
    by = {each["method"]: (each["address"], each["user_agent"]) for each in told}
    assert by["impersonation"] == (None, None)
    assert None not in by["password"]
