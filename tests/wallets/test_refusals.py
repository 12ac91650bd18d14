"""Each refusal of the ledger, and its limits: what is refused has changed nothing."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bursar.core.money import MOST_MINOR
from bursar.wallets import ledger
from bursar.wallets.ledger import POINTS, USD, Leg
from tests.wallets.oracle import Answer, Books, ask
from tests.wallets.paying import close, fails, held, hold, moved, pay


class TestRefusals:
    """Nothing of a refused request is written, and its neighbours of the same call are done."""

    async def refused(self, here: Books, *legs: Leg) -> Answer:
        bystander = await here.customer(5)
        before = await here.count()
        alone = await here.one(*legs)
        assert await here.count() == before
        wallets = await here.fetch("select * from accounts order by id")
        first, answer, last = await here.post(
            ask(pay(bystander, 2)), ask(*legs), ask(pay(bystander, 3))
        )
        assert [first["legs"][0]["balance"], last["legs"][0]["balance"]] == [3, 0]
        operations, transfers, *others = await here.count()
        assert (operations, transfers) == (before[0] + 2, before[1] + 2)
        assert others == list(before[2:])
        changed = {tuple(row) for row in await here.fetch("select * from accounts")}
        assert len(changed - {tuple(row) for row in wallets}) == 2  # the bystander's, and a shard
        assert answer == alone
        return {name: value for name, value in alone.items() if name not in ("asset", "scale")}

    @pytest.mark.parametrize("amount", [0, -1, -MOST_MINOR])
    async def test_a_bad_amount(self, here: Books, amount: int) -> None:
        user = await here.customer(10)
        bad = {"error": "wallet.bad_leg", "leg": 1}
        assert await self.refused(here, pay(user, amount)) == bad
        assert await self.refused(here, hold(user, amount)) == bad
        assert await self.refused(here, ledger.capture(await held(here, user, 5), amount)) == bad
        paid = await moved(here, pay(user, 5))
        assert await self.refused(here, ledger.reverse(paid, amount)) == bad

    async def test_no_amount(self, here: Books) -> None:
        sides = {"debit": "clearing", "credit": "revenue", "asset": USD, "kind": "charge"}
        bad = {"error": "wallet.bad_leg", "leg": 1}
        assert await self.refused(here, ledger.leg(verb="transfer", **sides)) == bad

    async def test_an_unknown_verb(self, here: Books) -> None:
        user = await here.customer(10)
        answer = await self.refused(here, {**pay(user, 1), "verb": "steal"})
        assert answer["error"] in ledger.REFUSALS

    async def test_what_is_no_leg_at_all(self, here: Books) -> None:
        wrong: Any
        for wrong in ("leg", 1, None, [], {}):
            assert (await self.refused(here, wrong))["error"] == "wallet.bad_leg"

    async def test_a_hold_is_named_only_to_close_it(self, here: Books) -> None:
        """Or its wallet would pay for what names another one, or nobody."""
        user = await here.customer(10)
        its_hold = await held(here, user, 5)
        for leg in (pay(user, 1), hold(user, 1), {"verb": "transfer", "credit": "revenue"}):
            wrong: Any = {"asset": "USD", "amount": 1, **leg, "hold": its_hold}
            assert (await self.refused(here, wrong))["error"] == "wallet.bad_leg"

    async def test_times_that_are_none(self, here: Books) -> None:
        """What a program that calls post() by SQL may say, and no client could be shown."""
        user = await here.customer(10)
        bad = {"error": "wallet.bad_leg", "leg": 1}
        for moment in ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "294276-12-31"):
            assert await self.refused(here, {**pay(user, 1), "effective_at": moment}) == bad
        for seconds in (-1, -(2**31)):
            assert await self.refused(here, hold(user, 1, seconds)) == bad

    async def test_notes_that_are_no_small_object(self, here: Books) -> None:
        user = await here.customer(10)
        bad = {"error": "wallet.bad_leg", "leg": 1}
        for notes in ([1], "x", 7, True, {"text": "x" * 4096}):
            assert await self.refused(here, {**pay(user, 1), "metadata": notes}) == bad
            assert await self.refused(here, {**hold(user, 1), "metadata": notes}) == bad

    async def test_what_belongs_to_another_verb(self, here: Books) -> None:
        user = await here.customer(10)
        bad = {"error": "wallet.bad_leg", "leg": 1}
        its_hold, paid = await held(here, user, 5), await moved(here, pay(user, 1))
        over = await held(here, user, 1, seconds=0)
        for leg in (
            {**ledger.void(its_hold), "amount": 3},
            {**ledger.expire(over), "amount": 1},
            {**pay(user, 1), "transfer": paid},
        ):
            assert await self.refused(here, leg) == bad

    async def test_a_wallet_that_nothing_went_into_is_empty_and_stays_unopened(
        self, here: Books
    ) -> None:
        user, other = await here.customer(10), await here.customer()
        short = {"error": "wallet.insufficient_funds", "leg": 1, "balance": 0, "available": 0}
        for leg in (pay(user, 1, other, POINTS), pay(user, 1, asset=POINTS)):
            assert await self.refused(here, leg) == {**short, "needed": 1}
        points = ledger.hold(ledger.user(user), 1, POINTS, kind="charge", seconds=60)
        assert await self.refused(here, points) == {**short, "needed": 1}
        half = await self.refused(here, pay("rewards", 5, other, POINTS), pay(user, 11))
        assert (half["error"], half["leg"]) == ("wallet.insufficient_funds", 2)
        assert await here.wallet(user, POINTS) is None
        assert await here.wallet(other, POINTS) is None

    async def test_unknown_things(self, here: Books) -> None:
        user, nobody = await here.customer(10), str(uuid4())
        for leg, code in (
            (pay(user, 1, asset="EUR"), "unknown_asset"),
            (pay(nobody, 1), "unknown_account"),
            (pay(user, 1, nobody), "unknown_account"),
            (pay("clearing", 1, nobody), "unknown_account"),
            (pay("nowhere", 1, user), "unknown_account"),
            (pay(nobody, 1, nobody), "unknown_account"),
            (ledger.transfer(nobody, "revenue", 1, kind="charge"), "unknown_account"),
            (ledger.capture(await held(here, user, 1), credit="nowhere"), "unknown_account"),
            (ledger.capture(nobody), "unknown_hold"),
            (ledger.void(nobody), "unknown_hold"),
            (ledger.expire(nobody), "unknown_hold"),
            (ledger.reverse(nobody), "unknown_transfer"),
        ):
            answer = await self.refused(here, leg)
            assert answer == {"error": f"wallet.{code}", "leg": 1}

    async def test_sides_that_do_not_fit(self, here: Books) -> None:
        user = await here.customer(10)
        await here.do(pay("rewards", 5, user, POINTS))
        points = await here.wallet(user, POINTS)
        assert points
        to_points = ledger.transfer(ledger.user(user), str(points["id"]), 1, kind="charge")
        capture = ledger.capture(await held(here, user, 1), credit=str(points["id"]))
        for leg, code in (
            (pay(user, 1, user), "same_account"),
            (pay("clearing", 1, "clearing"), "same_account"),
            (to_points, "asset_mismatch"),
            (capture, "asset_mismatch"),
        ):
            assert await self.refused(here, leg) == {"error": f"wallet.{code}", "leg": 1}

    async def test_not_enough(self, here: Books) -> None:
        user = await here.customer(10)
        await held(here, user, 4)
        short = {"error": "wallet.insufficient_funds", "leg": 1, "balance": 10}
        short |= {"available": 6, "needed": 7}
        assert await self.refused(here, pay(user, 7)) == short
        assert await self.refused(here, hold(user, 7)) == short
        await here.execute("update accounts set overdraft = 3 where owner_id = $1", UUID(user))
        assert await self.refused(here, pay(user, 10)) == {**short, "needed": 10}
        await here.do(pay(user, 9))
        assert await here.state(user) == (1, 4, 9, 3 - 1)

    async def test_money_that_was_spent_is_not_reversed_back_to_where_it_came_from(
        self, here: Books
    ) -> None:
        user = await here.customer()
        funded = await moved(here, pay("clearing", 10, user))
        await here.do(pay(user, 4))
        short = {"error": "wallet.insufficient_funds", "leg": 1, "balance": 6}
        short |= {"available": 6, "needed": 10}
        assert await self.refused(here, ledger.reverse(funded)) == short
        await here.do(ledger.reverse(funded, 6))
        assert await here.state(user) == (0, 0, 10 - 6 + 6 - 6, 3)

    async def test_frozen_nothing_goes_out(self, here: Books) -> None:
        user = await here.customer(10)
        its_hold, other_hold, due = [await held(here, user, 2, s) for s in (600, 600, 0)]
        funded = await moved(here, pay("clearing", 1, user))
        await here.execute("update accounts set status = 'frozen' where owner_id = $1", UUID(user))
        frozen = {"error": "wallet.account_frozen", "leg": 1}
        for leg in (pay(user, 1), hold(user, 1), ledger.capture(its_hold), ledger.reverse(funded)):
            assert await self.refused(here, leg) == frozen
        await here.do(pay("clearing", 7, user))
        await here.do(ledger.void(other_hold))
        await here.do(ledger.expire(due))
        assert await here.state(user) == (18, 2, 0, 3)

    async def test_closed_nothing_goes_in_or_out(self, here: Books) -> None:
        user, other = await here.customer(), await here.customer(5)
        await close(here, user)
        closed = {"error": "wallet.account_closed", "leg": 1}
        for leg in (pay(user, 1), hold(user, 1), pay("clearing", 1, user), pay(other, 1, user)):
            assert await self.refused(here, leg) == closed
        await fails(here, asyncpg.CheckViolationError, close(here, other))  # it is not empty

    async def test_at_most_today(self, here: Books) -> None:
        user, other = await here.customer(100), await here.customer()
        send: dict[str, Any] = {"payee": other, "kind": "transfer", "at_most_today": 50}
        await here.do(pay(user, 30))  # a charge does not count
        await here.do(pay(user, 20, **send))
        one, two = await here.post(ask(pay(user, 25, **send)), ask(pay(user, 6, **send)))
        assert "error" not in one
        assert (two["error"], two["left"]) == ("wallet.transfer_limit", 5)
        limit = {"error": "wallet.transfer_limit", "leg": 2, "left": 0}
        assert await self.refused(here, pay(user, 5, **send), pay(user, 1, **send)) == limit
        await here.do(pay(user, 5, **send))
        assert await here.state(other) == (50, 0, 0, 3)

    async def test_at_most_today_with_the_largest_amount(self, here: Books) -> None:
        user, other = await here.customer(100), await here.customer()
        send: dict[str, Any] = {"payee": other, "kind": "transfer", "at_most_today": 50}
        await here.do(pay(user, 1, **send))
        limit = {"error": "wallet.transfer_limit", "leg": 1, "left": 49}
        assert await self.refused(here, pay(user, MOST_MINOR, **send)) == limit


class TestLimits:
    async def test_the_largest_balance(self, here: Books) -> None:
        user, other = await here.customer(), await here.customer()
        await here.do(pay("rewards", 1, other))  # whose shard of clearing may be the same
        await here.do(pay("clearing", MOST_MINOR, user))
        full = {"error": "wallet.balance_too_large"}
        for leg in (pay("adjustments", 1, user), pay(other, 1, user), pay("clearing", 1, user)):
            assert {"error": (await here.one(leg))["error"]} == full
        await here.do(pay(user, MOST_MINOR, "fees"))
        assert await here.state(user) == (0, 0, MOST_MINOR, 2)

    async def test_a_hold_of_the_largest_amount_can_be_ended(self, here: Books) -> None:
        user = await here.customer()
        await here.do(pay("clearing", MOST_MINOR, user))
        await here.do(ledger.void(await held(here, user, MOST_MINOR)))
        await here.do(ledger.capture(await held(here, user, MOST_MINOR)))
        assert await here.state(user) == (0, 0, MOST_MINOR, 2)

    async def test_beyond_bigint_nothing_is_done(self, here: Books) -> None:
        user = await here.customer(5)
        before = await here.count()
        asked = here.post(ask(pay(user, 1)), ask(pay(user, MOST_MINOR + 1)))
        await fails(here, asyncpg.NumericValueOutOfRangeError, asked)
        assert await here.count() == before

    async def test_a_thousand_requests_and_no_more(self, here: Books) -> None:
        user = await here.customer(1000)
        requests = [ask(pay(user, 1)) for _ in range(1001)]
        for wrong in ([], requests):
            await fails(here, asyncpg.InvalidParameterValueError, here.post(*wrong))
        answers = await here.post(*requests[:1000])
        assert [answer["legs"][0]["balance"] for answer in answers] == list(range(999, -1, -1))
        assert len({answer["operation_id"] for answer in answers}) == 1000
        assert (await here.post(*requests[:1000]))[-1] == {**answers[-1], "replayed": True}

    async def test_a_hundred_legs_and_no_more(self, here: Books) -> None:
        user = await here.customer(101)
        fine, legs = ask(pay(user, 1)), [pay(user, 1)] * 101
        for wrong in ([], legs, "legs", {}, None):
            asked = [fine.document(), ask().document() | {"legs": wrong}]
            call = here.fetchval("select post($1)", asked)
            await fails(here, asyncpg.InvalidParameterValueError, call)
        assert len((await here.do(*legs[:100]))["legs"]) == 100
