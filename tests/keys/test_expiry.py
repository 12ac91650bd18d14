"""A key whose time has come is good for nothing, counts for nothing, and is shown as what it is."""

from typing import Any

import httpx2
import pytest

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import ADMIN_KEYS, KEYS, Held, code, key_of, service_key
from tests.wallets.purses import move_in, refused
from tests.world import CARL, OLIVIA

SOON = "2099-01-01T00:00:00Z"
FILL = """
  insert into api_keys (user_id, key_hash, start, last_four, expires_at)
  select $1, sha256(n::text::bytea), 'bur_live_AAAA', 'AAAA', now() + $3::text::interval
  from generate_series(1, $2::integer) as n
"""


async def expire(live: Live, *keys: Held) -> None:
    sql = "update api_keys set expires_at = now() where id = any ($1::uuid[])"
    await rows(live, sql, [key.id for key in keys])


async def listed(api: httpx2.AsyncClient, status: str, **more: str) -> dict[str, str]:
    answer = await api.get(KEYS, params={"status": status, **more})
    return {each["id"]: each["status"] for each in answer.json()["api_keys"]}


@pytest.mark.parametrize("grace_seconds", [0, 3600])
async def test_an_expired_key_is_not_rotated(live_db: Live, grace_seconds: int) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, expires_at=SOON)
    await expire(live_db, carl)
    async with live_db.api(CARL) as api:
        way, body = f"{KEYS}/{carl.id}/rotation", {"grace_seconds": grace_seconds}
        dead = await api.post(way, json=body)
        assert refused(dead) == (409, "keys.over")
        assert "has expired" in dead.json()["detail"]
        await api.put(f"{KEYS}/{carl.id}", json={"expires_at": SOON})
        alive = (await api.post(way, json=body)).json()
    assert alive["expires_at"].startswith("2099-01-01")
    assert await code(live_db, shop, Held(alive["id"], alive["key"])) == "VALID"


async def test_an_expired_service_key_is_not_rotated(live_db: Live) -> None:
    shop = await service_key(live_db, expiresAt=SOON)
    await expire(live_db, shop)
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(f"{ADMIN_KEYS}/{shop.id}/rotation", json={})
    assert refused(answer) == (409, "keys.over")


async def test_each_key_is_listed_as_what_it_is(live_db: Live) -> None:
    await move_in(live_db)
    good, over, old, gone = [await key_of(live_db) for _ in range(4)]
    await expire(live_db, over)
    async with live_db.api(CARL) as api:
        rotated = await api.post(f"{KEYS}/{old.id}/rotation", json={"grace_seconds": 60})
        await rows(live_db, "update api_keys set grace_until = now() where id = $1::uuid", old.id)
        await api.delete(f"{KEYS}/{gone.id}")
        active = dict.fromkeys((good.id, rotated.json()["id"]), "active")
        assert await listed(api, "active") == active
        assert await listed(api, "expired") == dict.fromkeys((over.id, old.id), "expired")
        assert await listed(api, "revoked") == {gone.id: "revoked"}
        assert (await api.get(f"{KEYS}/{over.id}")).json()["status"] == "expired"
    async with live_db.api(OLIVIA) as staff:
        found = await staff.get(ADMIN_KEYS, params={"status": "expired"})
    assert {each["id"] for each in found.json()["apiKeys"]} == {over.id, old.id}


async def test_a_reader_hears_that_a_key_has_expired(live_db: Live) -> None:
    """No edit has made it a new version, and a writer's If-Match is good yet."""
    await move_in(live_db)
    carl = await key_of(live_db)
    key = f"{KEYS}/{carl.id}"
    await rows(live_db, "alter table api_keys disable trigger touch")
    async with live_db.api(CARL) as api:
        known = (await api.get(key)).headers["etag"]
        assert (await api.get(key, headers={"If-None-Match": known})).status_code == 304
        await expire(live_db, carl)
        assert (await api.get(key, headers={"If-None-Match": known})).json()["status"] == "expired"
        change: dict[str, Any] = {"json": {"name": "new"}, "headers": {"If-Match": known}}
        assert (await api.put(key, **change)).status_code == 200


async def test_expired_keys_take_nobodys_place(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, FILL, CARL.id, 100, "0")
    first = await key_of(live_db)
    await expire(live_db, first)
    await rows(live_db, "delete from api_keys where start = 'bur_live_AAAA'")
    await rows(live_db, FILL, CARL.id, 99, "1 day")
    async with live_db.api(CARL) as api:
        again = await api.put(f"{KEYS}/{first.id}", json={"expires_at": None})
        assert again.status_code == 200, again.text
        assert refused(await api.post(KEYS, json={"name": "x"})) == (409, "keys.too_many")
        await expire(live_db, first)
        await rows(live_db, "update api_keys set expires_at = null where start = 'bur_live_AAAA'")
        await rows(live_db, FILL.replace("n::text", "'z'"), CARL.id, 1, "1 day")
        for change in ({"expires_at": None}, {"expires_at": SOON}):
            revived = await api.put(f"{KEYS}/{first.id}", json=change)
            assert refused(revived) == (409, "keys.too_many")
        assert (await api.put(f"{KEYS}/{first.id}", json={"name": "y"})).status_code == 200


async def test_a_service_has_no_quota_of_a_month(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        body = {"name": "x", "scopes": ["keys:verify"], "perMonth": 5}
        made = await api.post(ADMIN_KEYS, json=body)
        shop = await service_key(live_db, perSecond=5, perMinute=9)
        changed = await api.put(f"{ADMIN_KEYS}/{shop.id}", json={"perMonth": 5})
        for answer in (made, changed):
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/perMonth"
        cleared = await api.put(f"{ADMIN_KEYS}/{shop.id}", json={"perMonth": None})
        assert cleared.status_code == 200
        await move_in(live_db)
        carl = await key_of(live_db)
        limited = await api.put(f"{ADMIN_KEYS}/{carl.id}", json={"perMonth": 5})
        assert limited.json()["perMonth"] == 5
