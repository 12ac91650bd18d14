"""Staff look through the audit trail and take it along as a file."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import text

from bursar.audit import export, queries
from bursar.audit.queries import Filters
from bursar.auth.actor import Actor, Kind
from bursar.auth.tokens import Tokens
from bursar.core.database import WORKER
from bursar.system import health
from tests.audit.trail import Trail
from tests.conftest import Live
from tests.world import ADAM, ANNA, CARL, DORA, MARK, OLIVIA, SUE

LOGS = "/api/v1/admin/audit-logs"
EXPORT = f"{LOGS}/export"
KEY = Actor(Kind.KEY, UUID(int=7), on_behalf_of=CARL.id)


@pytest.fixture
async def story(trail: Trail) -> Trail:
    """What four of them did, in this order; the first two rows are sealed."""
    await trail.deed("a", SUE, before={"word": "z"})
    await trail.deed("b", CARL)
    await trail.seal_all()
    await trail.deed("c", KEY)
    await trail.deed("d", await trail.acting_as(CARL, by=SUE))
    async with trail.live.database.transaction(WORKER) as db:
        record = text(
            "select record_audit('users.suspended', 'user', :carl, null, null, 'system', "
            "null, null, null, null, null)"
        )
        await db.execute(record, {"carl": str(CARL.id)})
    return trail


async def ask(live: Live, query: str = "", actor: Actor = OLIVIA) -> Any:
    async with live.api(actor) as api:
        return (await api.get(f"{LOGS}?{query}")).json()


async def test_the_newest_first_with_all_that_is_known(live_db: Live, story: Trail) -> None:
    page = await ask(live_db)
    assert [row["target"]["id"] for row in page["logs"]] == [str(CARL.id), "d", "c", "b", "a"]
    assert page["total"] == 5
    first = page["logs"][-1]
    assert first == {
        "id": first["id"],
        "eventType": "tests.done",
        "actor": {"kind": "staff", "id": str(SUE.id), "onBehalfOf": None, "impersonatorId": None},
        "impersonated": False,
        "target": {"type": "thing", "id": "a"},
        "before": {"word": "z"},
        "after": {"word": "a"},
        "address": "203.0.113.7",
        "requestId": "request a",
        "occurredAt": first["occurredAt"],
        "seq": 1,
        "sealed": True,
    }
    impersonated = page["logs"][1]
    assert impersonated["impersonated"] is True
    assert impersonated["actor"]["impersonatorId"] == str(SUE.id)
    assert (impersonated["seq"], impersonated["sealed"]) == (None, False)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("event_type=tests.done", "dcba"),
        ("event_type=tests.", "dcba"),
        ("event_type=users.suspended", "-"),
        ("event_type=test.", ""),
        ("actor_kind=staff", "a"),
        (f"actor_id={SUE.id}", "a"),
        (f"actor_id={KEY.id}", "c"),
        (f"user_id={CARL.id}", "-dcb"),
        (f"user_id={SUE.id}", "da"),
        (f"user_id={CARL.id}&event_type=users.", "-"),
        ("target_type=user", "-"),
        ("target_type=thing&target_id=b", "b"),
        ("request_id=request+c", "c"),
        ("sort=occurred_at", "abcd-"),
        ("limit=2&offset=1", "dc"),
        ("from=2020-01-01&to=2020-01-02T00:00:00Z", ""),
        ("from=2020-01-01", "-dcba"),
        ("to=2020-01-01T00:00:00", ""),
    ],
)
async def test_filters(live_db: Live, story: Trail, query: str, found: str) -> None:
    rows = (await ask(live_db, query))["logs"]
    assert (
        "".join(r["target"]["id"] if r["target"]["type"] == "thing" else "-" for r in rows) == found
    )


@pytest.mark.parametrize("query", ["", f"user_id={CARL.id}&", "event_type=tests.&"])
async def test_a_cursor_walks_all_of_it(live_db: Live, story: Trail, query: str) -> None:
    whole = [row["id"] for row in (await ask(live_db, query))["logs"]]
    seen, cursor = [], ""
    while cursor is not None:
        page = await ask(live_db, f"{query}per_page=1&cursor={cursor}")
        seen += [row["id"] for row in page["logs"]]
        cursor = page["nextCursor"]
    assert seen == whole


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("event_type=Not+a+name", "event_type"),
        ("event_type=users.status.", "event_type"),
        ("actor_kind=god", "'customer', 'staff'"),
        ("actor_id=5", "uuid"),
        ("user_id=5", "uuid"),
        ("from=yesterday", "date"),
        ("to=0.5", "date"),
        ("sort=colour", "occurred_at"),
    ],
)
async def test_what_cannot_be_asked_for(live_db: Live, query: str, named: str) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.get(f"{LOGS}?{query}")
    assert answer.status_code == 422
    assert named.lower() in answer.text.lower()


@pytest.mark.parametrize("path", [LOGS, EXPORT])
@pytest.mark.parametrize(
    "query", ["to=9999-12-31T23:59:59-14:00", "from=0001-01-01T00:00:00%2B14:00", "target_id=%00"]
)
async def test_what_no_database_holds_is_refused_alike(
    live_db: Live, path: str, query: str
) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.get(f"{path}?{query}")
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"].endswith(query.partition("=")[0])


async def test_an_export_that_fails_at_once_is_an_error_and_no_deed(
    live_db: Live, story: Trail
) -> None:
    """And no answer of 200 that breaks off."""
    await story.fetch("revoke select on audit_seals from staff_user")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(live_db.app, raise_app_exceptions=False),
        base_url="http://bursar",
        headers={"Authorization": f"Bearer {Tokens(live_db.settings.secret_keys).sign(OLIVIA)}"},
    ) as api:
        answer = await api.get(EXPORT)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    exported = "select from audit_logs where event_type = 'audit.exported'"
    assert await story.fetch(exported) == []


async def test_an_export_of_nothing_is_whole(live_db: Live, story: Trail) -> None:
    query = "request_id=of+nobody"
    assert (await export_of(live_db, query)).text == ",".join(export.COLUMNS) + "\r\n"
    assert (await export_of(live_db, f"{query}&format=jsonl")).text == ""


async def test_who_may_look(live_db: Live) -> None:
    may = {OLIVIA: 200, ADAM: 200, SUE: 403, ANNA: 403, MARK: 403, CARL: 403, None: 401}
    for actor, expected in may.items():
        async with live_db.api(actor) as api:
            assert (await api.get(LOGS)).status_code == expected
            assert (await api.get(EXPORT)).status_code == expected


async def export_of(live: Live, query: str) -> httpx2.Response:
    async with live.api(OLIVIA) as api:
        return await api.get(f"{EXPORT}?{query}")


async def test_a_file_of_csv(live_db: Live, story: Trail) -> None:
    answer = await export_of(live_db, "event_type=tests.")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    name = answer.headers["content-disposition"]
    assert name.startswith('attachment; filename="audit-logs-2')
    assert name.endswith('Z.csv"')
    assert [row["targetId"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["seq"] for row in rows] == ["1", "2", "", ""]
    assert json.loads(rows[0]["before"]) == {"word": "z"}
    assert rows[3]["impersonatorId"] == str(SUE.id)


async def test_a_file_of_json_lines(live_db: Live, story: Trail) -> None:
    answer = await export_of(live_db, f"format=jsonl&user_id={CARL.id}")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/jsonl"
    assert [row["targetId"] for row in rows] == ["b", "c", "d", str(CARL.id)]
    assert rows[0]["after"] == {"word": "b"}
    assert list(rows[0]) == list(export.COLUMNS)


async def test_taking_a_file_is_a_deed(live_db: Live, story: Trail) -> None:
    await export_of(live_db, "format=jsonl&event_type=tests.&from=2020-01-01")
    [row] = (await ask(live_db, "event_type=audit.exported"))["logs"]
    assert row["actor"]["id"] == str(OLIVIA.id)
    assert row["after"] == {
        "format": "jsonl",
        "filters": {"event_type": "tests.", "since": "2020-01-01T00:00:00+00:00"},
    }


async def test_an_unknown_format_names_the_known_ones(live_db: Live) -> None:
    answer = await export_of(live_db, "format=xml")
    assert answer.status_code == 422
    assert "'csv' or 'jsonl'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        (" =1+1", "' =1+1"),
        ("\u00a0@x", "'\u00a0@x"),
        ("\uff1d1", "'\uff1d1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("plain", "plain"),
        (None, ""),
        ({"a": "=1"}, '{"a":"=1"}'),
    ],
)
def test_no_cell_is_a_formula(value: object, cell: str) -> None:
    assert export.cell(value) == cell


MANY = """
  select record_audit('tests.done', 'thing', i::text, null, null, 'system',
    null, null, null, null, null) from generate_series(1, $1::int) as i
"""


async def test_an_export_streams_in_pieces_without_a_transaction(
    live_db: Live, trail: Trail
) -> None:
    """Each piece is read when the last one was taken, and between them nothing is open."""
    await trail.fetch(MANY, 2 * export.PIECE + 1)
    now = datetime.now(UTC) + timedelta(minutes=1)
    pieces = export.stream(live_db.database, OLIVIA.claim, Filters(), "jsonl", now)
    sizes = []
    async for piece in pieces:
        sizes.append(piece.count(b"\n"))
        assert live_db.database.engine(OLIVIA.claim.role).pool.checkedout() == 0  # type: ignore[attr-defined]
    assert sizes == [export.PIECE, export.PIECE, 1]


async def test_an_export_over_http_is_whole_and_ends(live_db: Live, trail: Trail) -> None:
    await trail.fetch(
        """select record_audit('tests.done', 'thing', i::text, null,
           json_build_object('text', repeat('x', 500)), 'system', null, null, null, null, null)
           from generate_series(1, 1200) as i"""
    )
    async with live_db.serving() as url, live_db.api(OLIVIA) as api:
        headers = {"Authorization": api.headers["authorization"]}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            answer = await client.get(EXPORT, params={"format": "jsonl", "event_type": "tests."})
    assert "content-length" not in answer.headers
    assert len(answer.text.splitlines()) == 1200


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (Filters(event_type="users.suspended"), "event_type"),
        (Filters(event_type="users."), "area"),
        (Filters(actor_id=DORA.id), "actor_id"),
        (Filters(user_id=DORA.id), "actor_id,impersonator_id,on_behalf_of,target_id"),
        (Filters(target_type="user"), "target_type"),
        (Filters(target_id="x"), "target_id"),
        (Filters(request_id="x"), "request_id"),
        (Filters(since=datetime.now(UTC)), "occurred_at"),
    ],
)
async def test_each_filter_has_its_index(
    live_db: Live, trail: Trail, filters: Filters, index: str
) -> None:
    """In the order of the list, so that a page never sorts; as staff, whom policies watch."""
    await trail.fetch(MANY, 3_000)
    await trail.fetch("analyze audit_logs")
    query, log = queries.matching(filters, newest_first=True)
    query = query.order_by(log.occurred_at.desc(), log.id.desc()).limit(21)
    async with live_db.database.transaction(OLIVIA.claim) as db:
        await db.execute(text("set local enable_seqscan = off"))
        await db.execute(text("set local enable_bitmapscan = off"))
        await db.execute(text("set local enable_sort = off"))
        connection = await db.connection()
        sql = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        plan = "\n".join((await db.scalars(text(f"explain {sql}".replace(":", "\\:")))).all())
    for name in index.split(","):
        assert f"ix_audit_logs_{name} on audit_logs" in plan
    assert "->  Sort " not in plan


async def test_health_tells_when_the_sealing_is_behind(live_db: Live, trail: Trail) -> None:
    live_db.database.settings = live_db.settings.model_copy(
        update={"audit_checkpoints": trail.place}
    )
    await trail.deed()
    assert await health.audit_flows(live_db.database) == "sealed and shipped"
    await trail.tamper("update audit_logs set occurred_at = now() - interval '1 hour'")
    with pytest.raises(health.AuditBehind, match="without a seal"):
        await health.audit_flows(live_db.database)
    await trail.checkpoint(ship=False)
    await trail.tamper("update audit_checkpoints set made_at = now() - interval '1 hour'")
    with pytest.raises(health.AuditBehind, match="not shipped"):
        await health.audit_flows(live_db.database)
