"""Staff set rules and tiers and give points by hand; everything they do is written down."""

import asyncio
from typing import Any
from unittest.mock import ANY

import httpx2
from sqlalchemy import text

from bursar.auth.actor import Actor
from bursar.core.database import Claim, Role
from tests.accounts.colleagues import trail
from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.rewards.points import RULES, TIERS, points_of, receive, rule
from tests.wallets.purses import move_in
from tests.world import ADAM, ANNA, CARL, MARK, OLIVIA

PROGRAM = "/api/v1/rewards"
SETTING = "/api/v1/admin/settings/points_worth_at_most"
OF_CARL = f"/api/v1/admin/users/{CARL.id}/rewards"


async def test_marketers_make_change_and_remove_rules(live_db: Live) -> None:
    async with live_db.api(MARK) as api:
        body = {"name": "Models", "pointsPerUnit": 1.25, "category": "models"}
        made = await api.post(RULES, json=body)
        assert made.status_code == 201, made.text
        assert '"pointsPerUnit":1.25,' in made.text
        one, tag = f"{RULES}/{made.json()['id']}", made.headers["etag"]
        changed = await api.put(one, json={**body, "active": False}, headers={"If-Match": tag})
        assert (changed.status_code, changed.json()["active"]) == (200, False)
        assert changed.headers["etag"] != tag
        late = await api.put(one, json=body, headers={"If-Match": tag})
        assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
        same = await api.put(one, json={**body, "active": False})
        assert (
            same.headers["etag"] == changed.headers["etag"] == (await api.get(one)).headers["etag"]
        )
        listed = (await api.get(f"{RULES}?active=false")).json()
        assert [each["name"] for each in listed["rules"]] == ["Models"]
        assert (await api.delete(one, headers={"If-Match": tag})).status_code == 412
        assert (await api.delete(one)).status_code == 204
        assert (await api.get(one)).status_code == 404
    audited = [row["event_type"] for row in await trail(live_db, made.json()["id"])]
    what = "rewards.reward_rule_"
    assert audited == [f"{what}created", f"{what}changed", f"{what}removed"]
    told = await rows(live_db, "select from events where name = 'rewards.changed'")
    assert len(told) == 3


async def test_rules_that_make_no_sense_are_refused(live_db: Live) -> None:
    good = {"name": "Rule", "pointsPerUnit": 1}
    early, late = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    async with live_db.api(MARK) as api:
        for wrong in (
            {"pointsPerUnit": 0}, {"pointsPerUnit": -1}, {"pointsPerUnit": 1001},
            {"pointsPerUnit": "0.00001"}, {"pointsPerUnit": "NaN"}, {"name": " "}, {"category": ""},
            {"startsAt": late, "endsAt": early}, {"startsAt": "2026-01-01T00:00:00"},
                {"startsAt": 1}, {"endsAt": 1767225600.5}, {"endsAt": "1767225600"},
                {"pointsPerUnit": True},
        ):  # fmt: skip
            answer = await api.post(RULES, json={**good, **wrong})
            assert answer.status_code == 422, wrong
    async with live_db.api(ANNA) as api:
        assert (await api.get(RULES)).json()["rules"] == []
        assert (await api.post(RULES, json=good)).status_code == 403


async def test_rules_and_tiers_that_pay_more_than_they_take_are_refused(live_db: Live) -> None:
    generous = (422, "rewards.too_generous")
    best = {"name": "diamond", "fromPoints": 90_000, "multiplier": 10}
    async with live_db.api(MARK) as api:

        async def put(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            answer = await (api.post if path in (RULES, TIERS) else api.put)(path, json=body)
            return answer.status_code, answer.json().get("code") or answer.json()["id"]

        much = {"name": "Rule", "pointsPerUnit": "33.3334"}  # x 1.5 is more than 50
        assert await put(RULES, much) == generous
        status, rule_id = await put(RULES, {**much, "active": False})
        assert status == 201  # nothing is earned by it
        assert await put(f"{RULES}/{rule_id}", much) == generous
        assert await put(TIERS, best) == (201, ANY)
        assert await put(f"{RULES}/{rule_id}", {**much, "pointsPerUnit": "5.0001"}) == generous
        assert await put(f"{RULES}/{rule_id}", {**much, "pointsPerUnit": 5}) == (200, rule_id)
        [tier] = [each for each in (await api.get(TIERS)).json()["tiers"] if each["name"] == "gold"]
        gold = {"name": "gold", "fromPoints": 5000, "multiplier": 10}
        assert await put(f"{TIERS}/{tier['id']}", gold) == (200, tier["id"])
        await change(live_db, "points_per_usd", 99)
        assert await put(f"{TIERS}/{tier['id']}", gold) == generous
        assert await put(TIERS, {**best, "name": "x", "fromPoints": 7}) == generous
        await change(live_db, "points_worth_at_most", 0)
        refused = await api.post(RULES, json={"name": "Rule", "pointsPerUnit": "0.0001"})
        assert (refused.status_code, refused.json()["most"]) == (422, 0)
        assert (await api.put(SETTING, json={"value": 1})).status_code == 403  # not theirs to set


async def test_tiers_have_names_and_beginnings_of_their_own(live_db: Live) -> None:
    async with live_db.api(MARK) as api:
        tiers = (await api.get(TIERS)).json()["tiers"]
        assert [(each["name"], each["fromPoints"], each["multiplier"]) for each in tiers] == [
            ("bronze", 0, 1),
            ("silver", 1000, 1.25),
            ("gold", 5000, 1.5),
        ]
        body = {"name": "platinum", "fromPoints": 20_000, "multiplier": "2.5"}
        made = await api.post(TIERS, json=body)
        assert made.status_code == 201, made.text
        for taken in ({"name": "gold"}, {"fromPoints": 5000}):
            again = await api.post(TIERS, json={**body, "name": "x", "fromPoints": 7, **taken})
            assert (again.status_code, again.json()["code"]) == (409, "rewards.tier_taken")
            one = f"{TIERS}/{made.json()['id']}"
            moved = await api.put(one, json={**body, **taken})
            assert (moved.status_code, moved.json()["code"]) == (409, "rewards.tier_taken")
        assert (await api.put(one, json={**body, "multiplier": 3})).json()["multiplier"] == 3
        assert (await api.delete(one)).status_code == 204


async def test_customers_see_how_points_are_earned_and_nothing_that_is_off(live_db: Live) -> None:
    await rule(live_db, "1.5", category="models")
    await rule(live_db, 9, active=False)
    async with live_db.api(CARL) as api:
        program = (await api.get(PROGRAM)).json()
    assert [(each["category"], each["points_per_unit"]) for each in program["rules"]] == [
        ("models", 1.5)
    ]
    assert [each["name"] for each in program["tiers"]] == ["bronze", "silver", "gold"]
    assert (program["redeemable"], program["points_per_usd"]) == (True, 100)
    for claim, seen in ((Claim(Role.CUSTOMER, str(CARL.id)), 1), (Claim(Role.CUSTOMER), 0)):
        async with live_db.database.transaction(claim) as db:
            assert await db.scalar(text("select count(*) from reward_rules")) == seen


async def test_points_by_hand_have_a_reason_a_limit_and_an_audit_row(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        given = await api.post(f"{OF_CARL}/grants", json={"points": 500, "reason": "Sorry for it"})
        assert given.status_code == 201, given.text
        taken = await api.post(f"{OF_CARL}/grants", json={"points": -200, "reason": "By mistake"})
        assert (taken.json()["points"], taken.json()["pointsBalance"]) == (-200, 300)
        much = await api.post(f"{OF_CARL}/grants", json={"points": -301, "reason": "All of it"})
        assert (much.status_code, much.json()["code"]) == (402, "wallet.insufficient_funds")
        await change(live_db, "points_granted_at_most", 1000)
        over = await api.post(f"{OF_CARL}/grants", json={"points": 1001, "reason": "For Carl"})
        assert (over.status_code, over.json()["code"]) == (422, "rewards.grant_too_large")
        for wrong in ({"points": 0}, {"points": 1.5}, {"reason": ""}):
            body = {"points": 1, "reason": "For Carl", **wrong}
            assert (await api.post(f"{OF_CARL}/grants", json=body)).status_code == 422, wrong
        standing = (await api.get(OF_CARL)).json()
        assert (standing["pointsBalance"], standing["pointsThisYear"]) == (300, 0)
        history = (await api.get(f"{OF_CARL}/history")).json()["history"]
        assert [(each["kind"], each["points"]) for each in history] == [
            ("adjustment", -200),
            ("adjustment", 500),
        ]
        nobody = OF_CARL.replace(str(CARL.id), "00000000-0000-7000-8000-00000000dead")
        assert (await api.get(nobody)).status_code == 404
        lost = await api.post(f"{nobody}/grants", json={"points": 1, "reason": "For nobody"})
        assert (lost.status_code, lost.json()["code"]) == (404, "wallet.unknown_account")
    query = "select after from audit_logs where event_type = 'rewards.granted' order by id"
    said = [row["after"] for row in await rows(live_db, query)]
    assert "Sorry" in said[0]
    assert "mistake" in said[1]


async def test_what_one_person_may_give_in_a_day_is_a_sum(live_db: Live) -> None:
    await move_in(live_db)
    await change(live_db, "points_granted_at_most", 1000)

    async def grant(points: int, who: Actor = OLIVIA, key: str | None = None) -> httpx2.Response:
        headers = {"Idempotency-Key": key} if key else {}
        async with live_db.api(who, **headers) as api:
            return await api.post(f"{OF_CARL}/grants", json={"points": points, "reason": "Sorry"})

    at_once = [each.status_code for each in await asyncio.gather(*(grant(400) for _ in range(5)))]
    assert sorted(at_once) == [201, 201, 422, 422, 422]
    assert (await grant(-200, key="k1")).status_code == 201  # what is taken counts too
    more = (await grant(1)).json()
    assert (more["code"], more["most"], more["left"]) == ("rewards.grant_too_large", 1000, 0)
    assert (await grant(1000, who=ADAM)).status_code == 201  # somebody else's day
    await rows(live_db, "delete from idempotency_keys")
    again = await grant(-200, key="k1")  # the ledger knows it for ever
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert (await grant(-100, key="k1")).json()["code"] == "idempotency.key_reused"
    assert (await grant(1000, who=ADAM, key="k1")).json()["code"] == "rewards.grant_too_large"
    assert await points_of(live_db, CARL) == 800 - 200 + 1000
    await rows(live_db, YESTERDAY)
    assert (await grant(1000)).status_code == 201
    await rows(live_db, "delete from idempotency_keys")
    assert (await grant(-200, key="k1")).headers["idempotent-replayed"] == "true"  # yesterday's


YESTERDAY = """
do $$ begin
  alter table operations disable trigger user;
  update operations set created_at = date_trunc('day', now() at time zone 'UTC') at time zone 'UTC'
    - interval '1 microsecond';
  alter table operations enable trigger user;
end $$
"""


async def test_a_grant_sent_twice_gives_once(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 1)
    async with live_db.api(OLIVIA, **{"Idempotency-Key": "k1"}) as api:
        for _ in range(2):
            body = {"points": 500, "reason": "Sorry for it"}
            answer = await api.post(f"{OF_CARL}/grants", json=body)
            assert answer.status_code == 201
    assert await points_of(live_db, CARL) == 501
