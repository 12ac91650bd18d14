"""A POST sent again with its key: one effect, one answer."""

from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from bursar.app import know_routes
from bursar.auth.actor import Actor
from bursar.auth.guard import customer, staff
from bursar.auth.permissions import Permission, StaffRole
from bursar.core.idempotency import IdempotencyKey, own_key
from bursar.core.seal import Seal, SealBroken
from bursar.core.wire import Route
from tests import notes
from tests.conftest import Live
from tests.world import CARL, DORA, OLIVIA

NOTES = "/api/v1/notes"


@pytest.fixture(autouse=True)
async def _notes(live_db: Live) -> None:
    await notes.install(live_db)


async def count(live: Live, actor: object = CARL) -> int:
    async with live.api(actor) as api:  # type: ignore[arg-type]
        return int((await api.get(NOTES)).json()["total"])


async def test_the_second_answer_is_the_first(live_db: Live) -> None:
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        first = await api.post(NOTES, json={"body": "once"})
        second = await api.post(NOTES, json={"body": "once"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert await count(live_db) == 1


async def test_a_key_with_another_body_is_refused(live_db: Live) -> None:
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        await api.post(NOTES, json={"body": "once"})
        other = await api.post(NOTES, json={"body": "twice"})
        elsewhere = await api.post(f"{NOTES}?page=1", json={"body": "once"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency.key_reused")
    assert elsewhere.json()["code"] == "idempotency.key_reused"
    assert await count(live_db) == 1


async def test_a_key_belongs_to_who_sent_it(live_db: Live) -> None:
    for actor in (CARL, DORA):
        async with live_db.api(actor, **{"Idempotency-Key": "same"}) as api:
            answer = await api.post(NOTES, json={"body": "mine"})
            assert answer.json()["owner"] == str(actor.id)
    assert await count(live_db) == await count(live_db, DORA) == 1


async def test_while_the_first_is_at_work_the_second_is_told_so(live_db: Live) -> None:
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        answers = await notes.sent_at_once(live_db.url, api, {"body": "once"})
        late = await api.post(NOTES, json={"body": "once"})
    assert sorted(a.status_code for a in answers) == [201, 409, 409, 409, 409, 409]
    told = next(a for a in answers if a.status_code == 409)
    assert (told.json()["code"], told.headers["retry-after"]) == ("idempotency.in_flight", "1")
    assert late.headers["idempotent-replayed"] == "true"
    assert await count(live_db) == 1


async def test_a_request_that_failed_may_be_sent_again_with_its_key(live_db: Live) -> None:
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        wrong = await api.post(NOTES, json={"body": 5})
        right = await api.post(NOTES, json={"body": "right"})
    assert (wrong.status_code, right.status_code) == (422, 201)


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "x" * 256, "ключ".encode(), f"retry:bur_live_{'7' * 30}"]
)
async def test_a_malformed_key_is_named(live_db: Live, key: str | bytes) -> None:
    async with live_db.api(CARL) as api:
        answer = await api.post(NOTES, json={"body": "x"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.bad_key")


async def test_a_stranger_learns_nothing_from_a_key(live_db: Live) -> None:
    async with live_db.api(None, **{"Idempotency-Key": "k1"}) as api:
        answer = await api.post(NOTES, json={"body": "x"})
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.sign_in_needed")


async def test_a_stored_answer_is_only_for_who_may_still_ask(live_db: Live) -> None:
    """Olivia loses her rights between the two; the key she used before is no way around that."""
    router = APIRouter(prefix="/api/v1/admin", route_class=Route)

    @router.post("/secrets", dependencies=[staff(Permission.SETTINGS_WRITE)])
    async def make_secret() -> dict[str, str]:
        return {"secret": "shown once"}

    live_db.app.include_router(router)
    know_routes(live_db.app)
    demoted = Actor(OLIVIA.kind, OLIVIA.id, StaffRole.MARKETER)
    key = {"Idempotency-Key": "k1"}
    async with live_db.api(OLIVIA, **key) as before, live_db.api(demoted, **key) as after:
        first = await before.post("/api/v1/admin/secrets")
        again = await before.post("/api/v1/admin/secrets")
        refused = await after.post("/api/v1/admin/secrets")
    assert first.json() == again.json() == {"secret": "shown once"}
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.not_allowed")
    async with live_db.database.transaction(OLIVIA.claim) as db:
        [stored] = await db.scalars(select(IdempotencyKey))
    assert b"shown once" not in stored.body


async def test_a_route_that_streams_must_keep_its_key_itself(live_db: Live) -> None:
    router = APIRouter(prefix="/api/v1", route_class=Route)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    @router.post("/stream", dependencies=[customer])
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    @router.post("/own-stream", dependencies=[customer])
    @own_key
    async def own_stream() -> StreamingResponse:
        return StreamingResponse(parts())

    live_db.app.include_router(router)
    know_routes(live_db.app)
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        assert (await api.post("/api/v1/stream")).status_code == 500
        assert (await api.post("/api/v1/own-stream")).text == "onetwo"


async def test_a_changed_secret_key_still_opens_what_was_sealed() -> None:
    old, new = "an old key of at least 32 characters", "a new key of at least 32 characters!"
    sealed = Seal([old], "test").close(b"content")
    assert Seal([new, old], "test").open(sealed) == b"content"
    for stranger in (Seal([new], "test"), Seal([old], "other")):
        with pytest.raises(SealBroken):
            stranger.open(sealed)


async def test_what_was_sealed_is_renewed_once() -> None:
    old, new = "an old key of at least 32 characters", "a new key of at least 32 characters!"
    sealed = Seal([old], "test").close(b"content")
    both = Seal([new, old], "test")
    renewed = both.renewed(sealed)
    assert renewed is not None
    assert Seal([new], "test").open(renewed) == b"content"
    assert both.renewed(renewed) is None
    with pytest.raises(SealBroken):
        Seal([new], "test").renewed(sealed)
