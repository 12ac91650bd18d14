"""Settings: typed, limited, with a history that nobody can rewrite."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from bursar.core.database import Role, plain_dsn, role_url
from tests.conftest import Live
from tests.databases import raw
from tests.world import ADAM, ANNA, CARL, MARK, OLIVIA, SUE

SETTINGS = "/api/v1/admin/settings"
CHANGES = "/api/v1/admin/setting-changes"
AS_JSON = {"Content-Type": "application/json"}


async def test_a_setting_has_its_default_until_somebody_changes_it(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        before = (await api.get(f"{SETTINGS}/cache_ttl_seconds")).json()
        changed = await api.put(SETTINGS, json={"cache_ttl_seconds": 600})
        after = (await api.get(f"{SETTINGS}/cache_ttl_seconds")).json()
    assert (before["value"], before["version"], before["updatedAt"]) == (300, 0, None)
    assert changed.json() == {"status": "success", "settings": {"cache_ttl_seconds": 600}}
    assert (after["value"], after["version"], after["default"]) == (600, 1, 300)
    assert after["updatedBy"] == str(OLIVIA.id)


async def test_a_decimal_is_written_as_it_is_read(live_db: Live) -> None:
    """As a number with every digit, wherever it is shown: never as a text, which is refused."""
    one = f"{SETTINGS}/transfer_limit"
    exact = '{"value": 1234567.123456789012}'
    async with live_db.api(OLIVIA) as api:
        for sent in ("1000", "1234567.123456789012"):
            put = await api.put(one, content=f'{{"value":{sent}}}', headers=AS_JSON)
            read, listed, changes = [
                await api.get(path) for path in (one, f"{SETTINGS}?search=transfer_limit", CHANGES)
            ]
            for shown in (put, read, listed):
                assert f'"value":{sent},"default":1000,' in shown.text
            assert f'"new":{sent},' in changes.text
        many = await api.put(
            SETTINGS, content=exact.replace("value", "transfer_limit"), headers=AS_JSON
        )
        again = await api.put(one, content=exact, headers=AS_JSON)
        text = await api.put(one, json={"value": "1000"})
    assert '"transfer_limit":1234567.123456789012}' in many.text
    assert (again.status_code, again.json()["version"]) == (200, read.json()["version"])
    assert (text.status_code, text.json()["code"]) == (422, "system.bad_value")


async def test_all_or_nothing_and_every_mistake_at_once(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        refused = await api.put(
            SETTINGS, json={"companyName": "Tern", "cache_ttl_seconds": -1, "colour": "red"}
        )
        listed = (await api.get(SETTINGS)).json()["settings"]
    assert refused.status_code == 422
    assert [e["pointer"] for e in refused.json()["errors"]] == ["/cache_ttl_seconds", "/colour"]
    assert "company_name" in refused.json()["errors"][1]["detail"]  # the allowed ones are named
    assert {row["version"] for row in listed} == {0}


@pytest.mark.parametrize("value", ["600", 600.5, True, None, [], 86_401, 10**30])
async def test_a_value_of_the_wrong_type_or_size_is_refused(live_db: Live, value: object) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.put(f"{SETTINGS}/cache_ttl_seconds", json={"value": value})
    assert (answer.status_code, answer.json()["code"]) == (422, "system.bad_value")


async def test_an_unknown_setting_is_not_found(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        for answer in (
            await api.get(f"{SETTINGS}/colour"),
            await api.put(f"{SETTINGS}/colour", json={"value": 1}),
            await api.delete(f"{SETTINGS}/colour"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "system.unknown_setting")


async def test_if_match_lets_only_one_of_two_editors_win(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        url = f"{SETTINGS}/company_name"
        seen = (await olivia.get(url)).headers["etag"]
        first = await olivia.put(url, json={"value": "Tern"}, headers={"If-Match": seen})
        second = await adam.put(url, json={"value": "Tide"}, headers={"If-Match": seen})
        again = await adam.put(
            url, json={"value": "Tide"}, headers={"If-Match": first.headers["etag"]}
        )
    assert (first.status_code, second.status_code, again.status_code) == (200, 412, 200)
    assert second.json()["code"] == "precondition_failed"
    assert again.json()["value"] == "Tide"


async def test_a_weak_tag_is_none_for_a_write(live_db: Live) -> None:
    url = f"{SETTINGS}/company_name"
    async with live_db.api(OLIVIA) as api:
        seen = (await api.get(url)).headers["etag"]
        weak = await api.put(url, json={"value": "Tern"}, headers={"If-Match": f"W/{seen}"})
        read = await api.get(url, headers={"If-None-Match": f"W/{seen}"})
    assert (weak.status_code, read.status_code) == (412, 304)


async def test_a_reader_with_the_newest_version_gets_no_body(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        first = await api.get(f"{SETTINGS}/company_name")
        second = await api.get(
            f"{SETTINGS}/company_name", headers={"If-None-Match": first.headers["etag"]}
        )
    assert (second.status_code, second.content) == (304, b"")


async def test_back_to_the_default(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        await api.put(SETTINGS, json={"cache_ttl_seconds": 600})
        back = await api.delete(f"{SETTINGS}/cache_ttl_seconds")
        changes = (await api.get(f"{CHANGES}?key=cache_ttl_seconds")).json()
    assert (back.json()["value"], back.json()["version"]) == (300, 2)
    assert [(c["old"], c["new"]) for c in changes["changes"]] == [(600, None), (None, 600)]
    assert changes["total"] == 2


async def test_a_version_is_never_used_a_second_time(live_db: Live) -> None:
    """Set, put back, set again: a reader of the first value must not take the third for it."""
    url = f"{SETTINGS}/company_name"
    async with live_db.api(OLIVIA) as api:
        seen = (await api.put(url, json={"value": "Tern"})).headers["etag"]
        await api.delete(url)
        await api.put(url, json={"value": "Tide"})
        read = await api.get(url, headers={"If-None-Match": seen})
        write = await api.put(url, json={"value": "Tern"}, headers={"If-Match": seen})
    assert (read.status_code, read.json()["value"], write.status_code) == (200, "Tide", 412)


async def test_a_change_of_many_does_not_slip_past_if_match(live_db: Live) -> None:
    """Whoever comes second sees the first, whichever way it came."""
    url = f"{SETTINGS}/company_name"
    async with live_db.api(OLIVIA) as olivia, live_db.api(ADAM) as adam:
        for turn in range(20):
            seen = (await olivia.get(url)).headers["etag"]
            one, _ = await asyncio.gather(
                olivia.put(url, json={"value": f"one {turn}"}, headers={"If-Match": seen}),
                adam.put(SETTINGS, json={"company_name": f"many {turn}"}),
            )
            changes = (await olivia.get(f"{CHANGES}?per_page=2")).json()["changes"]
            if one.status_code == 200:  # then it was first: the other one saw it
                assert [c["new"] for c in changes] == [f"many {turn}", f"one {turn}"]
            else:
                assert (one.status_code, changes[0]["new"]) == (412, f"many {turn}")


async def test_an_unknown_filter_names_the_allowed_ones(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        answer = await api.get(f"{CHANGES}?key=colour")
    assert answer.status_code == 422
    assert "company_name" in answer.json()["detail"]


async def test_a_cursor_walks_the_settings(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        seen, cursor = [], ""
        while cursor is not None:
            page = (await api.get(f"{SETTINGS}?per_page=1&cursor={cursor}")).json()
            seen += [row["key"] for row in page["settings"]]
            cursor = page["nextCursor"]
        total = page["total"]
    assert seen == sorted(set(seen))
    assert len(seen) == total


async def test_setting_what_already_holds_is_no_change(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        for _ in range(3):
            await api.put(SETTINGS, json={"cache_ttl_seconds": 600})
        changes = (await api.get(CHANGES)).json()
    assert changes["total"] == 1


async def test_who_may(live_db: Live) -> None:
    may_read = dict.fromkeys((OLIVIA, ADAM, SUE, ANNA, MARK), 200) | {CARL: 403, None: 401}
    for actor, expected in may_read.items():
        async with live_db.api(actor) as api:
            assert (await api.get(SETTINGS)).status_code == expected
            assert (await api.get(f"{SETTINGS}/company_name")).status_code == expected
            may_write = expected if actor in (OLIVIA, ADAM, CARL, None) else 403
            answer = await api.put(SETTINGS, json={"company_name": "X"})
            assert answer.status_code == may_write


async def test_staff_with_sql_in_hand_cannot_write_history(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        await api.put(SETTINGS, json={"cache_ttl_seconds": 600})
    for statement in (
        "insert into setting_changes (key) values ('x')",
        "update setting_changes set key = 'x'",
        "delete from setting_changes",
        "truncate setting_changes",
        "alter table setting_changes disable trigger all",
        "delete from settings",
        "create temporary table setting_changes (key text)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_staff(live_db, statement)


async def test_not_even_the_owner_rewrites_history(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as api:
        await api.put(SETTINGS, json={"cache_ttl_seconds": 600})
    owner = await asyncpg.connect(raw(live_db.url))
    try:
        for statement in (
            "update setting_changes set key = 'x'",
            "delete from setting_changes",
            "truncate setting_changes",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await owner.execute(statement)
    finally:
        await owner.close()


async def as_staff(live: Live, statement: str) -> None:
    url = role_url(make_url(live.url), Role.STAFF, live.settings)
    connection = await asyncpg.connect(plain_dsn(url))
    try:
        claim = "select set_config('request.jwt.claim.sub', $1, false)"
        await connection.execute(claim, str(OLIVIA.id))
        await connection.execute(statement)
    finally:
        await connection.close()
