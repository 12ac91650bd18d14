"""An Idempotency-Key counts what its request says once; it is its caller's alone."""

import asyncio
from typing import Any

import httpx2
import pytest

from bursar.accounts.tasks import erase_deleted
from bursar.core.database import WORKER
from bursar.core.seal import Seal
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import (
    KEYS,
    USAGE,
    VERIFY,
    Held,
    assert_sums_hold,
    key_of,
    service_key,
    set_terms,
)
from tests.metering.test_ingest import EVENTS, counted, event
from tests.metering.test_outcomes import OUTCOMES
from tests.wallets.purses import move_in, refused
from tests.wallets.test_rotated_keys import rotated
from tests.world import CARL, DORA

NO_IDS: dict[str, Any] = {
    "events": [
        {"endpoint": "/b", "user_id": str(CARL.id)}, {"endpoint": "/b", "user_id": str(CARL.id)},
        {"endpoint": "/b", "user_id": str(DORA.id)}, {"endpoint": ""},
    ]
}  # fmt: skip


async def send(
    live: Live, holder: Held, path: str, body: Any, key: str | None = "k", **headers: str
) -> httpx2.Response:
    headers |= {"Idempotency-Key": key} if key else {}
    async with live.api(**holder.headers, **headers) as api:
        return await api.post(path, json=body)


def is_replay(answer: httpx2.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def question(holder: Held, **facts: Any) -> dict[str, Any]:
    return {"key": holder.key, "endpoint": "/v1/things", **facts}


async def test_a_rotated_service_goes_on_with_its_keys(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    bodies = {EVENTS: NO_IDS, USAGE: event(event_id=None), VERIFY: question(carl)}
    for path, body in bodies.items():
        assert not is_replay(await send(live_db, shop, path, body, path))
    before = await counted(live_db)
    new = await rotated(live_db, shop)
    for path, body in bodies.items():
        assert is_replay(await send(live_db, new, path, body, path)), path
    assert await counted(live_db) == before


async def test_a_key_that_is_new_replays_nothing(live_db: Live) -> None:
    """Also where the event was counted before, which its own id says."""
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    asked = question(carl, event_id="e")
    first = await send(live_db, shop, VERIFY, asked, None)
    again = await send(live_db, shop, VERIFY, asked, "new")
    assert first.json()["usage_id"] == again.json()["usage_id"]
    assert (again.json()["replayed"], is_replay(again)) == (True, False)
    assert await counted(live_db) == 1


async def test_a_batch_that_is_sent_again_counts_nothing(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    first = await send(live_db, shop, EVENTS, NO_IDS)
    again = await send(live_db, shop, EVENTS, NO_IDS)
    assert (first.json()["counted"], first.json()["refused"]) == (3, 1)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert (is_replay(first), is_replay(again)) == (False, True)
    assert await counted(live_db) == 3
    assert (await send(live_db, shop, EVENTS, NO_IDS, "k2")).json()["counted"] == 3
    assert (await send(live_db, shop, EVENTS, NO_IDS, None)).json()["counted"] == 3
    assert await counted(live_db) == 9
    await assert_sums_hold(live_db)


async def test_one_event_that_is_sent_again_is_answered_as_before(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    body = event(event_id=None)
    answers = [await send(live_db, shop, USAGE, body) for _ in range(3)]
    assert [each.status_code for each in answers] == [201] * 3
    assert [is_replay(each) for each in answers] == [False, True, True]
    assert [each.json() for each in answers] == [{"event_id": None, "status": "counted"}] * 3
    assert await counted(live_db) == 1


async def test_another_request_with_the_key_is_refused(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl, dora = [
        await service_key(live_db), await key_of(live_db), await key_of(live_db, DORA)
    ]  # fmt: skip
    sent = {
        EVENTS: [NO_IDS, {"events": NO_IDS["events"][:1]}],
        USAGE: [event(event_id=None), event(event_id=None, user_id=str(DORA.id)), event(7)],
        VERIFY: [question(carl), question(dora), question(carl, units=2),
                 question(carl, event_id="e-7")],
    }  # fmt: skip
    for path, (first, *others) in sent.items():
        assert (await send(live_db, shop, path, first, path)).is_success
        before = await counted(live_db)
        for body in others:
            answer = await send(live_db, shop, path, body, path)
            assert refused(answer) == (422, "idempotency.key_reused"), (path, answer.text)
        assert await counted(live_db) == before
    for path, (first, *_) in sent.items():  # the key of a question, sent to each route
        answer = await send(live_db, shop, path, first, VERIFY)
        assert answer.status_code == (200 if path == VERIFY else 422)
    assert refused(await send(live_db, shop, VERIFY, question(carl), USAGE))[0] == 422


async def test_a_key_is_its_callers_alone(live_db: Live) -> None:
    """Two services that number their requests from 1, for the same customer."""
    await move_in(live_db)
    services = [await service_key(live_db) for _ in range(2)]
    carl = await key_of(live_db)
    for path, body in ((USAGE, event(event_id=None)), (EVENTS, NO_IDS), (VERIFY, question(carl))):
        told = [await send(live_db, each, path, body, f"1 {path}".replace(" ", "-"))
                for each in services]  # fmt: skip
        assert [is_replay(each) for each in told] == [False, False]
        assert told[0].status_code == told[1].status_code
    assert await counted(live_db) == 2 + 6 + 2
    await assert_sums_hold(live_db)


@pytest.mark.parametrize("key", ["x" * 256, "a b", "\u00e9".encode("latin-1").decode("latin-1")])
async def test_what_is_no_key(live_db: Live, key: str) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    bodies = {USAGE: event(), EVENTS: NO_IDS, VERIFY: question(carl), OUTCOMES: {"outcomes": [{}]}}
    async with live_db.api(**shop.headers) as api:
        for path, body in bodies.items():
            headers = {b"Idempotency-Key": key.encode("latin-1")}
            answer = await api.post(path, json=body, headers=headers)  # type: ignore[arg-type]
            assert refused(answer) == (422, "idempotency.bad_key"), path
    assert await counted(live_db) == 0


async def test_a_question_that_is_asked_again_is_counted_once(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, per_month=2)
    first, again = [await send(live_db, shop, VERIFY, question(carl)) for _ in range(2)]
    for answer, replayed in ((first, False), (again, True)):
        assert answer.json()["code"] == "VALID"
        assert (answer.json()["replayed"], is_replay(answer)) == (replayed, replayed)
    assert first.json()["usage_id"] == again.json()["usage_id"] is not None
    assert again.json()["quota"]["remaining"] == 1
    [row] = await rows(live_db, "select event_id from usage")
    assert row["event_id"] is None
    named = question(carl, event_id="e-1")
    for key, replayed in (("k2", False), ("k2", True), ("k3", True), ("k3", True)):
        answer = await send(live_db, shop, VERIFY, named, key)
        assert answer.json()["replayed"] is replayed
    other = await send(live_db, shop, VERIFY, question(carl), "k3")
    assert refused(other) == (422, "idempotency.key_reused")
    assert await counted(live_db) == 2


async def test_a_call_that_was_refused_leaves_its_key(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=1)
    shop, carl = await service_key(live_db), await key_of(live_db)
    assert (await send(live_db, shop, VERIFY, question(carl), "first")).json()["valid"]
    over = await send(live_db, shop, VERIFY, question(carl))
    assert (over.json()["code"], is_replay(over)) == ("QUOTA_EXCEEDED", False)
    look = await send(live_db, shop, VERIFY, question(carl, count=False))
    assert look.json()["valid"]
    await set_terms(live_db, quota_free=2)
    assert (await send(live_db, shop, VERIFY, question(carl))).json()["valid"]
    assert await counted(live_db) == 2


async def test_a_key_that_has_ended_since_is_not_good_because_it_was(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    assert (await send(live_db, shop, VERIFY, question(carl))).json()["valid"]
    async with live_db.api(CARL) as api:
        assert (await api.delete(f"{KEYS}/{carl.id}")).status_code == 200
    again = await send(live_db, shop, VERIFY, question(carl))
    assert (again.json()["code"], is_replay(again)) == ("REVOKED", False)


async def test_a_report_that_was_refused_leaves_its_key(live_db: Live) -> None:
    await move_in(live_db)
    shop, dora = await service_key(live_db), await key_of(live_db, DORA)
    wrong = event(event_id=None, api_key_id=dora.id)
    assert refused(await send(live_db, shop, USAGE, wrong)) == (422, "usage.unknown_key")
    assert (await send(live_db, shop, USAGE, event(event_id=None))).status_code == 201


async def test_the_same_at_once_is_counted_once(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    for path, body, much in ((EVENTS, NO_IDS, 3), (VERIFY, question(carl), 1)):
        before = await counted(live_db)
        sent = (send(live_db, shop, path, body, f"once{much}") for _ in range(12))
        told = await asyncio.gather(*sent)
        assert {each.status_code for each in told} <= {200, 409}
        good = [each for each in told if each.status_code == 200]
        assert sum(not is_replay(each) for each in good) == 1
        assert await counted(live_db) == before + much
    await assert_sums_hold(live_db)


async def test_a_new_secret_key_knows_what_the_old_one_marked(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    sent = {VERIFY: question(carl), EVENTS: NO_IDS}
    for path, body in sent.items():
        await send(live_db, shop, path, body, path)
    keys = live_db.settings.secret_keys
    live_db.app.state.seal = Seal(["a newer secret key, long enough for it", *keys], "idempotency")
    for path, body in sent.items():
        assert is_replay(await send(live_db, shop, path, body, path))


async def test_outcomes_that_are_told_again_are_answered_as_before(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    verdict = (await send(live_db, shop, VERIFY, question(carl), None)).json()
    end = {"usage_id": verdict["usage_id"], "user_id": str(CARL.id), "status_code": 200}
    first, again = [await send(live_db, shop, OUTCOMES, {"outcomes": [end]}) for _ in range(2)]
    assert first.json()["recorded"] == again.json()["recorded"] == 1
    assert is_replay(again)


async def test_what_is_counted_and_its_answer_are_one(live_db: Live) -> None:
    """Nothing is counted whose answer is not kept: the next request would count it again."""
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await rows(live_db, "alter table idempotency_keys add constraint none check (false)")
    for path, body in ((EVENTS, NO_IDS), (USAGE, event()), (VERIFY, question(carl))):
        assert (await send(live_db, shop, path, body, path)).status_code == 500
    assert await counted(live_db) == 0
    await rows(live_db, "alter table idempotency_keys drop constraint none")
    assert (await send(live_db, shop, EVENTS, NO_IDS, EVENTS)).json()["counted"] == 3


async def test_whose_a_key_is_and_that_it_goes_with_an_erased_account(live_db: Live) -> None:
    await move_in(live_db)
    shop, own = await service_key(live_db), await key_of(live_db, scopes=["usage:write"])
    heirs = [await rotated(live_db, shop), await rotated(live_db, own, KEYS)]
    for number, holder in enumerate((shop, own, *heirs)):
        answer = await send(live_db, holder, USAGE, event(event_id=None), f"k{number}")
        assert answer.status_code == 201, answer.text
    async with live_db.api(CARL, **{"Idempotency-Key": "k1"}) as api:
        assert is_replay(await api.post(USAGE, json=event(event_id=None)))  # as with a key of his
    assert await kept(live_db) == [
        (shop.id, "k0"), (str(CARL.id), "k1"), (shop.id, "k2"), (str(CARL.id), "k3")
    ]  # fmt: skip
    gone = (
        "update users set status = 'deleted', deleted_at = now() - interval '31 days' where id = $1"
    )
    await rows(live_db, gone, CARL.id)
    async with live_db.database.transaction(WORKER) as db:
        await erase_deleted(db, {})
    assert await kept(live_db) == [(shop.id, "k0"), (shop.id, "k2")]


async def kept(live: Live) -> list[tuple[str, str]]:
    found = await rows(
        live, "select subject, key from idempotency_keys where key ~ '^k' order by key"
    )
    return [(row["subject"], row["key"]) for row in found]
