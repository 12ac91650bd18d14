"""An invitation lets one person in, once, and nobody else by any other way."""

import asyncio

from tests.accounts.colleagues import (
    DOOR,
    STAFF,
    SUPPORT,
    accept,
    code,
    colleague,
    everything_audited,
    hire,
    hired,
    invite,
    log_in,
    trail,
    try_login,
)
from tests.accounts.people import OTHER_PASSWORD, actions, change, link_in_mail, mails, rows
from tests.conftest import Live
from tests.world import OLIVIA

BAD_LINK = (422, "auth.bad_one_time_token")


async def test_from_the_invitation_to_the_first_day(live_db: Live) -> None:
    async with live_db.api() as api:
        olivia = await hired(live_db, api, "olivia")
        answer = await api.post(
            STAFF,
            json={"email": "Ivan@Example.com", "name": " Ivan ", "role": "support"},
            headers=olivia.signed,
        )
        ivan = answer.json()
        assert (answer.status_code, ivan["status"], ivan["invitedBy"]) == (
            201,
            "invited",
            olivia.id,
        )
        assert (ivan["email"], ivan["name"]) == ("ivan@example.com", "Ivan")
        token = await link_in_mail(live_db, "ivan@example.com")
        accepted = await accept(api, token, name="Ivan Ivanovich")
        assert accepted.json()["user"]["status"] == "active"
        me = await api.get(f"{DOOR}/me", headers=colleague(accepted).signed)
        assert (me.json()["name"], me.json()["role"]) == ("Ivan Ivanovich", "support")
        assert code(await accept(api, token)) == BAD_LINK
        await log_in(api, "ivan", password=OTHER_PASSWORD)
    told = await actions(live_db, ivan["id"])
    assert told[:3] == ["staff.invited", "staff.joined", "staff.signed_in"]
    first, second = (await trail(live_db, ivan["id"]))[:2]
    assert str(first["actor_id"]) == olivia.id
    assert str(second["actor_id"]) == ivan["id"]
    assert token not in await everything_audited(live_db)


async def test_an_invitation_lets_nobody_in_by_itself(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        await invite(boss)
        token = await link_in_mail(live_db, "ivan@example.com")
        await api.post(f"{DOOR}/forgot-password", json={"email": "ivan@example.com"})
        reset = {"token": token, "newPassword": OTHER_PASSWORD}
        assert code(await api.post(f"{DOOR}/reset-password", json=reset)) == BAD_LINK
        for bad in ("password1", "short", "ivan@example.com"):
            answer = await accept(api, token, password=bad)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/password"
        assert (await accept(api, token)).status_code == 200  # none of that used it up


async def test_of_five_who_accept_at_once_one_comes_in(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        await invite(boss)
        token = await link_in_mail(live_db, "ivan@example.com")
        answers = await asyncio.gather(*(accept(api, token) for _ in range(5)))
    assert sorted(code(answer) for answer in answers) == [(200, ""), *[BAD_LINK] * 4]


async def test_an_invitation_that_is_over(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        ivan = await invite(boss)
        first = await link_in_mail(live_db, "ivan@example.com")
        again = await boss.post(f"{STAFF}/{ivan['id']}/invitation")
        assert again.status_code == 200
        second = await link_in_mail(live_db, "ivan@example.com")
        assert code(await accept(api, first)) == BAD_LINK
        await rows(live_db, "update one_time_tokens set expires_at = now()")
        assert code(await accept(api, second)) == BAD_LINK
        await boss.post(f"{STAFF}/{ivan['id']}/invitation")
        third = await link_in_mail(live_db, "ivan@example.com")
        assert (await boss.delete(f"{STAFF}/{ivan['id']}")).json()["status"] == "deleted"
        assert code(await accept(api, third)) == BAD_LINK
        assert code(await accept(api, "x" * 43)) == BAD_LINK
        assert code(await boss.post(f"{STAFF}/{ivan['id']}/invitation")) == (404, "not_found")


async def test_a_link_for_something_else_is_no_invitation(live_db: Live) -> None:
    async with live_db.api() as api:
        await hire(live_db, "sue", SUPPORT)
        await api.post(f"{DOOR}/forgot-password", json={"email": "sue@example.com"})
        token = await link_in_mail(live_db, "sue@example.com")
        assert code(await accept(api, token)) == BAD_LINK
        assert code(await try_login(api, "sue", OTHER_PASSWORD))[0] == 401


async def test_a_corrected_address_gets_the_link_and_the_wrong_one_loses_it(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        ivan = await invite(boss, "ivna@example.com")
        wrong = await link_in_mail(live_db, "ivna@example.com")
        await boss.put(f"{STAFF}/{ivan['id']}", json={"email": "ivan@example.com"})
        assert code(await accept(api, wrong)) == BAD_LINK
        right = await link_in_mail(live_db, "ivan@example.com")
        assert (await accept(api, right)).status_code == 200


async def test_an_address_belongs_to_one_until_they_leave(live_db: Live) -> None:
    async with live_db.api(OLIVIA) as boss:
        ivan = await invite(boss)
        await hire(live_db, "sue", SUPPORT)
        body = {"email": "IVAN@example.com", "role": "analyst"}
        taken = (409, "accounts.email_taken")
        assert code(await boss.post(STAFF, json=body)) == taken
        [sue] = await rows(live_db, "select id from admin_users where email like 'sue%'")
        moved = await boss.put(f"{STAFF}/{sue['id']}", json={"email": "ivan@example.com"})
        assert code(moved) == taken
        both = await asyncio.gather(
            *(boss.post(STAFF, json={**body, "email": "new@example.com"}) for _ in range(4))
        )
        assert sorted(answer.status_code for answer in both) == [201, 409, 409, 409]
        await boss.delete(f"{STAFF}/{ivan['id']}")
        assert (await boss.post(STAFF, json=body)).status_code == 201


async def test_an_invitation_is_sent_once_for_one_key(live_db: Live) -> None:
    async with live_db.api(OLIVIA, **{"Idempotency-Key": "invite-ivan-1"}) as boss:
        first, second = await invite(boss), await invite(boss)
    assert first == second
    assert len(await mails(live_db, "ivan@example.com")) == 1


async def test_the_second_factor_is_owed_by_who_is_invited_too(live_db: Live) -> None:
    await change(live_db, "staff_second_factor", True)
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        await invite(boss)
        accepted = await accept(api, await link_in_mail(live_db, "ivan@example.com"))
    assert accepted.json()["scope"] == "enrol"
