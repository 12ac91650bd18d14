"""A person's write that leaves no row is not committed: nobody can forget the audit."""

import pytest
from fastapi import APIRouter
from sqlalchemy import delete, insert, select, update

from bursar.app import know_routes
from bursar.audit import service as audit
from bursar.auth.actor import Actor, Kind, Origin
from bursar.auth.guard import customer
from bursar.core.database import Db, UnauditedWrite
from bursar.core.wire import Route
from tests import notes
from tests.audit.trail import Trail
from tests.conftest import Live
from tests.notes import Note
from tests.world import CARL, OLIVIA

NOTES = "/api/v1/notes"
SETTINGS = "/api/v1/admin/settings"


@pytest.fixture(autouse=True)
async def _notes(live_db: Live) -> None:
    await notes.install(live_db)


STATEMENTS = {
    "insert": insert(Note).values(body="b"),
    "update": update(Note).values(body="c"),
    "delete": delete(Note),
    "table": insert(Note.__table__).values(body="b"),
}


@pytest.mark.parametrize("kind", ["added", "changed", "removed", *STATEMENTS])
async def test_a_write_without_a_row_is_refused(trail: Trail, kind: str) -> None:
    [note] = await notes.write(trail.live.database, CARL.claim, "kept")
    with pytest.raises(UnauditedWrite):
        await write_silently(trail, kind)
    assert [tuple(row) for row in await trail.fetch("select id, body from notes")] == [
        (note, "kept")
    ]


async def write_silently(trail: Trail, kind: str) -> None:
    async with trail.live.database.transaction(CARL.claim, origin=Origin(CARL)) as db:
        if kind == "added":
            db.add(Note(body="lost"))
        elif kind == "changed":
            (await db.scalars(select(Note))).one().body = "lost"
        elif kind == "removed":
            await db.delete((await db.scalars(select(Note))).one())
        else:
            await db.execute(STATEMENTS[kind])


async def test_a_key_owes_a_row_too(trail: Trail) -> None:
    key = Actor(Kind.KEY, OLIVIA.id, on_behalf_of=CARL.id)
    with pytest.raises(UnauditedWrite):
        async with trail.live.database.transaction(key.claim, origin=Origin(key)) as db:
            db.add(Note(body="lost"))


async def test_reading_owes_nothing(trail: Trail) -> None:
    await notes.write(trail.live.database, CARL.claim, "kept")
    async with trail.live.database.transaction(CARL.claim, origin=Origin(CARL)) as db:
        note = (await db.scalars(select(Note))).one()
        note.body = "kept"  # as it was
    assert len(await trail.fetch("select from notes")) == 1


async def test_nor_does_the_system(trail: Trail) -> None:
    async with trail.live.database.transaction(CARL.claim) as db:
        db.add(Note(body="by a job"))
    assert len(await trail.fetch("select from notes")) == 1


async def test_whoever_found_nothing_to_change_says_so(trail: Trail) -> None:
    async with trail.live.database.transaction(CARL.claim, origin=Origin(CARL)) as db:
        await db.execute(update(Note).where(Note.body == "none").values(body="c"))
        audit.nothing_changed(db)


async def test_with_an_idempotency_key_it_is_the_same(live_db: Live, trail: Trail) -> None:
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        first = await api.post(NOTES, json={"body": "once"})
        second = await api.post(NOTES, json={"body": "once"})
    assert (first.status_code, second.status_code) == (201, 201)
    rows = await trail.fetch("select event_type, target_id, request_id from audit_logs")
    assert [row["event_type"] for row in rows] == ["notes.added"]
    assert rows[0]["target_id"] == first.json()["id"]
    assert rows[0]["request_id"] == first.headers["x-request-id"]


async def test_the_answer_that_is_kept_is_no_deed(trail: Trail) -> None:
    """A forgotten row is found with an Idempotency-Key as well, and the answer is not kept."""

    router = APIRouter(tags=["notes"], route_class=Route)

    @router.post("/forgetful", status_code=201, dependencies=[customer])
    async def forget(db: Db) -> dict[str, str]:
        db.add(Note(body="lost"))
        return {}

    trail.live.app.include_router(router, prefix="/api/v1")
    know_routes(trail.live.app)
    async with trail.live.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        answer = await api.post("/api/v1/forgetful")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert await trail.fetch("select from notes") == []
    assert await trail.fetch("select from idempotency_keys") == []


async def test_settings_leave_a_row_for_each_change(live_db: Live, trail: Trail) -> None:
    async with live_db.api(OLIVIA) as api:
        for _ in range(2):  # the second time nothing changes
            both = {"company_name": "Tern", "cache_ttl_seconds": 60}
            assert (await api.put(SETTINGS, json=both)).status_code == 200
        one = await api.put(f"{SETTINGS}/company_name", json={"value": "Tide"})
        same = await api.put(f"{SETTINGS}/company_name", json={"value": "Tide"})
        back = await api.delete(f"{SETTINGS}/company_name")
    assert {one.status_code, same.status_code, back.status_code} == {200}
    rows = await trail.fetch(
        "select target_id, before, after, actor_id from audit_logs order by occurred_at"
    )
    assert {row["actor_id"] for row in rows} == {OLIVIA.id}
    assert [(row["before"], row["after"]) for row in rows] == [
        ('{"cache_ttl_seconds":null}', '{"cache_ttl_seconds":60}'),
        ('{"company_name":null}', '{"company_name":"Tern"}'),
        ('{"company_name":"Tern"}', '{"company_name":"Tide"}'),
        ('{"company_name":"Tide"}', '{"company_name":null}'),
    ]
