"""Staff find, add, change, suspend and restore customers, each as far as their role goes."""

import asyncio

import pytest
from sqlalchemy import text

from bursar.core.database import WORKER, Claim, Role
from tests.accounts.people import (
    ADMIN_USERS,
    AUTH,
    PASSWORD,
    USERS,
    actions,
    log_in,
    rows,
    sign_up,
)
from tests.conftest import Live
from tests.world import ADAM, ANNA, CARL, MARK, OLIVIA, SUE


async def test_staff_add_a_customer_who_chooses_a_password_later(live_db: Live) -> None:
    async with live_db.api(SUE) as sue:
        added = await sue.post(
            ADMIN_USERS,
            json={"email": "Dora@Example.com", "fullName": "Dora Dorn", "tier": "pro"},
        )
        assert added.status_code == 201
        dora = added.json()
        assert (dora["email"], dora["firstName"], dora["tier"]) == (
            "dora@example.com",
            "Dora",
            "pro",
        )
        twice = await sue.post(ADMIN_USERS, json={"email": "dora@example.com"})
        assert (twice.status_code, twice.json()["code"]) == (409, "accounts.email_taken")
        one = await sue.get(f"{ADMIN_USERS}/{dora['id']}")
        assert one.json() == dora
        assert one.headers["ETag"] == added.headers["ETag"]
    assert await actions(live_db, dora["id"]) == ["users.created"]


async def test_a_list_finds_by_word_status_and_order(live_db: Live) -> None:
    people = ["Anna Berg", "Bernd Amsel", "Carla Berg", "Dora 100% Sure", "Emil_Under Score"]
    async with live_db.api(OLIVIA) as api:
        for name in people:
            email = f"{name.split()[0].lower().replace('_', '.')}@example.com"
            await api.post(ADMIN_USERS, json={"email": email, "name": name})

        async def found(**ask: object) -> list[str]:
            answer = await api.get(ADMIN_USERS, params=ask)
            assert answer.status_code == 200, answer.text
            return [each["name"] for each in answer.json()["users"]]

        assert await found() == people[::-1]
        assert await found(sort="name") == people
        assert await found(search="BERG", sort="name") == ["Anna Berg", "Carla Berg"]
        assert await found(search="berg carla") == ["Carla Berg"]
        assert await found(search="carla@") == ["Carla Berg"]
        assert await found(search="100%") == ["Dora 100% Sure"]
        assert await found(search="l_u") == ["Emil_Under Score"]
        assert await found(search="be") == ["Carla Berg", "Bernd Amsel", "Anna Berg"]
        assert await found(search="er") == []  # a short word is looked for where words begin
        assert await found(search="x\\") == []
        assert await found(status="suspended") == []
        assert await found(limit=2, offset=1, sort="name") == people[1:3]
        for bad in (
            {"status": "gone"},
            {"sort": "password_hash"},
            {"search": ""},
            {"search": "% _"},
        ):
            assert (await api.get(ADMIN_USERS, params=bad)).status_code == 422


async def test_suspending_signs_out_and_is_told_with_its_reason(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(SUE) as sue:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}"
        body = {"status": "suspended", "reason": "Chargebacks."}
        suspended = await sue.put(f"{url}/status", json=body)
        assert (suspended.json()["status"], suspended.json()["isActive"]) == ("suspended", False)
        gone = await api.post(f"{AUTH}/refresh", json={"refresh_token": carl.refresh_token})
        assert gone.status_code == 401
        [row] = await rows(live_db, "select * from audit_logs where event_type = 'users.suspended'")
        assert (row["actor_id"], row["target_id"]) == (SUE.id, carl.id)
        assert "Chargebacks." in row["after"]
        await sue.put(f"{url}/status", json={"status": "active"})
        await log_in(api)


async def test_deleting_is_soft_until_it_is_erased(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as olivia:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}"
        deleted = await olivia.delete(url)
        assert (deleted.json()["status"], deleted.json()["deletedAt"] is None) == ("deleted", False)
        assert (await olivia.get(ADMIN_USERS)).json()["users"] == []
        listed = await olivia.get(ADMIN_USERS, params={"status": "deleted"})
        assert [each["id"] for each in listed.json()["users"]] == [carl.id]
        back = await olivia.put(f"{url}/status", json={"status": "active"})
        assert back.json()["deletedAt"] is None
        await log_in(api)
        await rows(live_db, "update users set erased_at = now()")
        late = await olivia.put(f"{url}/status", json={"status": "active"})
    assert (late.status_code, late.json()["code"]) == (409, "accounts.erased")


async def test_many_at_once_are_all_or_none(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        ids = []
        for n in range(5):
            added = await api.post(ADMIN_USERS, json={"email": f"user{n}@example.com"})
            ids.append(added.json()["id"])
        url = f"{ADMIN_USERS}/status-changes"
        unknown = "00000000-0000-7000-8000-000000000000"
        body = {"userIds": [*ids, unknown], "status": "suspended"}
        refused = await api.post(url, json=body)
        assert refused.status_code == 404
        assert unknown in refused.json()["detail"]
        done = await api.post(url, json={"userIds": ids, "status": "suspended"})
        assert sorted(done.json()["changed"]) == sorted(ids)
        again = await api.post(url, json={"userIds": ids, "status": "suspended"})
        assert again.json()["changed"] == []
        both = [{"userIds": ids, "status": "active"}, {"userIds": ids[::-1], "status": "pending"}]
        answers = await asyncio.gather(*(api.post(url, json=each) for each in both * 5))
    assert {each.status_code for each in answers} == {200}  # no two wait for each other in a circle


async def test_stats_count_by_status(live_db: Live) -> None:
    async with live_db.api(ANNA) as anna, live_db.api(OLIVIA) as olivia:
        for n, status in enumerate(["active", "active", "suspended", "pending"]):
            body = {"email": f"user{n}@example.com", "status": status}
            await olivia.post(ADMIN_USERS, json=body)
        stats = (await anna.get(f"{ADMIN_USERS}/stats/overview")).json()
    assert (stats["total"], stats["active"], stats["newThisMonth"]) == (4, 2, 4)
    assert stats["byStatus"] == {"active": 2, "suspended": 1, "pending": 1, "deleted": 0}
    assert len(stats["recent"]) == 4


async def test_support_cannot_give_a_customer_another_address(live_db: Live) -> None:
    """Its mailbox would get the link for a new password, and with it the account."""
    async with live_db.api() as api, live_db.api(SUE) as sue:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}"
        theft = await sue.put(url, json={"email": "sue@example.com", "tier": "pro"})
        assert (theft.status_code, theft.json()["code"]) == (403, "auth.not_allowed")
        rest = {"email": carl.email, "tier": "enterprise"}  # a form sends what it has shown
        assert (await sue.put(url, json=rest)).json()["tier"] == "enterprise"
    [row] = await rows(live_db, "select email, tier from users")
    assert tuple(row) == (carl.email, "enterprise")


async def test_a_new_address_is_not_a_verified_one(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(ADAM) as adam:
        carl = await sign_up(api)
        await sign_up(api, "dora@example.com", username="dora")
        await rows(live_db, "update users set email_verified = true")
        url = f"{ADMIN_USERS}/{carl.id}"
        for body, code in (
            ({"email": "DORA@example.com"}, "accounts.email_taken"),
            ({"username": "Dora"}, "accounts.username_taken"),
        ):
            taken = await adam.put(url, json=body)
            assert (taken.status_code, taken.json()["code"]) == (409, code)
        changed = await adam.put(url, json={"email": "karl@example.com"})
    assert (changed.json()["email"], changed.json()["emailVerified"]) == ("karl@example.com", False)


@pytest.mark.parametrize("actor", [ANNA, MARK], ids=["analyst", "marketer"])
async def test_who_may_only_look_changes_nothing(live_db: Live, actor: object) -> None:
    async with live_db.api(OLIVIA) as olivia, live_db.api(actor) as api:  # type: ignore[arg-type]
        carl = (await olivia.post(ADMIN_USERS, json={"email": "carl@example.com"})).json()
        url = f"{ADMIN_USERS}/{carl['id']}"
        assert (await api.get(url)).status_code == 200
        for answer in (
            await api.put(url, json={"tier": "pro"}),
            await api.put(f"{url}/status", json={"status": "suspended"}),
            await api.delete(url),
            await api.post(ADMIN_USERS, json={"email": "x@example.com"}),
            await api.post(f"{url}/impersonation", json={"reason": "curious"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "auth.not_allowed")


async def test_support_looks_as_a_customer_and_changes_nothing(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(SUE) as sue:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}/impersonation"
        refused = await sue.post(url, json={"reason": "Ticket 12", "write": True})
        assert refused.status_code == 403
        begun = await sue.post(url, json={"reason": "Ticket 12"})
        assert begun.json()["scope"] == "read"
        as_carl = {"Authorization": f"Bearer {begun.json()['accessToken']}"}
        seen = await api.get(f"{USERS}/me", headers=as_carl)
        assert seen.json()["id"] == carl.id
        write = await api.put(f"{USERS}/me", json={"username": "hacked"}, headers=as_carl)
        assert (write.status_code, write.json()["code"]) == (403, "auth.read_only")
        assert (await api.get(f"{USERS}/me/export", headers=as_carl)).status_code == 403
        listed = await api.get(f"{AUTH}/sessions", headers=carl.headers)
        assert "impersonation" in {each["method"] for each in listed.json()["sessions"]}
    assert (await actions(live_db, carl.id))[-1] == "users.impersonated"


async def test_who_may_act_as_a_customer_is_named_in_every_row(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(ADAM) as adam:
        carl = await sign_up(api)
        url = f"{ADMIN_USERS}/{carl.id}/impersonation"
        begun = await adam.post(url, json={"reason": "Ticket 13", "write": True})
        as_carl = {"Authorization": f"Bearer {begun.json()['accessToken']}"}
        changed = await api.put(f"{USERS}/me", json={"username": "carl"}, headers=as_carl)
        assert changed.status_code == 200
        for path, body in (
            (f"{AUTH}/change-password", {"current_password": PASSWORD, "new_password": "x" * 20}),
            (f"{AUTH}/change-email", {"email": "x@example.com", "password": PASSWORD}),
            (f"{USERS}/me/deletion", {"password": PASSWORD}),
        ):
            personal = await api.post(path, json=body, headers=as_carl)
            assert (personal.status_code, personal.json()["code"]) == (403, "auth.not_for_others")
        await rows(live_db, "update users set status = 'suspended'")
        shut = await adam.post(url, json={"reason": "Ticket 13"})
        assert (shut.status_code, shut.json()["code"]) == (409, "accounts.not_active")
    [row] = await rows(live_db, "select * from audit_logs where event_type = 'users.changed'")
    assert (str(row["actor_id"]), row["impersonator_id"]) == (carl.id, ADAM.id)


async def test_no_login_role_sees_more_than_it_must(live_db: Live) -> None:
    async with live_db.api() as api:
        carl = await sign_up(api)
    read = {
        Claim(Role.CUSTOMER, carl.id): 1,
        Claim(Role.CUSTOMER, str(CARL.id)): 0,
        Claim(Role.CUSTOMER): 0,
        Claim(Role.STAFF, str(SUE.id)): 1,
        WORKER: 1,
    }
    for claim, seen in read.items():
        async with live_db.database.transaction(claim) as db:
            assert len((await db.execute(text("select id from users"))).all()) == seen
    with pytest.raises(Exception, match="permission denied"):
        async with live_db.database.transaction(WORKER) as db:
            await db.execute(text("select password_hash from users"))
    for claim in (Claim(Role.CUSTOMER, carl.id), Claim(Role.STAFF, str(SUE.id))):
        for query in (
            "select password_hash from users",
            "select password_hash from admin_users",
            "select totp_secret from admin_users",
            "select * from recovery_codes",
            "update users set password_hash = 'x'",
            "delete from users",
        ):
            with pytest.raises(Exception, match="permission denied"):
                async with live_db.database.transaction(claim) as db:
                    await db.execute(text(query))
