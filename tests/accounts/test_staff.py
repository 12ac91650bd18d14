"""Staff look after staff: nobody rises above themselves, and one owner always stays."""

import asyncio
from typing import Any

import asyncpg
import httpx2
import pytest

from bursar.auth.actor import operator
from tests.accounts.colleagues import (
    ADMINISTRATOR,
    ANALYST,
    DOOR,
    OWNER,
    STAFF,
    SUPPORT,
    Colleague,
    code,
    enrol,
    hire,
    hired,
    invite,
    log_in,
    trail,
)
from tests.accounts.people import (
    OTHER_PASSWORD,
    PASSWORD,
    actions,
    link_in_mail,
    rows,
)
from tests.conftest import Live
from tests.databases import raw
from tests.world import ADAM, ANNA, CARL, MARK, OLIVIA, SUE

# Who may do what to whom


async def test_who_may_look_and_who_may_write(live_db: Live) -> None:
    member = await hire(live_db, "sue", SUPPORT)
    for actor, expected in {
        OLIVIA: 200,
        ADAM: 200,
        SUE: 403,
        ANNA: 403,
        MARK: 403,
        CARL: 403,
    }.items():
        async with live_db.api(actor) as api:
            assert (await api.get(STAFF)).status_code == expected
            assert (await api.get(f"{STAFF}/{member}")).status_code == expected
            answer = await api.put(f"{STAFF}/{member}", json={"name": "Sue"})
            assert answer.status_code == expected
            if expected == 403:
                for answer in (
                    await api.post(STAFF, json={"email": "x@example.com", "role": "support"}),
                    await api.put(f"{STAFF}/{member}/status", json={"status": "suspended"}),
                    await api.delete(f"{STAFF}/{member}"),
                    await api.post(f"{STAFF}/{member}/invitation"),
                    await api.delete(f"{STAFF}/{member}/second-factor"),
                ):
                    assert code(answer) == (403, "auth.not_allowed")


async def test_an_administrator_does_not_become_or_make_or_touch_an_owner(live_db: Live) -> None:
    above = (403, "accounts.above_you")
    async with live_db.api() as api:
        olivia = await hired(live_db, api, "olivia", OWNER)
        sue = await hired(live_db, api, "sue", SUPPORT)
        adam = await hired(live_db, api, "adam", ADMINISTRATOR)
        invited = await api.post(
            STAFF, json={"email": "new@example.com", "role": "owner"}, headers=olivia.signed
        )
        api.headers.update(adam.signed)
        body = {"email": "ally@example.com", "role": "owner"}
        assert code(await api.post(STAFF, json=body)) == above
        for whom in (olivia.id, invited.json()["id"]):
            for facts in ({"role": "support"}, {"email": "adam2@example.com"}, {"name": "x"}):
                assert code(await api.put(f"{STAFF}/{whom}", json=facts)) == above
            status = {"status": "suspended"}
            assert code(await api.put(f"{STAFF}/{whom}/status", json=status)) == above
            assert code(await api.delete(f"{STAFF}/{whom}")) == above
            assert code(await api.post(f"{STAFF}/{whom}/invitation")) == above
        assert code(await api.put(f"{STAFF}/{sue.id}", json={"role": "owner"})) == above
        assert code(await api.put(f"{STAFF}/{adam.id}", json={"role": "owner"})) == above
        assert (await api.put(f"{STAFF}/{sue.id}", json={"role": "analyst"})).status_code == 200
    kept = await rows(live_db, "select role, status from admin_users where role = 'owner'")
    assert [tuple(row) for row in kept] == [("owner", "active"), ("owner", "invited")]


async def test_nobody_changes_their_own_role_status_or_address(live_db: Live) -> None:
    own = (403, "accounts.own_account")
    async with live_db.api() as api:
        await hire(live_db, "zoe", OWNER)
        for name, role in (("olivia", OWNER), ("adam", ADMINISTRATOR)):
            me = await hired(live_db, api, name, role)
            api.headers.update(me.signed)
            for facts in ({"role": "support"}, {"email": "other@example.com"}):
                assert code(await api.put(f"{STAFF}/{me.id}", json=facts)) == own
            status = {"status": "suspended"}
            assert code(await api.put(f"{STAFF}/{me.id}/status", json=status)) == own
            assert code(await api.delete(f"{STAFF}/{me.id}")) == own
            same = {"name": "Another", "role": role, "email": me.email}
            assert (await api.put(f"{STAFF}/{me.id}", json=same)).json()["name"] == "Another"


async def test_what_cannot_be_asked_for(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss:
        ivan = await invite(boss)
        url = f"{STAFF}/{ivan['id']}"
        still = (409, "accounts.still_invited")
        for status in ("active", "suspended"):
            assert code(await boss.put(f"{url}/status", json={"status": status})) == still
        for status in ("deleted", "invited", "king", None):
            assert code(await boss.put(f"{url}/status", json={"status": status}))[0] == 422
        for facts in (
            {"role": "king"},
            {"email": "no address"},
            {"name": "two\nlines"},
            {"name": "x" * 201},
        ):
            assert code(await boss.put(url, json=facts))[0] == 422
        for path in ("", "/status", "/invitation", "/second-factor"):
            nobody = f"{STAFF}/00000000-0000-7000-8000-0000000000b1{path}"
            methods = {"": "PUT", "/status": "PUT", "/invitation": "POST"}
            body = {"status": "active", "name": "x"}
            answer = await boss.request(methods.get(path, "DELETE"), nobody, json=body)
            assert code(answer) == (404, "not_found")
        active = await hire(live_db, "sue", SUPPORT)
        refused = await boss.post(f"{STAFF}/{active}/invitation")
        assert code(refused) == (409, "accounts.not_invited")


# The last owner


async def test_the_last_owner_stays(live_db: Live) -> None:
    last = (409, "accounts.last_owner")
    async with live_db.api() as api, live_db.api(operator(OWNER)) as machine:
        olivia = await hired(live_db, api, "olivia", OWNER)
        await hire(live_db, "adam", ADMINISTRATOR)
        url = f"{STAFF}/{olivia.id}"
        api.headers.update(olivia.signed)
        await api.post(STAFF, json={"email": "new@example.com", "role": "owner"})  # not in yet
        for client in (api, machine):
            assert code(await client.put(url, json={"role": "support"})) == last
            assert code(await client.put(f"{url}/status", json={"status": "suspended"})) == last
            assert code(await client.delete(url)) == last
        zoe = await hire(live_db, "zoe", OWNER)
        assert (await machine.put(url, json={"role": "support"})).status_code == 200
        assert code(await machine.delete(f"{STAFF}/{zoe}")) == last


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "", {"role": "support"}),
        ("PUT", "/status", {"status": "suspended"}),
        ("DELETE", "", None),
    ],
    ids=["demote", "suspend", "remove"],
)
async def test_of_two_owners_who_turn_on_each_other_at_once_one_stays(
    live_db: Live, method: str, path: str, body: Any
) -> None:
    async with live_db.api() as api:
        one, two = [await hired(live_db, api, name, OWNER) for name in ("one", "two")]

        async def ask(who: Colleague, whom: Colleague) -> tuple[int, str]:
            url = f"{STAFF}/{whom.id}{path}"
            return code(await api.request(method, url, json=body, headers=who.signed))

        answers = await asyncio.gather(ask(one, two), ask(two, one))
    assert sorted(answers) == [(200, ""), (409, "accounts.last_owner")]
    left = "select count(*) n from admin_users where role = 'owner' and status = 'active'"
    assert (await rows(live_db, left))[0]["n"] == 1


async def test_who_is_demoted_while_their_request_waits_does_no_more(live_db: Live) -> None:
    """Whatever the token says: the role is looked at again when it is their turn."""
    async with live_db.api() as api:
        one, two, three = [await hired(live_db, api, name, OWNER) for name in ("a", "b", "c")]

        def demote(who: Colleague, whom: Colleague) -> asyncio.Task[httpx2.Response]:
            url, body = f"{STAFF}/{whom.id}", {"role": "support"}
            return asyncio.create_task(api.put(url, json=body, headers=who.signed))

        held = await asyncpg.connect(raw(live_db.url))
        await held.execute("select pg_advisory_lock(hashtextextended('staff', 0))")
        first = demote(one, two)
        await until_waiting(held, 1)
        second = demote(two, three)
        await until_waiting(held, 2)
        await held.close()
        answers = [code(await first), code(await second)]
    assert answers == [(200, ""), (403, "accounts.role_changed")]
    left = await rows(live_db, "select email from admin_users where role = 'owner' order by email")
    assert [row["email"] for row in left] == ["a@example.com", "c@example.com"]


WAITING = """
  select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
  where datname = current_database() and locktype = 'advisory' and not granted
"""


async def until_waiting(connection: Any, number: int) -> None:
    async with asyncio.timeout(30):
        while await connection.fetchval(WAITING) < number:
            pass


@pytest.mark.parametrize(
    "statement",
    [
        "update admin_users set role = 'support'",
        "update admin_users set status = 'suspended'",
        "delete from admin_users",
        "truncate admin_users cascade",
    ],
)
async def test_not_even_with_sql_in_hand(live_db: Live, statement: str) -> None:
    await hire(live_db, "olivia", OWNER)
    await hire(live_db, "zoe", OWNER)
    owner = await asyncpg.connect(raw(live_db.url))
    try:
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(statement)
    finally:
        await owner.close()


# Changes and what follows from them


async def test_a_suspended_colleague_is_out_and_comes_back(live_db: Live) -> None:
    async with live_db.api() as api, live_db.api(OLIVIA) as boss:
        sue = await hired(live_db, api, "sue", SUPPORT)
        await api.post(f"{DOOR}/forgot-password", json={"email": sue.email})
        link = await link_in_mail(live_db, sue.email)
        url = f"{STAFF}/{sue.id}/status"
        assert (await boss.put(url, json={"status": "suspended"})).json()["status"] == "suspended"
        for path, body in (
            ("refresh", {"refreshToken": sue.refresh_token}),
            ("reset-password", {"token": link, "newPassword": OTHER_PASSWORD}),
            ("login", {"email": sue.email, "password": PASSWORD}),
        ):
            assert not (await api.post(f"{DOOR}/{path}", json=body)).is_success
        assert (await boss.put(url, json={"status": "active"})).status_code == 200
        assert (await boss.put(url, json={"status": "active"})).status_code == 200
        await log_in(api, "sue")
    told = [name for name in await actions(live_db, sue.id) if "ated" in name or "susp" in name]
    assert told == ["staff.created", "staff.suspended", "staff.activated"]


async def test_if_match_lets_only_one_of_two_editors_win(live_db: Live) -> None:
    member = await hire(live_db, "sue", SUPPORT)
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = f"{STAFF}/{member}"
        seen = (await olivia.get(url)).headers["etag"]
        first = await olivia.put(url, json={"name": "Sue S."}, headers={"If-Match": seen})
        second = await adam.put(url, json={"name": "Susan"}, headers={"If-Match": seen})
        third = await adam.delete(url, headers={"If-Match": seen})
        fourth = await adam.put(
            f"{url}/status", json={"status": "suspended"}, headers={"If-Match": seen}
        )
    assert first.status_code == 200
    assert first.headers["etag"] != seen
    assert {code(each) for each in (second, third, fourth)} == {(412, "precondition_failed")}


async def test_who_asks_again_hears_of_what_has_no_version(live_db: Live) -> None:
    """A second factor and a sign-in change what is shown; the latter spoils nobody's edit."""
    async with live_db.api() as api, live_db.api(OLIVIA) as boss:
        sue = await hired(live_db, api, "sue", SUPPORT)
        url = f"{STAFF}/{sue.id}"
        seen = (await boss.get(url)).headers["etag"]
        assert (await boss.get(url, headers={"If-None-Match": seen})).status_code == 304
        await log_in(api, "sue")
        again = await boss.get(url, headers={"If-None-Match": seen})
        assert again.status_code == 200
        renamed = await boss.put(url, json={"name": "Sue S."}, headers={"If-Match": seen})
        assert renamed.status_code == 200
        seen = renamed.headers["etag"]
        await enrol(api, sue)
        again = await boss.get(url, headers={"If-None-Match": seen})
        assert again.json()["hasSecondFactor"] is True
        late = await boss.put(url, json={"name": "Susan"}, headers={"If-Match": seen})
    assert code(late) == (412, "precondition_failed")


async def test_what_changed_is_written_down_and_what_did_not_is_not(live_db: Live) -> None:
    member = await hire(live_db, "sue", SUPPORT)
    async with live_db.api(OLIVIA) as boss:
        for _ in range(2):
            body = {"role": "analyst", "name": "Sue"}
            assert (await boss.put(f"{STAFF}/{member}", json=body)).status_code == 200
    [_, changed] = await trail(live_db, member)
    assert (changed["event_type"], str(changed["actor_id"])) == ("staff.changed", str(OLIVIA.id))
    assert (changed["before"], changed["after"]) == ('{"role":"support"}', '{"role":"analyst"}')


async def test_the_list_by_status_role_word_and_order(live_db: Live) -> None:
    for name, role in (("sue", SUPPORT), ("anna", ANALYST), ("olivia", OWNER)):
        await hire(live_db, name, role)
    async with live_db.api(OLIVIA) as boss:
        ivan = await invite(boss)
        await boss.delete(f"{STAFF}/{ivan['id']}")

        async def names(query: str) -> list[str]:
            answer = await boss.get(f"{STAFF}?{query}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["total"] == len(answer.json()["staff"])
            return [row["name"] for row in answer.json()["staff"]]

        assert await names("") == ["Sue", "Anna", "Olivia"]
        assert await names("sort=name") == ["Anna", "Olivia", "Sue"]
        assert await names("sort=-email") == ["Sue", "Olivia", "Anna"]
        assert await names("status=deleted") == ["Ivan"]
        assert await names("role=analyst") == ["Anna"]
        assert await names("search=ANN%20example.com") == ["Anna"]
        assert await names("search=%25") == []
        for bad in ("status=king", "role=king", "sort=password_hash", "perPage=0"):
            assert code(await boss.get(f"{STAFF}?{bad}")) == (422, "invalid_input")
        page = (await boss.get(f"{STAFF}?perPage=2")).json()
        rest = (await boss.get(f"{STAFF}?perPage=2&cursor={page['nextCursor']}")).json()
    assert [row["name"] for row in page["staff"] + rest["staff"]] == ["Sue", "Anna", "Olivia"]
    assert "argon2" not in str(page)


async def test_stats_count_who_works_here_by_role(live_db: Live) -> None:
    for name, role in (("olivia", OWNER), ("adam", ADMINISTRATOR), ("sue", SUPPORT)):
        await hire(live_db, name, role)
    await rows(live_db, "update admin_users set status = 'suspended' where name = 'Sue'")
    async with live_db.api() as api:
        olivia = await log_in(api, "olivia")
        stats = (await api.get(f"{STAFF}/stats/overview", headers=olivia.signed)).json()
    by_status = {status: n for status, n in stats["byStatus"].items() if n}
    assert (stats["total"], by_status) == (3, {"active": 2, "suspended": 1})
    assert stats["byRole"] == {
        "owner": 1,
        "administrator": 1,
        "support": 0,
        "analyst": 0,
        "marketer": 0,
    }
    assert len(stats["recent"]) == 3
