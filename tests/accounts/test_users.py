"""What customers do with their own account, and cannot do with anybody else's."""

import asyncio
from contextlib import suppress

import pytest

from bursar.accounts import tasks
from bursar.core.database import WORKER
from tests.accounts.people import (
    ADMIN_USERS,
    AUTH,
    OTHER_PASSWORD,
    PASSWORD,
    USERS,
    actions,
    log_in,
    mails,
    rows,
    run_jobs,
    sign_up,
)
from tests.conftest import Live
from tests.world import OLIVIA

ME = f"{USERS}/me"


async def test_me_is_my_own_id_and_nobody_elses(live_db: Live) -> None:
    async with live_db.api() as api:
        carl, dora = await sign_up(api), await sign_up(api, "dora@example.com")
        mine = await api.get(ME, headers=carl.headers)
        same = await api.get(f"{USERS}/{carl.id}", headers=carl.headers)
        assert mine.json() == same.json()
        for written in (carl.id.upper(), carl.id.replace("-", "")):
            also = await api.get(f"{USERS}/{written}", headers=carl.headers)
            assert also.json() == mine.json()
        for path in ("", "/preferences", "/export"):
            for target in (dora.id, "00000000-0000-7000-8000-000000000000", "x"):
                hers = await api.get(f"{USERS}/{target}{path}", headers=carl.headers)
                assert (hers.status_code, hers.json()["code"]) == (404, "not_found")
        for path in ("", "/preferences"):
            theft = await api.put(f"{USERS}/{dora.id}{path}", json={}, headers=carl.headers)
            assert theft.status_code == 404
        assert (await api.get(ME)).status_code == 401


async def test_a_change_is_kept_and_one_of_two_editors_wins(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        tag = (await api.get(ME, headers=carl.headers)).headers["ETag"]
        headers = {**carl.headers, "If-Match": tag}
        first = await api.put(ME, json={"username": "carl", "first_name": "Karl"}, headers=headers)
        assert (first.json()["username"], first.json()["full_name"]) == ("carl", "Karl Carlson")
        second = await api.put(ME, json={"username": "karl"}, headers=headers)
        assert second.status_code == 412
        freed = await api.put(ME, json={"username": None}, headers=carl.headers)
    assert freed.json()["username"] is None
    assert (await actions(live_db, carl.id))[-2:] == ["users.changed"] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("role", "partner"), ("tier", "enterprise"), ("status", "active"), ("email", "x@example.com")],
)
async def test_what_is_not_theirs_to_change_stays(live_db: Live, field: str, value: str) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        before = (await api.get(ME, headers=carl.headers)).json()
        await api.put(ME, json={field: value, "is_active": False}, headers=carl.headers)
        after = (await api.get(ME, headers=carl.headers)).json()
    assert before[field] == after[field]


async def test_preferences_are_typed_and_have_defaults(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        fresh = await api.get(f"{ME}/preferences", headers=carl.headers)
        assert (fresh.json()["language"], fresh.json()["notifications"]["offers"]) == ("en", False)
        chosen = {"language": "de", "notifications": {"offers": True}}
        put = await api.put(f"{ME}/preferences", json=chosen, headers=carl.headers)
        assert (put.json()["language"], put.json()["theme"]) == ("de", "system")
        stale = {**carl.headers, "If-Match": fresh.headers["ETag"]}
        assert (await api.put(f"{ME}/preferences", json={}, headers=stale)).status_code == 412
        for bad in (
            {"language": "german"},
            {"theme": "blue"},
            {"currency": "usd"},
            {"notifications": {"security": False}},
        ):
            refused = await api.put(f"{ME}/preferences", json=bad, headers=carl.headers)
            assert refused.status_code == 422
        assert (await api.get(f"{ME}/preferences", headers=carl.headers)).json() == put.json()


async def test_of_those_who_choose_first_at_once_one_wins(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        headers = {**carl.headers, "If-Match": '"0"'}
        languages = ["de", "en", "fr", "it", "es"]
        put = [
            api.put(f"{ME}/preferences", json={"language": each}, headers=headers)
            for each in languages
        ]
        answers = sorted(each.status_code for each in await asyncio.gather(*put))
    assert answers == [200] + [412] * 4


async def test_export_has_everything_and_no_secret(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
        taken = await api.get(f"{ME}/export", headers=carl.headers)
    assert taken.headers["Content-Disposition"] == 'attachment; filename="my-data.json"'
    body = taken.json()
    assert body["user"]["email"] == carl.email
    assert set(body) == {
        "exported_at", "user", "preferences", "identities", "sessions", "wallets", "rewards",
        "bookings", "api_keys", "usage", "payments", "billing",
    }  # fmt: skip
    assert '"balance":0.000000,' in taken.text  # a number with its digits, as everywhere
    assert len(body["sessions"]) == 1
    assert "hash" not in taken.text


async def test_a_closed_account_is_erased_after_its_grace_time(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api, username="carl")
        await api.put(f"{ME}/preferences", json={"language": "de"}, headers=carl.headers)
        wrong = await api.post(
            f"{ME}/deletion", json={"password": OTHER_PASSWORD}, headers=carl.headers
        )
        assert wrong.status_code == 401
        closed = await api.post(f"{ME}/deletion", json={"password": PASSWORD}, headers=carl.headers)
        assert closed.status_code == 202
        for path, body in (
            ("login", {"email": carl.email, "password": PASSWORD}),
            ("refresh", {"refresh_token": carl.refresh_token}),
        ):
            assert (await api.post(f"{AUTH}/{path}", json=body)).status_code == 401
        await run_jobs(live_db)
        assert (await mails(live_db, carl.email))[0].template == "account_deleted"
        await erase(live_db)
        [kept] = await rows(live_db, "select * from users")
        assert (kept["email"], kept["erased_at"]) == (carl.email, None)  # it can still come back
        await rows(live_db, "update users set deleted_at = now() - interval '31 days'")
        await erase(live_db)
        [gone] = await rows(live_db, "select * from users")
        assert gone["erased_at"] is not None
        named = [gone[c] for c in ("name", "first_name", "last_name", "username", "password_hash")]
        assert named == ["", "", "", None, None]
        assert (gone["email"], gone["status"]) == (f"{carl.id}@erased.invalid", "deleted")
        assert await rows(live_db, "select from user_preferences") == []
        assert await mails(live_db, carl.email) == []
        assert (await actions(live_db, carl.id))[-1] == "users.erased"
        again = await sign_up(api)  # the address is free
    assert again.id != carl.id


async def erase(live: Live) -> None:
    async with live.database.transaction(WORKER) as db:
        await tasks.erase_deleted(db, {})


async def test_what_was_mailed_to_an_address_from_before_is_erased_too(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as olivia:
        carl = await sign_up(api)
        moved = await olivia.put(f"{ADMIN_USERS}/{carl.id}", json={"email": "karl@example.com"})
        assert moved.status_code == 200
    assert [each.template for each in await mails(live_db, carl.email)] == ["email_changed"]
    await rows(live_db, "update users set status = 'deleted'")
    await rows(live_db, "update users set deleted_at = now() - interval '31 days'")
    await erase(live_db)
    assert await mails(live_db, carl.email) == []


async def test_a_crash_while_erasing_leaves_all_or_nothing(live_db: Live) -> None:
    async with live_db.api() as api:
        await sign_up(api)
        await sign_up(api, "dora@example.com")
    await rows(live_db, "update users set status = 'deleted'")
    await rows(live_db, "update users set deleted_at = now() - interval '31 days'")
    with suppress(ZeroDivisionError):
        async with live_db.database.transaction(WORKER) as db:
            await tasks.erase_deleted(db, {})
            raise ZeroDivisionError
    assert len(await rows(live_db, "select from users where erased_at is null")) == 2
    await erase(live_db)
    assert await rows(live_db, "select from users where erased_at is null") == []


async def test_plain_sql_of_the_old_systems_goes_on_working(live_db: Live) -> None:
    await rows(
        live_db,
        "insert into users (email, name, user_type) values ($1, $2, 'customer')",
        "test@example.com",
        "Test User",
    )
    [row] = await rows(live_db, "select * from users")
    assert (row["first_name"], row["last_name"], row["is_active"]) == ("Test", "User", True)
    assert (row["role"], row["tier"], row["status"]) == ("individual_client", "free", "active")
    await rows(live_db, "delete from users where email = 'test@example.com'")


async def test_two_sign_ins_are_two_sessions_of_one_person(live_db: Live) -> None:
    async with live_db.api() as api:
        first, second = await sign_up(api), await log_in(api)
    assert first.id == second.id
    assert len(await rows(live_db, "select from sessions")) == 2
