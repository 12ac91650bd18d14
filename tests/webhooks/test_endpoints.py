"""Staff look after endpoints: whole, audited, and no secret is ever shown twice."""

from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import WebhookVerificationError

from bursar.accounts.service import UserSignedUp
from bursar.core.database import WORKER
from bursar.core.seal import SealBroken
from bursar.webhooks import service, signing
from tests import databases
from tests.accounts.people import actions, rows
from tests.conftest import Live, as_actor
from tests.webhooks.receivers import (
    DELIVERIES,
    ENDPOINTS,
    USER_ID,
    delivery,
    endpoint_for,
    make,
    make_due,
    publish,
    receiver,
    work,
)
from tests.world import ADAM, CARL, OLIVIA, SUE

URL = "https://example.com/hook"
SIGNED_UP = UserSignedUp(user_id=USER_ID)


async def test_an_endpoint_is_made_read_changed_and_removed(live: Live) -> None:
    async with live.api(ADAM) as api:
        made = await make(api, URL, description="The warehouse")
        assert made["secret"].startswith("whsec_")
        place = f"{ENDPOINTS}/{made['id']}"
        read = await api.get(place)
        assert read.json() == {key: made[key] for key in made if key != "secret"}
        assert (read.json()["events"], read.json()["status"]) == (["*"], "active")
        assert read.json()["createdBy"] == str(ADAM.id)
        change = {"events": ["users.*", "users.erased"], "description": ""}
        changed = await api.put(place, json=change, headers={"If-Match": read.headers["ETag"]})
        assert (changed.json()["events"], changed.json()["version"]) == (change["events"], 2)
        stale = await api.put(place, json={}, headers={"If-Match": read.headers["ETag"]})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        same = await api.put(place, json=change)
        assert same.headers["ETag"] == changed.headers["ETag"]
        stale = await api.delete(place, headers={"If-Match": read.headers["ETag"]})
        assert stale.status_code == 412
        assert (await api.delete(place)).status_code == 204
        assert (await api.get(place)).json()["code"] == "not_found"
    deeds = ["created", "changed", "removed"]
    assert await actions(live, made["id"]) == [f"webhooks.endpoint_{deed}" for deed in deeds]


async def test_the_secret_is_nowhere_to_be_read(live: Live) -> None:
    async with live.api(OLIVIA) as api:
        headers = {"Idempotency-Key": "once"}
        first = await api.post(ENDPOINTS, json={"url": URL}, headers=headers)
        again = await api.post(ENDPOINTS, json={"url": URL}, headers=headers)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json() == first.json()
        listed = await api.get(ENDPOINTS)
        assert listed.json()["total"] == 1
    secret = first.json()["secret"]
    assert secret not in listed.text
    for table in ("webhook_endpoints", "idempotency_keys", "audit_logs", "events", "pgqueuer"):
        for row in await rows(live, f"select t::text, t.* from {table} as t"):
            kept = b" ".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
            assert secret.removeprefix("whsec_").encode() not in kept


async def test_lists_are_filtered_searched_and_paged(live: Live) -> None:
    async with live.api(OLIVIA) as api:
        for number in range(3):
            await make(api, f"https://host{number}.example/", description=f"Team 100%_{number}")
        off = await make(api, "https://off.example/", enabled=False)
        await rows(live, "update webhook_endpoints set failing_since = now() where url like '%t1%'")
        for query, expected in [
            ({}, ["off", "host2", "host1", "host0"]),
            ({"sort": "url"}, ["host0", "host1", "host2", "off"]),
            ({"status": "off"}, ["off"]),
            ({"status": "failing"}, ["host1"]),
            ({"status": "active", "sort": "created_at"}, ["host0", "host2"]),
            ({"search": "HOST2"}, ["host2"]),
            ({"search": "100%_1"}, ["host1"]),
            ({"search": "%"}, ["host2", "host1", "host0"]),
            ({"per_page": 1, "page": 2}, ["host2"]),
        ]:
            found = (await api.get(ENDPOINTS, params=query)).json()["webhookEndpoints"]
            names = [each["url"].removeprefix("https://").partition(".")[0] for each in found]
            assert names == expected, query
        assert (await api.get(f"{ENDPOINTS}/{off['id']}")).json()["offReason"] == "staff"
        bad = await api.get(ENDPOINTS, params={"status": "asleep"})
        assert (bad.status_code, bad.json()["code"]) == (422, "invalid_input")


async def test_event_types_are_those_that_may_leave(live: Live) -> None:
    async with live.api(SUE) as api:
        answer = await api.get("/api/v1/admin/webhook-event-types", params={"per_page": 100})
    found = {each["name"]: each for each in answer.json()["webhookEventTypes"]}
    assert {"users.signed_up", "users.erased", "rewards.tier_reached"} <= set(found)
    assert "settings.changed" not in found
    assert found["users.signed_up"]["dataSchema"]["required"] == ["user_id"]


@pytest.mark.parametrize(
    "events",
    [
        ["users.sined_up"],
        ["settings.changed"],
        ["user*"],
        ["users.*", "nothing.*"],
        ["webhooks.test"],
    ],
)
async def test_a_filter_that_fits_nothing_is_refused(live: Live, events: list[str]) -> None:
    async with live.api(OLIVIA) as api:
        answer = await api.post(ENDPOINTS, json={"url": URL, "events": events})
    assert (answer.status_code, answer.json()["code"]) == (422, "webhooks.unknown_event")
    assert answer.json()["errors"][0]["pointer"] == f"/events/{len(events) - 1}"
    assert "users.signed_up" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": URL, "events": []},
        {"url": URL, "events": "*"},
        {"url": URL, "events": ["*"] * 51},
        {"url": URL, "enabled": "yes"},
        {"url": URL, "description": "x" * 201},
        {"url": URL, "description": "two\nlines"},
        {"url": 7},
    ],
)
async def test_bad_input_is_named(live: Live, body: dict[str, Any]) -> None:
    async with live.api(OLIVIA) as api:
        answer = await api.post(ENDPOINTS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["errors"]


async def test_there_is_a_most(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_ENDPOINTS", 1)
    async with live.api(OLIVIA) as api:
        await make(api, URL)
        answer = await api.post(ENDPOINTS, json={"url": URL})
    assert (answer.status_code, answer.json()["code"]) == (409, "webhooks.too_many")


async def rotated(live: Live, endpoint_id: str, **body: Any) -> dict[str, Any]:
    async with live.api(OLIVIA) as api:
        answer = await api.post(f"{ENDPOINTS}/{endpoint_id}/secret", json=body)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def test_while_a_secret_is_rotated_both_sign(live: Live) -> None:
    async with receiver() as there:
        old = await endpoint_for(live, there.url)
        new = await rotated(live, old["id"], graceHours=2)
        assert new["oldSecretUntil"]
        assert new["version"] == 2
        await publish(live, SIGNED_UP)
        await work(live)
        assert there.verified(old["secret"]) == there.verified(new["secret"])
        assert len(there.got[0][0]["webhook-signature"].split(" ")) == 2
        await rows(live, "update webhook_endpoints set old_secret_until = now()")
        await publish(live, SIGNED_UP)
        await work(live)
        there.verified(new["secret"])
        with pytest.raises(WebhookVerificationError):
            there.verified(old["secret"])
        last = await rotated(live, old["id"], graceHours=0)
        await publish(live, SIGNED_UP)
        await work(live)
        there.verified(last["secret"])
        with pytest.raises(WebhookVerificationError):
            there.verified(new["secret"])
    assert (await actions(live, old["id"]))[1:] == ["webhooks.secret_rotated"] * 2


async def test_a_test_arrives_whatever_the_filters_say_and_is_tried_once(live: Live) -> None:
    async with receiver(status=500) as there:
        made = await endpoint_for(live, there.url, events=["users.erased"])
        place = f"{ENDPOINTS}/{made['id']}/tests"
        async with live.api(OLIVIA) as api:
            sent = (await api.post(place)).json()
            await work(live)
            seen = (await api.get(f"{DELIVERIES}/{sent['id']}")).json()
            assert (seen["status"], seen["reason"], seen["eventId"]) == ("failed", "status", None)
            assert seen["attemptLog"][0]["statusCode"] == 500
            assert seen["body"]["data"] == {"endpoint_id": made["id"]}
            read = await api.get(f"{ENDPOINTS}/{made['id']}")
            assert (read.json()["status"], read.json()["failingSince"]) == ("active", None)
            there.status = 200
            await api.post(place)
            await make_due(live)
            await work(live)
            assert len(there.got) == 2
            assert there.verified(made["secret"])["type"] == "webhooks.test"
            await api.put(f"{ENDPOINTS}/{made['id']}", json={"enabled": False})
            refused = await api.post(place)
    assert (refused.status_code, refused.json()["code"]) == (409, "webhooks.switched_off")


async def test_customers_see_and_do_nothing(live: Live) -> None:
    async with receiver() as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    for table in ("webhook_endpoints", "webhook_deliveries", "webhook_attempts"):
        for deed in (f"select from {table}", f"delete from {table}"):
            with pytest.raises(Exception, match="permission denied"):
                async with as_actor(live.database, CARL) as db:
                    await db.execute(text(deed))


async def test_staff_cannot_put_words_into_an_events_mouth(live: Live) -> None:
    made = await endpoint_for(live, URL)
    forged = "insert into webhook_deliveries (endpoint_id, event_id, event_type, body) values "
    for deed in (
        f"{forged} ('{made['id']}', 1, 'users.erased', '{{}}')",
        "update webhook_deliveries set body = '{}'",
        "delete from webhook_deliveries",
        "insert into webhook_attempts (delivery_id) values (uuid7())",
    ):
        with pytest.raises(Exception, match="permission denied"):
            async with as_actor(live.database, OLIVIA) as db:
                await db.execute(text(deed))


async def test_secrets_outlive_a_change_of_the_secret_key(live: Live) -> None:
    async with receiver() as there:
        made = await endpoint_for(live, there.url)
        await rotated(live, made["id"], graceHours=24)
        both = databases.test_settings(secret_key=f"{'n' * 40},{databases.SECRET}")
        async with live.database.transaction(WORKER) as db:
            assert (await signing.seals(db, both)).older == 2
            assert await signing.renew_all(db, both) == 2
            seals = await signing.seals(db, databases.test_settings(secret_key="n" * 40))
            assert (seals.all, seals.older, seals.lost) == (2, 0, 0)
        await publish(live, SIGNED_UP)
        await work(live)  # with the old key alone
        assert there.got == []
    assert (await delivery(live))["reason"] == "secret_lost"
    with pytest.raises(SealBroken):
        signing.seal(live.settings).open(b"nothing of ours")
