"""The second factor: nothing stands in for it, no code works twice, losing it is no dead end."""

import asyncio
import re
from typing import Any
from uuid import UUID

import pytest

from bursar.accounts import second_factor
from bursar.accounts.second_factor import Seals
from bursar.app import create_app
from bursar.auth.actor import OPERATOR_ID, operator
from bursar.commands import doctor
from bursar.commands.database import renew_seals
from bursar.core import database
from bursar.core.settings import Settings
from tests.accounts.colleagues import (
    ADMINISTRATOR,
    DOOR,
    OWNER,
    STAFF,
    SUPPORT,
    code,
    code_of,
    enrol,
    everything_audited,
    hire,
    hired,
    let_time_pass,
    log_in,
    trail,
    try_login,
)
from tests.accounts.people import PASSWORD, actions, change, rows
from tests.conftest import Live
from tests.databases import SECRET
from tests.databases import test_settings as settings_with

WRONG = "000000"
PERSON = UUID(int=7)
NEW = "a new secret key that has many letters"
BOTH = settings_with(secret_key=f"{NEW},{SECRET}")
ONLY_NEW = settings_with(secret_key=NEW)


async def test_from_the_password_alone_to_a_code_at_each_sign_in(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, codes = await enrol(api, sue)
        me = (await api.get(f"{DOOR}/me", headers=sue.signed)).json()
        assert code(await try_login(api, "sue")) == (401, "accounts.second_factor_asked")
        for wrong in ("1", "abc", WRONG, "٣٣٣٣٣٣", "k3v9-0tqe-7m2d-xh5c", codes[0] + "x"):
            await rows(live_db, "delete from attempts")
            assert code(await try_login(api, "sue", code=wrong)) == (401, "accounts.wrong_code")
        await let_time_pass(live_db)
        await log_in(api, "sue", code=code_of(secret))
    assert (me["hasSecondFactor"], me["recoveryCodesLeft"]) == (True, 10)
    assert len(set(codes)) == 10
    told = ["staff.second_factor_begun", "staff.second_factor_added"]
    told += ["staff.second_factor_failed"] * 6
    assert [name for name in await actions(live_db, sue.id) if "second" in name] == told


async def test_the_password_is_asked_before_the_code_is(live_db: Live) -> None:
    """Whoever has only a code learns nothing, not even that there is one."""
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, _ = await enrol(api, sue)
        await let_time_pass(live_db)
        answer = await try_login(api, "sue", "not the password", code=code_of(secret))
        assert code(answer) == (401, "accounts.wrong_credentials")
        await log_in(api, "sue", code=code_of(secret))  # and the code was not used up by that


async def test_the_code_that_confirmed_works_no_second_time(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        begun = await api.post(f"{DOOR}/totp", json={"password": PASSWORD}, headers=sue.signed)
        shown = code_of(begun.json()["secret"])
        body = {"code": shown}
        await api.post(f"{DOOR}/totp/confirmation", json=body, headers=sue.signed)
        answer = await try_login(api, "sue", code=shown)
    assert code(answer) == (401, "accounts.wrong_code")


async def test_of_five_at_once_with_one_code_one_comes_in(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, codes = await enrol(api, sue)
        for one in (code_of(secret), codes[3]):
            await let_time_pass(live_db)
            answers = await asyncio.gather(*(try_login(api, "sue", code=one) for _ in range(5)))
            told = sorted(code(answer) for answer in answers)
            assert told == [(200, ""), *[(401, "accounts.wrong_code")] * 4]
            assert code(await try_login(api, "sue", code=one))[0] in (401, 429)


async def test_a_recovery_code_works_once_however_it_is_typed(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        _, codes = await enrol(api, sue)
        await log_in(api, "sue", code=f" {codes[0].upper()} ")
        assert code(await try_login(api, "sue", code=codes[0])) == (401, "accounts.wrong_code")
        again = await log_in(api, "sue", code=codes[1].replace("-", ""))
        me = (await api.get(f"{DOOR}/me", headers=again.signed)).json()
    assert me["recoveryCodesLeft"] == 8
    used = [row for row in await trail(live_db, sue.id) if "recovery" in row["event_type"]]
    assert [row["after"] for row in used] == ['{"left":9}', '{"left":8}']
    assert {str(row["actor_id"]) for row in used} == {sue.id}


async def test_codes_of_a_colleague_are_no_good(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        adam = await hired(live_db, api, "adam", ADMINISTRATOR)
        secret, codes = await enrol(api, sue)
        await enrol(api, adam)
        await let_time_pass(live_db)
        for other in (codes[0], code_of(secret)):
            answer = await try_login(api, "adam", code=other)
            assert code(answer) == (401, "accounts.wrong_code")
        # Not even with SQL in hand: a secret that is copied to another row opens nothing there.
        await rows(
            live_db,
            "update admin_users set totp_secret = (select totp_secret from admin_users"
            " where email like 'sue%') where email like 'adam%'",
        )
        answer = await try_login(api, "adam", code=code_of(secret))
        assert code(answer) == (409, "accounts.second_factor_unreadable")


async def test_nothing_secret_is_kept_or_told(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, codes = await enrol(api, sue)
        await log_in(api, "sue", code=codes[0])
    kept = await rows(live_db, "select a::text t from admin_users a")
    kept += await rows(live_db, "select r::text t from recovery_codes r")
    text = " ".join(row["t"] for row in kept) + await everything_audited(live_db)
    for hidden in (secret, PASSWORD, *codes, *(one.replace("-", "") for one in codes)):
        assert hidden not in text
        assert hidden.encode().hex() not in text


async def test_guessing_codes_ends_after_five(live_db: Live) -> None:
    """By person, wherever it comes from, so the right one is not taken then either."""
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, _ = await enrol(api, sue)
        await rows(live_db, "delete from attempts")
        await rows(live_db, "update admin_users set totp_last_step = 0")
        for _ in range(5):
            assert (await try_login(api, "sue", code=WRONG)).status_code == 401
        refused = await try_login(api, "sue", code=code_of(secret))
        confirming = await api.post(
            f"{DOOR}/totp/confirmation", json={"code": WRONG}, headers=sue.signed
        )
    assert code(refused) == (429, "auth.too_many_attempts")
    assert int(refused.headers["retry-after"]) > 0
    assert code(confirming) == (429, "auth.too_many_attempts")


async def test_a_second_factor_that_is_only_begun_asks_nothing_of_anybody(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        url, signed = f"{DOOR}/totp", sue.signed
        for body in ({}, {"password": "not the password"}):
            refused = await api.post(url, json=body, headers=signed)
            assert code(refused) == (401, "accounts.wrong_credentials")
        early = await api.post(f"{url}/confirmation", json={"code": WRONG}, headers=signed)
        assert code(early) == (409, "accounts.second_factor_not_begun")
        first = (await api.post(url, json={"password": PASSWORD}, headers=signed)).json()
        second = (await api.post(url, json={"password": PASSWORD}, headers=signed)).json()
        await log_in(api, "sue")
        for old in (WRONG, code_of(first["secret"])):
            answer = await api.post(f"{url}/confirmation", json={"code": old}, headers=signed)
            assert code(answer) == (401, "accounts.wrong_code")
        right = {"code": code_of(second["secret"])}
        assert (await api.post(f"{url}/confirmation", json=right, headers=signed)).is_success
    assert second["uri"].startswith("otpauth://totp/Bursar:sue%40example.com?")


async def test_another_authenticator_in_place_of_the_first(live_db: Live) -> None:
    """The first one holds until a code of the second was shown; a stolen session gets neither."""
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        old, codes = await enrol(api, sue)
        await let_time_pass(live_db)
        url, wish = f"{DOOR}/totp", {"password": PASSWORD}
        answer = await api.post(url, json=wish, headers=sue.signed)
        assert code(answer) == (401, "accounts.second_factor_asked")
        answer = await api.post(url, json={**wish, "code": WRONG}, headers=sue.signed)
        assert code(answer) == (401, "accounts.wrong_code")
        begun = await api.post(url, json={**wish, "code": code_of(old)}, headers=sue.signed)
        new = begun.json()["secret"]
        await let_time_pass(live_db)
        assert code(await try_login(api, "sue", code=code_of(new)))[0] == 401
        await let_time_pass(live_db)
        await log_in(api, "sue", code=code_of(old))
        body = {"code": code_of(new)}
        confirmed = await api.post(f"{url}/confirmation", json=body, headers=sue.signed)
        assert confirmed.status_code == 200
        await let_time_pass(live_db)
        for gone in (code_of(old), codes[5]):
            assert code(await try_login(api, "sue", code=gone)) == (401, "accounts.wrong_code")
        await log_in(api, "sue", code=code_of(new))


async def test_sessions_from_before_end_with_a_new_second_factor(live_db: Live) -> None:
    """A thief who has the password alone, and waits, is not let in by the owner's own proof."""
    await hire(live_db, "sue", SUPPORT)
    await change(live_db, "staff_second_factor", True)
    async with live_db.api() as api:
        thief = await log_in(api, "sue")
        sue = await log_in(api, "sue")
        assert (thief.scope, sue.scope) == ("enrol", "enrol")
        await enrol(api, sue)
        stolen = await api.post(f"{DOOR}/refresh", json={"refreshToken": thief.refresh_token})
        own = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
    assert code(stolen) == (401, "auth.bad_refresh_token")
    assert (own.status_code, own.json()["scope"]) == (200, "full")
    [row] = await rows(live_db, "select scope from sessions where ended_at is null")
    assert row["scope"] == "full"


async def test_without_it_where_it_is_asked_for_there_is_nothing_to_do_but_set_it_up(
    live_db: Live,
) -> None:
    await hire(live_db, "olivia", OWNER)
    await change(live_db, "staff_second_factor", True)
    async with live_db.api() as api:
        olivia = await log_in(api, "olivia")
        refused = 0
        for path, method in staff_operations(live_db.app.openapi()):
            url = re.sub(r"{\w+}", str(OPERATOR_ID), path)
            answer = await api.request(method, url, json={}, headers=olivia.signed)
            if "/admin/auth/" in path:
                assert answer.status_code != 403, path
            else:
                assert code(answer) == (403, "auth.step_owed"), path
                refused += 1
        assert refused > 10
        olivia = await log_in(api, "olivia")
        await enrol(api, olivia)
        assert (await api.get(STAFF, headers=olivia.signed)).status_code == 200


def staff_operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, method)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "/admin/" in path and operation.get("security") and not path.endswith("/logout")
    ]


async def test_removing_it_takes_password_and_code_and_leave(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)

        async def remove(**body: str) -> tuple[int, str]:
            return code(await api.request("DELETE", f"{DOOR}/totp", json=body, headers=sue.signed))

        nothing = (409, "accounts.no_second_factor")
        assert await remove(password=PASSWORD, code=WRONG) == nothing
        _, codes = await enrol(api, sue)
        assert await remove(code=codes[0]) == (401, "accounts.wrong_credentials")
        assert await remove(password="x", code=codes[0]) == (401, "accounts.wrong_credentials")
        assert await remove(password=PASSWORD, code=WRONG) == (401, "accounts.wrong_code")
        await change(live_db, "staff_second_factor", True)
        required = (409, "accounts.second_factor_required")
        assert await remove(password=PASSWORD, code=codes[0]) == required
        await change(live_db, "staff_second_factor", False)
        assert await remove(password=PASSWORD, code=codes[0]) == (200, "")
        await log_in(api, "sue")
    left = await rows(live_db, "select 1 from recovery_codes")
    [row] = await rows(live_db, "select totp_secret, totp_last_step, totp_pending from admin_users")
    assert (left, list(row)) == ([], [None, None, None])


async def test_new_recovery_codes_void_the_old(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        url = f"{DOOR}/recovery-codes"
        none = await api.post(url, json={"code": WRONG}, headers=sue.signed)
        assert code(none) == (409, "accounts.no_second_factor")
        _, codes = await enrol(api, sue)
        refused = await api.post(url, json={"code": WRONG}, headers=sue.signed)
        assert code(refused) == (401, "accounts.wrong_code")
        renewed = await api.post(url, json={"code": codes[0]}, headers=sue.signed)
        new = renewed.json()["recoveryCodes"]
        assert not set(new) & set(codes)
        assert code(await try_login(api, "sue", code=codes[1])) == (401, "accounts.wrong_code")
        await log_in(api, "sue", code=new[1])
    assert "staff.recovery_codes_renewed" in await actions(live_db, sue.id)


async def test_an_owner_helps_somebody_who_has_lost_it(live_db: Live) -> None:
    async with live_db.api() as api:
        olivia = await hired(live_db, api, "olivia", OWNER)
        adam = await hired(live_db, api, "adam", ADMINISTRATOR)
        sue = await hired(live_db, api, "sue", SUPPORT)
        await enrol(api, sue)
        await enrol(api, olivia)

        async def take(who: Any, whom: str) -> tuple[int, str]:
            url = f"{STAFF}/{whom}/second-factor"
            return code(await api.delete(url, headers=who.signed))

        assert await take(sue, sue.id) == (403, "auth.not_allowed")
        assert await take(adam, sue.id) == (403, "accounts.above_you")
        assert await take(adam, olivia.id) == (403, "accounts.above_you")
        assert await take(olivia, olivia.id) == (403, "accounts.own_account")
        assert await take(olivia, adam.id) == (409, "accounts.no_second_factor")
        assert await take(olivia, sue.id) == (200, "")
        old = await api.post(f"{DOOR}/refresh", json={"refreshToken": sue.refresh_token})
        assert code(old) == (401, "auth.bad_refresh_token")
        await log_in(api, "sue")
    [row] = [r for r in await trail(live_db, sue.id) if r["event_type"].endswith("_reset")]
    assert str(row["actor_id"]) == olivia.id


async def test_a_second_factor_that_is_new_while_somebody_signs_in(live_db: Live) -> None:
    """Asked for nothing a moment ago, and let in by nothing now: the password is asked again."""
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        begun = await api.post(f"{DOOR}/totp", json={"password": PASSWORD}, headers=sue.signed)
        body = {"code": code_of(begun.json()["secret"])}

        async def confirm() -> None:
            answer = await api.post(f"{DOOR}/totp/confirmation", json=body, headers=sue.signed)
            assert answer.status_code == 200

        others = asyncio.gather(*(try_login(api, "sue") for _ in range(4)))
        await confirm()
        answers = await others
        for answer in answers:
            if answer.status_code == 200:  # it was first, so it ended with the others
                token = answer.json()["refreshToken"]
                refreshed = await api.post(f"{DOOR}/refresh", json={"refreshToken": token})
                assert refreshed.status_code == 401


@pytest.mark.parametrize("path", ["totp", "totp/confirmation", "recovery-codes"])
async def test_an_operator_has_no_account_to_secure(live_db: Live, path: str) -> None:
    body = {"password": PASSWORD, "code": WRONG}
    async with live_db.api(operator(OWNER)) as api:
        answer = await api.post(f"{DOOR}/{path}", json=body)
    assert code(answer) == (403, "accounts.no_account")


def test_a_sealed_secret_opens_with_an_older_key() -> None:
    sealed = second_factor.closed("SECRET", PERSON, settings_with())
    assert second_factor.opened(sealed, PERSON, BOTH) == "SECRET"


async def test_a_code_seals_the_secret_with_the_newest_key(live_db: Live) -> None:
    async with live_db.api() as api:
        sue = await hired(live_db, api, "sue", SUPPORT)
        secret, _ = await enrol(api, sue)
    await let_time_pass(live_db)
    renewed = Live(live_db.url, BOTH, create_app(BOTH, live_db.url))
    async with renewed.api() as api:
        await log_in(api, "sue", code=code_of(secret))
    await renewed.database.close()
    [row] = await rows(live_db, "select totp_secret from admin_users")
    assert second_factor.opened(row["totp_secret"], UUID(sue.id), ONLY_NEW) == secret


async def test_all_are_sealed_anew_before_an_old_key_is_dropped(live_db: Live) -> None:
    async with live_db.api() as api:
        sue, adam = [await hired(live_db, api, each, SUPPORT) for each in ("sue", "adam")]
        secret, codes = await enrol(api, sue)
        await api.post(f"{DOOR}/totp", json={"password": PASSWORD}, headers=adam.signed)
    assert await seals(live_db, ONLY_NEW) == Seals(2, older=0, lost=2)
    assert await renew(live_db, ONLY_NEW) == 0
    assert await seals(live_db, BOTH) == Seals(2, older=2, lost=0)
    assert not doctor.sealed("codes", await seals(live_db, ONLY_NEW), "reset them").ok
    found = doctor.sealed("codes", await seals(live_db, BOTH), "reset them")
    assert "run `bursar migrate`" in found.detail
    assert [await renew_seals(live_db.url, BOTH) for _ in range(2)] == [2, 0]
    assert await seals(live_db, ONLY_NEW) == Seals(2, older=0, lost=0)
    [row] = await rows(live_db, "select totp_secret s from admin_users where email like 'sue%'")
    assert second_factor.opened(row["s"], UUID(sue.id), ONLY_NEW) == secret
    async with live_db.api() as api:  # where only the old key is: as good as lost
        await let_time_pass(live_db)
        answer = await try_login(api, "sue", code=code_of(secret))
        assert code(answer) == (409, "accounts.second_factor_unreadable")
        await log_in(api, "sue", code=codes[0])


async def renew(live: Live, settings: Settings) -> int:
    async with live.database.transaction(database.DOOR) as db:
        return await second_factor.renew_all(db, settings)


async def seals(live: Live, settings: Settings) -> Seals:
    async with live.database.transaction(database.DOOR) as db:
        return await second_factor.seals(db, settings)
