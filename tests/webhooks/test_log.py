"""What was sent is kept for a while, found again, and sent again when somebody asks."""

from datetime import UTC, datetime, timedelta

from bursar.accounts.erasure import UserErased
from bursar.accounts.service import UserSignedUp
from bursar.core import jobs
from bursar.core.database import WORKER
from bursar.webhooks.tasks import prune
from tests.accounts.people import actions, change, rows, run_jobs
from tests.conftest import Live
from tests.webhooks.receivers import (
    DELIVERIES,
    ENDPOINTS,
    USER_ID,
    delivery,
    endpoint_for,
    publish,
    receiver,
    tell,
    work,
)
from tests.world import ANNA, OLIVIA

SIGNED_UP = UserSignedUp(user_id=USER_ID)


async def test_deliveries_are_listed_by_endpoint_status_and_event(live: Live) -> None:
    async with receiver() as good, receiver(status=500) as bad, live.api(ANNA) as api:
        first = await endpoint_for(live, good.url)
        second = await endpoint_for(live, bad.url, events=["users.erased"])
        await publish(live, SIGNED_UP, UserErased(user_id=USER_ID))
        await work(live)
        for query, number in [
            ({}, 3),
            ({"endpoint_id": first["id"]}, 2),
            ({"endpoint_id": second["id"]}, 1),
            ({"status": "pending"}, 1),
            ({"status": "failed"}, 0),
            ({"event_type": "users.erased"}, 2),
            ({"event_type": "users.erased", "status": "delivered"}, 1),
        ]:
            found = (await api.get(DELIVERIES, params=query)).json()
            assert (found["total"], len(found["webhookDeliveries"])) == (number, number), query
        page = (await api.get(DELIVERIES, params={"per_page": 2})).json()
        rest = (await api.get(DELIVERIES, params={"cursor": page["nextCursor"]})).json()
        ids = [each["id"] for each in page["webhookDeliveries"] + rest["webhookDeliveries"]]
        assert len(set(ids)) == 3
        assert (await api.get(DELIVERIES, params={"status": "lost"})).status_code == 422


async def test_one_is_replayed_with_its_id_and_all_its_attempts_to_come(live: Live) -> None:
    async with receiver() as there, live.api(OLIVIA) as api:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await tell(live)
        place = f"{DELIVERIES}/{(await delivery(live))['id']}"
        early = await api.post(f"{place}/replays")
        assert (early.status_code, early.json()["code"]) == (409, "webhooks.still_pending")
        await work(live)
        there.status = 500
        again = await api.post(f"{place}/replays")
        assert (again.status_code, again.json()["status"]) == (201, "pending")
        await work(live)
        seen = (await api.get(place)).json()
        assert (seen["status"], seen["attempts"]) == ("pending", 1)
        assert [each["statusCode"] for each in seen["attemptLog"]] == [500, 200]
        assert len(there.got) == 2
        assert len(set(there.ids)) == 1
        assert there.got[0][1] == there.got[1][1]
    assert await actions(live, seen["id"]) == ["webhooks.replayed"]


async def test_all_that_failed_since_a_moment_are_replayed(live: Live) -> None:
    async with receiver() as there, live.api(OLIVIA) as api:
        made = await endpoint_for(live, there.url)
        await publish(live, *[SIGNED_UP] * 5)
        await work(live)
        await rows(
            live,
            """update webhook_deliveries as d set status = case when place = 5 then 'delivered'
              else 'failed' end, created_at = now() - place * interval '1 hour'
            from (select id, row_number() over (order by id) as place from webhook_deliveries) as n
            where d.id = n.id""",
        )
        there.got.clear()
        since = (datetime.now(UTC) - timedelta(hours=3.5)).isoformat()
        place = f"{ENDPOINTS}/{made['id']}/replays"
        answer = await api.post(place, json={"since": since})
        assert answer.json() == {"replayed": 3, "more": False}
        await work(live)
        assert len(there.got) == 3
        assert (await api.post(place, json={"since": since})).json()["replayed"] == 0
        assert (await api.post(place, json={"since": "yesterday"})).status_code == 422


async def test_old_deliveries_are_forgotten_but_not_those_on_their_way(live: Live) -> None:
    async with receiver() as there:
        await endpoint_for(live, there.url)
        await publish(live, *[SIGNED_UP] * 2)
        await work(live)
        there.status = 500
        await publish(live, SIGNED_UP)
        await work(live)
    await change(live, "webhook_deliveries_days", 3)
    await rows(live, "update webhook_deliveries set created_at = now() - interval '4 days'")
    await rows(
        live,
        """update webhook_deliveries set created_at = now() - interval '2 days'
        where id = (select min(id::text)::uuid from webhook_deliveries)""",
    )
    async with live.database.transaction(WORKER) as db:
        await jobs.enqueue(db, prune)
    await run_jobs(live)
    found = await rows(live, "select status from webhook_deliveries order by created_at")
    assert [row["status"] for row in found] == ["pending", "delivered"]
    assert len(await rows(live, "select from webhook_attempts")) == 2
