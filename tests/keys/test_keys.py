"""Keys: made, shown once, changed, rotated and revoked; nobody sees or touches another's."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from bursar.app import create_app
from bursar.auth.scopes import SERVICES
from bursar.auth.tokens import BadToken
from bursar.core.errors import BursarError
from bursar.core.notices import Notices
from bursar.keys import secret
from bursar.keys.keyring import Keyring
from bursar.metering.latency import BOUNDS
from tests.accounts.people import actions, rows
from tests.conftest import Live
from tests.keys.keyholders import ADMIN_KEYS, API, KEYS, Held, code, key_of, service_key, set_terms
from tests.listeners import TOLD, until
from tests.wallets.purses import move_in, refused
from tests.world import ADAM, CARL, DORA, OLIVIA, SUE


def test_a_key_is_told_from_one_that_was_mistyped() -> None:
    key = secret.new()
    assert len(key) == secret.LENGTH
    assert secret.is_sound(key)
    for place in range(len(key)):
        other = "A" if key[place] != "A" else "B"
        assert not secret.is_sound(key[:place] + other + key[place + 1 :])
    swapped = key[:20] + key[21] + key[20] + key[22:]
    assert swapped == key or not secret.is_sound(swapped)
    for wrong in ("", key[:-1], f"{key}A", key.upper(), f" {key}", f"{key}\n"):
        assert not secret.is_sound(wrong)


async def test_a_key_is_shown_once_and_kept_as_a_hash(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:read", "balance:read", "usage:read"])
    [row] = await rows(live_db, "select * from api_keys")
    assert row["key_hash"] == secret.digest(carl.key)
    assert (row["user_id"], row["created_by"]) == (CARL.id, CARL.id)
    async with live_db.api(CARL) as api:
        one = await api.get(f"{KEYS}/{carl.id}")
        listed = await api.get(KEYS)
    assert listed.json()["api_keys"] == [one.json()]
    assert one.json()["masked"] == f"{carl.key[:13]}…{carl.key[-4:]}"
    assert one.json()["scopes"] == ["balance:read", "usage:read"]
    assert carl.key not in one.text + listed.text
    assert await actions(live_db, carl.id) == ["keys.created"]


async def test_the_same_idempotency_key_makes_one_key(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(CARL, **{"Idempotency-Key": "once"}) as api:
        first, again = [await api.post(KEYS, json={"name": "x"}) for _ in range(2)]
    assert first.json() == again.json()
    assert len(await rows(live_db, "select from api_keys")) == 1


@pytest.mark.parametrize(
    ("facts", "pointer"),
    [
        ({"scopes": ["usage:reed"]}, "/scopes"),
        ({"scopes": ["keys:verify"]}, "/scopes"),  # for services alone
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
        ({"allowed_addresses": ["10.0.0.0/33"]}, "/allowed_addresses/0"),
        ({"allowed_addresses": ["home"]}, "/allowed_addresses/0"),
        ({"per_second": 0}, "/per_second"),
        ({"per_month": -1}, "/per_month"),
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
    ],
)
async def test_what_no_key_can_be(live_db: Live, facts: dict[str, object], pointer: str) -> None:
    await move_in(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.post(KEYS, json={"name": "a key", **facts})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert await rows(live_db, "select from api_keys") == []


async def test_staff_are_told_of_an_expiry_in_the_word_that_they_have_sent(live_db: Live) -> None:
    await move_in(live_db)
    past = {"expiresAt": "2020-01-01T00:00:00Z"}
    held = await key_of(live_db)
    async with live_db.api(OLIVIA) as api:
        made = await api.post(ADMIN_KEYS, json={"name": "x", "scopes": ["keys:verify"], **past})
        changed = await api.put(f"{ADMIN_KEYS}/{held.id}", json=past)
    for answer in (made, changed):
        assert answer.status_code == 422
        assert [each["pointer"] for each in answer.json()["errors"]] == ["/expiresAt"]


async def test_scopes_of_the_business_are_what_staff_say(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, api_scopes=["reports:read"])
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["reports:read"])
    assert await code(live_db, shop, carl, scope="reports:read") == "VALID"
    async with live_db.api(CARL) as api:
        scopes = (await api.get(f"{KEYS}/scopes")).json()["scopes"]
    assert "reports:read" in {scope["name"] for scope in scopes}
    assert all(scope["allows"] for scope in scopes)


async def test_a_change_changes_what_is_given(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:read"], per_second=5)
    async with live_db.api(CARL) as api:
        before = await api.get(f"{KEYS}/{carl.id}")
        changed = await api.put(f"{KEYS}/{carl.id}", json={"name": "new", "per_second": None})
        assert changed.status_code == 200, changed.text
        late = await api.put(
            f"{KEYS}/{carl.id}", json={"name": "x"}, headers={"If-Match": before.headers["etag"]}
        )
        same = await api.put(f"{KEYS}/{carl.id}", json={"name": "new"})
    body = changed.json()
    assert (body["name"], body["scopes"], body["per_second"]) == ("new", ["usage:read"], None)
    assert late.status_code == 412
    assert same.json()["version"] == body["version"]
    assert await actions(live_db, carl.id) == ["keys.created", "keys.changed"]


async def test_a_rotated_key_lives_through_its_grace(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    old = await key_of(live_db, scopes=["usage:read"], per_month=7)
    async with live_db.api(CARL) as api:
        answer = await api.post(f"{KEYS}/{old.id}/rotation", json={"grace_seconds": 3600})
        assert answer.status_code == 201, answer.text
        new = Held(answer.json()["id"], answer.json()["key"])
        assert answer.json()["rotated_from"] == old.id
        assert (answer.json()["scopes"], answer.json()["per_month"]) == (["usage:read"], 7)
        again = await api.post(f"{KEYS}/{old.id}/rotation", json={})
        assert refused(again) == (409, "keys.over")
        assert [await code(live_db, shop, each) for each in (old, new)] == ["VALID", "VALID"]
        longer = "update api_keys set grace_until = now() + interval '9 days' where id = $1::uuid"
        with pytest.raises(Exception, match="lives no longer"):
            await rows(live_db, longer, old.id)
        await rows(live_db, "update api_keys set grace_until = now() where id = $1::uuid", old.id)
        assert [await code(live_db, shop, each) for each in (old, new)] == ["EXPIRED", "VALID"]
        at_once = await api.post(f"{KEYS}/{new.id}/rotation", json={"grace_seconds": 0})
    said = "select after ->> 'rotated_from' from audit_logs where event_type = 'keys.rotated'"
    assert {row[0] for row in await rows(live_db, said)} == {old.id, new.id}
    assert await code(live_db, shop, new) == "REVOKED"
    assert await code(live_db, shop, Held("", at_once.json()["key"])) == "VALID"


async def test_a_key_that_was_revoked_stays_so(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    async with live_db.api(CARL) as api:
        first, again = [await api.delete(f"{KEYS}/{carl.id}") for _ in range(2)]
        assert (first.status_code, first.json()) == (200, again.json())
        answer = await api.put(f"{KEYS}/{carl.id}", json={"name": "again"})
        assert refused(answer) == (409, "keys.over")
    with pytest.raises(Exception, match="stays so"):
        await rows(live_db, "update api_keys set status = 'active', revoked_at = null")
    assert await actions(live_db, carl.id) == ["keys.created", "keys.revoked"]


async def test_nobody_reaches_anothers_key(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    async with live_db.api(DORA) as api:
        assert (await api.get(KEYS)).json()["total"] == 0
        for answer in (
            await api.get(f"{KEYS}/{carl.id}"),
            await api.put(f"{KEYS}/{carl.id}", json={"name": "mine"}),
            await api.delete(f"{KEYS}/{carl.id}"),
            await api.post(f"{KEYS}/{carl.id}/rotation", json={}),
        ):
            assert refused(answer) == (404, "not_found")
    claim = DORA.claim
    database = live_db.database
    assert await database.fetch_all(claim, "select id from api_keys") == []
    with pytest.raises(Exception, match="permission denied"):
        await database.fetch_all(CARL.claim, "select key_hash from api_keys")
    with pytest.raises(Exception, match="permission denied"):
        await database.fetch_all(OLIVIA.claim, "select key_hash from api_keys")
    for sql in ("select find_key($2)", "select verify_keys('[]', '{}') from (select $2::bytea) x"):
        with pytest.raises(Exception, match="permission denied"):
            await database.fetch_all(CARL.claim, sql, b"")


@pytest.mark.parametrize("scope", sorted(SERVICES))
async def test_the_database_gives_no_customer_what_is_for_services(
    live_db: Live, scope: str
) -> None:
    await move_in(live_db)
    await key_of(live_db)
    with pytest.raises(Exception, match="scopes_of_services"):
        await rows(live_db, "update api_keys set scopes = array[$1::varchar]", scope)


async def test_staff_see_and_end_everybodys(live_db: Live) -> None:
    await move_in(live_db)
    carl, shop = await key_of(live_db, name="For Reports"), await service_key(live_db)
    async with live_db.api(SUE) as api:
        found = await api.get(ADMIN_KEYS, params={"search": "report"})
        assert [each["id"] for each in found.json()["apiKeys"]] == [carl.id]
        services = await api.get(ADMIN_KEYS, params={"services": True})
        assert [each["id"] for each in services.json()["apiKeys"]] == [shop.id]
        assert refused(await api.delete(f"{ADMIN_KEYS}/{carl.id}")) == (403, "auth.not_allowed")
    async with live_db.api(ADAM) as api:
        slower = await api.put(f"{ADMIN_KEYS}/{carl.id}", json={"perMinute": 5})
        assert slower.json()["perMinute"] == 5
        answer = await api.post(f"{ADMIN_KEYS}/{carl.id}/rotation", json={})
        assert refused(answer) == (409, "keys.not_a_service")
        assert (await api.post(f"{ADMIN_KEYS}/{shop.id}/rotation", json={})).status_code == 201
        assert (await api.delete(f"{ADMIN_KEYS}/{carl.id}")).json()["status"] == "revoked"
    assert await code(live_db, shop, carl) == "REVOKED"


async def test_a_key_signs_in_for_what_its_scopes_allow(live_db: Live) -> None:
    await move_in(live_db)
    reader = await key_of(live_db, scopes=["balance:read"])
    async with live_db.api() as api:
        for headers in (reader.headers, {"X-API-Key": reader.key}):
            answer = await api.get(f"{API}/balance/me", headers=headers)
            assert (answer.status_code, answer.json()["user_id"]) == (200, str(CARL.id))
            assert answer.headers["ratelimit-policy"] == '"second";q=10;w=1'
            assert '"second";r=' in answer.headers["ratelimit"]
        foreign = await api.get(f"{API}/balance/{DORA.id}", headers=reader.headers)
        assert refused(foreign) == (404, "not_found")
        for path, status, why in (
            ("users/me/transactions", 403, "auth.missing_scope"),
            ("usage", 403, "auth.missing_scope"),
            ("users/me", 403, "auth.not_allowed"),
            ("api-keys", 403, "auth.not_allowed"),
            ("admin/users", 403, "auth.not_allowed"),
        ):
            assert refused(await api.get(f"{API}/{path}", headers=reader.headers)) == (status, why)


async def test_a_service_charges_with_its_key(live_db: Live) -> None:
    from tests.wallets.purses import balance_of, fund

    await move_in(live_db)
    await fund(live_db, CARL, 10)
    shop, other = await service_key(live_db, "wallets:charge"), await service_key(live_db)
    body = {"userId": str(CARL.id), "amount": 1}
    charges = f"{API}/admin/wallets/charges"
    async with live_db.api() as api:
        assert (await api.post(charges, json=body, headers=shop.headers)).status_code == 200
        answer = await api.post(charges, json=body, headers=other.headers)
        assert refused(answer) == (403, "auth.missing_scope")
    assert await balance_of(live_db, CARL) == 9
    [audited] = await rows(
        live_db, "select actor_kind, actor_id from audit_logs where event_type = 'wallets.charged'"
    )
    assert tuple(audited.values()) == ("key", UUID(shop.id))


async def test_our_own_routes_are_limited_by_rate(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, rate_per_second_free=2, quota_free=1)
    carl = await key_of(live_db, scopes=["balance:read"], per_minute=2)
    async with live_db.api(**carl.headers) as api:
        answers = [await api.get(f"{API}/balance/me") for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert refused(answers[2]) == (429, "usage.too_many_calls")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].headers["ratelimit"].startswith('"key-minute";r=0;t=')


ENDINGS = {
    "revoked": "update api_keys set status = 'revoked'",
    "expired": "update api_keys set expires_at = now()",
    "its scopes taken": "update api_keys set scopes = '{}'",
    "from elsewhere": "update api_keys set allowed_addresses = '{203.0.113.0/24}'",
    "owner suspended": "update users set status = 'suspended'",
    "owner gone": "delete from users",
}


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_end_is_felt_as_soon_as_it_is_told(
    live_db: Live, ending: str, listens: bool
) -> None:
    """By a process that hears of it, which never looks by itself; and at once by one that cannot
    hear."""
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["balance:read"])
    notices = Notices(live_db.database, TOLD)
    ring = Keyring(live_db.database, notices)
    if not listens:
        notices.address = lambda: live_db.database.url.set(database="nothing")  # type: ignore[method-assign]
    async with notices.listening():
        if listens:
            await until(lambda: notices.hears, "somebody who listens")
        before = await ring.actor(carl.key, "127.0.0.1")
        assert before.key_scopes == {"balance:read"}
        await rows(live_db, ENDINGS[ending])
        if listens:
            await until(lambda: is_another(ring, carl.key), "the end of what was known")
        assert await is_another(ring, carl.key)


async def is_another(ring: Keyring, key: str) -> bool:
    try:
        return (await ring.actor(key, "127.0.0.1")).key_scopes != {"balance:read"}
    except BursarError:
        return True


async def test_what_changes_while_it_is_looked_up_is_not_kept(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    notices = Notices(live_db.database, TOLD)
    ring = Keyring(live_db.database, notices)
    async with notices.listening():
        await until(lambda: notices.hears, "somebody who listens")
        looking = asyncio.create_task(ring.actor(carl.key, None))
        await asyncio.sleep(0)
        ring.heard(carl.id)
        await looking
        await live_db.database.close()
        live_db.database.url = live_db.database.url.set(database="there_is_no_such_database")
        with pytest.raises(asyncpg.InvalidCatalogNameError):  # it is looked up once more
            await ring.actor(carl.key, None)


async def test_a_key_goes_when_its_time_has_come_though_it_is_known(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    notices = Notices(live_db.database, TOLD)
    ring = Keyring(live_db.database, notices)
    async with notices.listening():
        for seconds in (0.4, 4, 40):  # a busy machine may be later than the first
            soon = datetime.now(UTC) + timedelta(seconds=seconds)
            await rows(live_db, "update api_keys set expires_at = $1", soon)
            with suppress(BadToken):
                await ring.actor(carl.key, None)
                break
        await until(lambda: datetime.now(UTC) > soon, "its time")
        with pytest.raises(BadToken):
            await ring.actor(carl.key, None)


async def test_too_many_keys_are_refused_also_at_once(live_db: Live) -> None:
    await move_in(live_db)
    await rows(
        live_db,
        """insert into api_keys (user_id, key_hash, start, last_four)
        select $1, sha256(n::text::bytea), 'bur_live_AAAA', 'AAAA' from generate_series(1, 97) n""",
        CARL.id,
    )
    async with live_db.api(CARL) as api:
        made = await asyncio.gather(*(api.post(KEYS, json={"name": "x"}) for _ in range(8)))
    assert sorted(each.status_code for each in made) == [201] * 3 + [409] * 5
    assert (await rows(live_db, "select count(*) from api_keys"))[0][0] == 100
    key = next(each.json()["id"] for each in made if each.status_code == 201)
    async with live_db.api(CARL) as api:
        both = await api.post(f"{KEYS}/{key}/rotation", json={"grace_seconds": 60})
        assert refused(both) == (409, "keys.too_many")
        assert (
            await api.post(f"{KEYS}/{key}/rotation", json={"grace_seconds": 0})
        ).status_code == 201


async def test_what_a_customer_has_goes_with_them_and_money_stays(live_db: Live) -> None:
    from tests.wallets.purses import charge, fund, written

    await move_in(live_db)
    await fund(live_db, CARL, 10)
    await charge(live_db, CARL, 10)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await code(live_db, shop, carl, event_id="one")
    money, trail = await written(live_db), await rows(live_db, "select count(*) from audit_logs")
    await rows(live_db, "delete from users where id = $1", CARL.id)
    for table in ("api_keys", "usage", "monthly_usage", "usage_days", "usage_hours",
                  "usage_event_ids", "api_key_months"):  # fmt: skip
        kept = 1 if table == "api_keys" else 0  # the service's
        assert (await rows(live_db, f"select count(*) from {table}"))[0][0] == kept, table
    assert await written(live_db) == money
    assert await rows(live_db, "select count(*) from audit_logs") == trail


async def test_the_bounds_are_those_of_the_database(live_db: Live) -> None:
    [row] = await rows(live_db, "select latency_bounds() as bounds")
    assert tuple(row["bounds"]) == BOUNDS


def test_an_application_has_one_ring_and_one_desk(live_db: Live) -> None:
    app = create_app(live_db.settings, live_db.url)
    assert any(watch.channel == "bursar_keys_changed" for watch in app.state.notices.watches)
