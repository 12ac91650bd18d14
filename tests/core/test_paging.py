"""Pages: no row twice, none missed while rows come and go, wrong questions answered well."""

import base64
import json
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from bursar.core.paging import MAX_OFFSET, MAX_PAGE
from tests import notes
from tests.conftest import Live
from tests.notes import Note
from tests.world import CARL, DORA

NOTES = "/api/v1/notes"
ID = "00000000-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
async def _notes(live_db: Live) -> None:
    await notes.install(live_db)


def forged(seen: float, total: float) -> str:
    return base64.urlsafe_b64encode(json.dumps(["rank", seen, total, 1, ID]).encode()).decode()


async def add(live: Live, *ranks: int) -> list[str]:
    async with live.database.transaction(CARL.claim) as db:
        rows = [Note(body="x", rank=rank) for rank in ranks]
        db.add_all(rows)
        await db.flush()
        return [str(row.id) for row in rows]


async def remove(live: Live, ids: list[str]) -> None:
    async with live.database.transaction(CARL.claim) as db:
        await db.execute(delete(Note).where(Note.id.in_(ids)))


async def test_every_way_of_asking_answers_every_field(live_db: Live) -> None:
    await add(live_db, *range(45))
    async with live_db.api(CARL) as api:
        by_page = (await api.get(f"{NOTES}?page=2&per_page=20")).json()
        by_offset = (await api.get(f"{NOTES}?limit=20&offset=20")).json()
        camel = (await api.get(f"{NOTES}?page=2&perPage=20")).json()
    assert by_page == by_offset == camel
    expected = {"total": 45, "page": 2, "per_page": 20, "pages": 3, "limit": 20, "offset": 20}
    assert {key: by_page[key] for key in expected} == expected
    assert [note["rank"] for note in by_page["notes"]] == list(range(20, 40))


async def test_a_cursor_walks_the_whole_list_and_ends(live_db: Live) -> None:
    ids = await add(live_db, *[5] * 30, *range(12))
    seen, pages = await walk(live_db, "sort=-rank&per_page=7")
    assert sorted(seen) == sorted(ids)
    assert [page["offset"] for page in pages] == [0, 7, 14, 21, 28, 35]
    assert {page["total"] for page in pages} == {42}
    assert pages[-1]["next_cursor"] is None
    ranks = [note["rank"] for page in pages for note in page["notes"]]
    assert ranks == sorted(ranks, reverse=True)


async def walk(live: Live, query: str, between: object = None) -> tuple[list[str], list[dict]]:  # type: ignore[type-arg]
    seen: list[str] = []
    pages = []
    async with live.api(CARL) as api:
        cursor = ""
        while cursor is not None:
            page = (
                await api.get(f"{NOTES}?{query}" + (f"&cursor={cursor}" if cursor else ""))
            ).json()
            pages.append(page)
            seen += [note["id"] for note in page["notes"]]
            cursor = page["next_cursor"]
            if between:
                await between()  # type: ignore[operator]
    return seen, pages


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.lists(st.integers(0, 5), max_size=40),
    comers=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=5),
    leavers=st.lists(st.integers(0, 39), max_size=10),
    per_page=st.integers(1, 9),
    sort=st.sampled_from(["rank", "-rank", "created_at", "-created_at"]),
)
async def test_rows_that_stay_are_seen_once_while_others_come_and_go(
    live_db: Live,
    first: list[int],
    comers: list[list[int]],
    leavers: list[int],
    per_page: int,
    sort: str,
) -> None:
    async with live_db.database.transaction(CARL.claim) as db:
        await db.execute(delete(Note))
    ids = await add(live_db, *first)
    leaving = [ids[i] for i in leavers if i < len(ids)]
    coming = list(comers)

    async def between() -> None:
        if coming:
            await add(live_db, *coming.pop())
        if leaving:
            await remove(live_db, [leaving.pop()])

    seen, _ = await walk(live_db, f"sort={sort}&per_page={per_page}", between)
    assert len(seen) == len(set(seen))
    assert set(ids) - {ids[i] for i in leavers if i < len(ids)} <= set(seen)


async def test_a_page_shows_only_own_rows(live_db: Live) -> None:
    await add(live_db, 1, 2, 3)
    async with live_db.api(DORA) as api:
        page = (await api.get(NOTES)).json()
    assert (page["total"], page["notes"], page["pages"]) == (0, [], 0)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("sort=colour", "?sort"),
        ("page=0", "?page"),
        ("per_page=101", "?per_page"),
        ("limit=0", "?limit"),
        ("offset=-1", "?offset"),
        ("page=one", "?page"),
        (f"offset={MAX_OFFSET + 1}", "?offset"),
        (f"page={MAX_PAGE + 1}", "?page"),
        ("cursor=nonsense", "?cursor"),
        ("cursor=%00", "?cursor"),
        ("cursor=WyJyYW5rIiwxLDEsMSwyXQ", "?cursor"),  # ["rank",1,1,1,2]: 2 is no id
        *[
            (f"cursor={forged(*counts)}", "?cursor")
            for counts in ((2**70, 1), (1, 1e300), (True, 1))
        ],
    ],
)
async def test_a_wrong_question_is_answered_with_the_field(
    live_db: Live, query: str, pointer: str
) -> None:
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{NOTES}?{query}")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_cursor_of_another_order_is_refused(live_db: Live) -> None:
    await add(live_db, *range(5))
    async with live_db.api(CARL) as api:
        cursor = (await api.get(f"{NOTES}?per_page=2")).json()["next_cursor"]
        answer = await api.get(f"{NOTES}?per_page=2&sort=-rank&cursor={cursor}")
    assert answer.json()["errors"][0]["code"] == "bad_cursor"


async def test_an_unknown_sort_names_the_allowed_ones(live_db: Live) -> None:
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{NOTES}?sort=colour")
    assert "rank, -rank, created_at, -created_at" in answer.json()["detail"]
    assert Decimal(answer.json()["status"]) == 422
