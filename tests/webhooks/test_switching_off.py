"""An endpoint that is of no use any more is switched off, and somebody is told."""

import pytest
from aiohttp import web

from bursar.accounts.service import UserSignedUp
from tests.accounts.people import actions, mails, rows
from tests.conftest import Live
from tests.webhooks.receivers import (
    DELIVERIES,
    ENDPOINTS,
    USER_ID,
    delivery,
    endpoint_for,
    make_due,
    publish,
    receiver,
    work,
)
from tests.world import ADAM, OLIVIA

SIGNED_UP = UserSignedUp(user_id=USER_ID)
LONG_AGO = "update webhook_endpoints set failing_since = now() - interval '7 days 1 minute'"


async def made_by_adam(live: Live, url: str) -> str:
    async with live.api(ADAM) as api:
        return str((await api.post(ENDPOINTS, json={"url": url})).json()["id"])


async def status(live: Live) -> tuple[bool, str | None]:
    [row] = await rows(live, "select enabled, off_reason from webhook_endpoints")
    return row["enabled"], row["off_reason"]


async def test_after_a_week_of_failure_its_owner_gets_a_mail(live: Live) -> None:
    async with receiver(status=500) as there:
        endpoint_id = await made_by_adam(live, there.url)
        await publish(live, SIGNED_UP, SIGNED_UP)
        await work(live)
        assert await status(live) == (True, None)
        await rows(live, LONG_AGO)
        await make_due(live)
        await work(live)
        assert await status(live) == (False, "failing")
        await make_due(live)
        await work(live)
        assert len(there.got) == 4
    found = await rows(live, "select status, reason from webhook_deliveries")
    assert [tuple(row) for row in found] == [("failed", "status")] * 2
    [mail] = await mails(live, "adam@example.com")
    assert mail.words
    assert there.url in mail.words.text
    assert "a week" in mail.words.text
    assert await mails(live, "olivia@example.com") == []
    deeds = ["webhooks.endpoint_created", "webhooks.endpoint_switched_off"]
    assert await actions(live, endpoint_id) == deeds


async def test_if_its_owner_has_left_all_owners_get_it(live: Live) -> None:
    async with receiver(status=500) as there:
        await made_by_adam(live, there.url)
        await rows(live, "update admin_users set status = 'deleted' where name = 'Adam'")
        await publish(live, SIGNED_UP)
        await work(live)
        await rows(live, LONG_AGO)
        await make_due(live)
        await work(live)
    assert await mails(live, "adam@example.com") == []
    assert len(await mails(live, "olivia@example.com")) == 1


async def test_one_success_within_the_week_is_enough(live: Live) -> None:
    async with receiver(status=500) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        await rows(live, LONG_AGO)
        there.status = 200
        await make_due(live)
        await work(live)
        there.status = 500
        await publish(live, SIGNED_UP)
        await work(live)
        assert await status(live) == (True, None)


async def test_gone_is_gone_at_once(live: Live) -> None:
    async with receiver(status=410) as there:
        await made_by_adam(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        await publish(live, SIGNED_UP)
        await work(live)
        assert len(there.got) == 1
    assert await status(live) == (False, "gone")
    found = await delivery(live)
    assert (found["status"], found["reason"]) == ("failed", "gone")
    [mail] = await mails(live, "adam@example.com")
    assert mail.words
    assert "410" in mail.words.text


async def test_what_waits_fails_when_staff_switch_off_and_comes_again_when_replayed(
    live: Live,
) -> None:
    async with receiver(status=500) as there, live.api(OLIVIA) as api:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        place = f"{ENDPOINTS}/{made['id']}"
        off = (await api.put(place, json={"enabled": False})).json()
        assert (off["status"], off["offReason"], off["failingSince"]) == ("off", "staff", None)
        found = await delivery(live)
        assert (found["status"], found["reason"]) == ("failed", "switched_off")
        replay = {"since": "2026-01-01T00:00:00Z"}
        refused = await api.post(f"{place}/replays", json=replay)
        assert (refused.status_code, refused.json()["code"]) == (409, "webhooks.switched_off")
        refused = await api.post(f"{DELIVERIES}/{found['id']}/replays")
        assert refused.json()["code"] == "webhooks.switched_off"
        on = (await api.put(place, json={"enabled": True})).json()
        assert (on["status"], on["offReason"], on["offAt"]) == ("active", None, None)
        there.status = 200
        assert (await api.post(f"{place}/replays", json=replay)).json() == {
            "replayed": 1,
            "more": False,
        }
        await work(live)
        assert len(there.got) == 2
        assert len(set(there.ids)) == 1


@pytest.mark.parametrize(("answered", "ends"), [(200, "delivered"), (500, "failed")])
async def test_what_is_being_sent_when_it_is_switched_off_ends_as_it_ends(
    live: Live, answered: int, ends: str
) -> None:
    async def off_meanwhile(_: web.Request) -> web.StreamResponse:
        async with live.api(OLIVIA) as api:
            await api.put(f"{ENDPOINTS}/{made['id']}", json={"enabled": False})
        return web.Response(status=answered)

    async with receiver(answer=off_meanwhile) as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        await make_due(live)
        await work(live)
        assert len(there.got) == 1
    assert (await delivery(live))["status"] == ends


async def test_what_is_being_sent_when_it_is_removed_is_forgotten(live: Live) -> None:
    async def removed_meanwhile(_: web.Request) -> web.StreamResponse:
        async with live.api(OLIVIA) as api:
            assert (await api.delete(f"{ENDPOINTS}/{made['id']}")).status_code == 204
        return web.Response(status=500)

    async with receiver(answer=removed_meanwhile) as there:
        made = await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    assert await rows(live, "select from webhook_deliveries") == []
    assert await rows(live, "select from pgqueuer") == []
