"""Each verb of the ledger: what is done is done whole and once, or not at all."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from bursar.auth.actor import Actor, Kind, Origin
from bursar.core.idempotency import KeyReused
from bursar.wallets import ledger
from bursar.wallets.ledger import POINTS, USD
from tests import databases
from tests.wallets.oracle import Books, ask, books
from tests.wallets.paying import close, held, hold, moved, pay
from tests.world import OLIVIA


class TestRepetition:
    async def test_the_same_again_is_told_the_same(self, here: Books) -> None:
        user = await here.customer(10)
        request = ask(pay(user, 3))
        first, within = await here.post(request, request)
        await here.do(pay(user, 3))
        [later] = await here.post(request)
        assert within == later == {**first, "replayed": True}
        assert await here.state(user) == (4, 0, 6, 3)
        outcome = ledger.outcome(later)
        assert (outcome.replayed, outcome.legs[0].available) == (True, 7)

    async def test_another_body_under_the_same_key(self, here: Books) -> None:
        user = await here.customer(10)
        first, second = await here.post(ask(pay(user, 3), key="k"), ask(pay(user, 4), key="k"))
        assert ("error" in first, second) == (False, {"error": "idempotency.key_reused"})
        assert await here.one(pay(user, 3, category="x"), key="k") == second
        assert isinstance(ledger.refusal(second), KeyReused)
        [elsewhere] = await here.post(ask(pay(user, 4), key="k", scope="another"))
        assert elsewhere["legs"][0]["balance"] == 3

    async def test_what_is_kept_of_a_body_never_changes(self, here: Books) -> None:
        """Keys are kept for ever: what a later release makes of the same legs has to match."""
        about = {"metadata": {"a": [1, None]}}
        await here.do(ledger.transfer("clearing", "revenue", 5, kind="charge", **about), key="k")
        kept = "select encode(fingerprint, 'hex') from operations where key = 'k'"
        expected = "26e078a5ecb064f9687490ce72eb687973e92eca3620d195a95594a14a79d84b"
        assert await here.fetchval(kept) == expected

    async def test_any_text_is_a_key_of_its_own(self, here: Books) -> None:
        """Marks are kept for ever, too: half a SHA-256 of the text's own bytes."""
        pairs = [
            ("ab", "c"),
            ("a", "bc"),
            ("a", "\\"),
            ("a", "\\\\"),
            ("a", "\\134"),
            ("ä", "€ 🙂 '%"),
        ]
        for scope, key in pairs:
            leg = ledger.transfer("clearing", "revenue", 5, kind="charge")
            [outcome] = await here.post(ask(leg, key=key, scope=scope))
            assert "replayed" not in outcome
            mark = sha256(f"{len(scope)}:{scope}{key}".encode()).digest()[:16]
            sql = "select id from operations where operation_mark(scope, key) = $1"
            assert str(await here.fetchval(sql, UUID(bytes=mark))) == outcome["operation_id"]

    async def test_a_key_of_a_refused_request_is_free(self, here: Books) -> None:
        user = await here.customer(2)
        first, fund, again, third = await here.post(
            ask(pay(user, 3), key="k"),
            ask(pay("clearing", 5, user)),
            ask(pay(user, 3), key="k"),
            ask(pay(user, 3), key="k"),
        )
        assert first["error"] == "wallet.insufficient_funds"
        assert again["legs"][0]["balance"] == 4
        assert third == {**again, "replayed": True}
        assert "error" not in fund

    async def test_what_is_repeated_needs_no_money_any_more(self, here: Books) -> None:
        user = await here.customer(3)
        request = ask(pay(user, 3))
        [first] = await here.post(request)
        await close(here, user)
        assert await here.post(request) == [{**first, "replayed": True}]


class TestWallets:
    async def test_one_is_opened_when_it_is_first_paid_into(self, here: Books) -> None:
        user, other = await here.customer(), await here.customer()
        assert await here.wallet(user, POINTS) is None
        await here.post(
            ask(pay("rewards", 7, user, POINTS)), ask(pay(user, 2, other, POINTS)),
            ask(pay(user, 1, other, POINTS)),
        )  # fmt: skip
        assert await here.state(user, POINTS) == (4, 0, 3, 3)
        assert await here.state(other, POINTS) == (3, 0, 0, 2)

    async def test_one_that_is_opened_by_a_leg_stays_absent_for_a_refused_neighbour(
        self, here: Books
    ) -> None:
        user, other = await here.customer(), await here.customer()
        first, refused, last = await here.post(
            ask(pay("rewards", 2, user, POINTS)), ask(pay(user, 3, other, POINTS)),
            ask(pay(user, 2, "rewards", POINTS)),
        )  # fmt: skip
        assert (first["legs"][0]["credited"], last["legs"][0]["balance"]) == (2, 0)
        assert (refused["balance"], refused["needed"]) == (2, 3)
        assert await here.wallet(other, POINTS) is None

    async def test_one_that_is_named_in_two_ways_is_opened_once(self, here: Books) -> None:
        user = await here.customer()
        loud = {**pay("rewards", 2, user, POINTS), "credit": ledger.user(user.upper())}
        await here.post(ask(loud), ask(pay("rewards", 3, user, POINTS)))
        assert await here.state(user, POINTS) == (5, 0, 0, 2)

    async def test_the_company_on_both_sides(self, here: Books) -> None:
        before = await here.fetchval("select sum(posted) from accounts where purpose = 'revenue'")
        answer = await here.do(pay("clearing", 5, "revenue"))
        assert answer["legs"][0]["credited"] >= 5
        after = await here.fetchval("select sum(posted) from accounts where purpose = 'revenue'")
        assert after == before + 5

    async def test_effective_at_and_what_is_kept_of_a_leg(self, here: Books) -> None:
        user = await here.customer(5)
        then = datetime.now(UTC) - timedelta(days=40)
        leg = pay(user, 5, effective_at=then, category="api", metadata={"model": "otter-2"})
        transfer_id = await moved(here, leg)
        [row] = await here.fetch("select * from transfers where id = $1", UUID(transfer_id))
        assert (row["effective_at"], row["kind"], row["category"]) == (then, "charge", "api")
        assert row["metadata"] == {"model": "otter-2"}
        assert row["posted_at"] > then

    async def test_what_a_person_does_is_audited_and_what_a_job_does_is_not(
        self, here: Books
    ) -> None:
        user = await here.customer(20)
        trail = "select event_type, actor_id, request_id, after from audit_logs order by id"
        assert await here.fetch(trail) == []
        carl = Origin(Actor(Kind.CUSTOMER, UUID(user)), "203.0.113.7", "request 1")
        olivia = Origin(OLIVIA, "203.0.113.7", "request 2")
        same = ask(pay(user, 1), origin=carl, event="wallets.charged")
        await here.post(
            same, same, ask(pay(user, 2), origin=carl, event="wallets.charged"),
            ask(pay(user, 500), origin=carl, event="wallets.refused"),
            ask(pay("adjustments", 1, user), origin=olivia, event="wallets.adjusted"),
            ask(pay(user, 1)),
        )  # fmt: skip
        [charged, adjusted] = sorted(await here.fetch(trail), key=lambda r: r["event_type"])[::-1]
        assert tuple(charged)[:3] == ("wallets.charged", UUID(user), "request 1")
        assert '"operations":2' in charged["after"].replace(" ", "")
        assert tuple(adjusted)[:3] == ("wallets.adjusted", OLIVIA.id, "request 2")
        await here.post(same)
        assert len(await here.fetch(trail)) == 2
        names = await here.fetch("select actor from operations where request_id = 'request 1'")
        assert {row["actor"] for row in names} == {carl.actor.name}


class TestHolds:
    async def test_parts_and_the_rest(self, here: Books) -> None:
        user = await here.customer(100)
        its_hold = await held(here, user, 60)
        assert await here.state(user) == (100, 60, 0, 1)
        first = await here.do(ledger.capture(its_hold, 25, metadata={"part": 1}))
        assert first["legs"][0] | {"transfer_id": None} == {
            "transfer_id": None, "hold_id": its_hold, "asset": USD, "amount": 25,
            "balance": 75, "held": 35, "credited": first["legs"][0]["credited"],
        }  # fmt: skip
        large = await here.one(ledger.capture(its_hold, 36))
        assert (large["error"], large["left"]) == ("wallet.capture_too_large", 35)
        await here.do(ledger.capture(its_hold))
        assert await here.state(user) == (40, 0, 60, 3)
        for leg in (ledger.capture(its_hold), ledger.void(its_hold), ledger.expire(its_hold)):
            assert (await here.one(leg))["error"] == "wallet.hold_closed"
        kept = "select kind, category from transfers where hold_id = $1"
        rows = await here.fetch(kept, UUID(its_hold))
        assert [tuple(row) for row in rows] == [("charge", "models")] * 2

    async def test_a_final_part_frees_the_rest(self, here: Books) -> None:
        user = await here.customer(100)
        its_hold = await held(here, user, 60)
        await here.do(ledger.capture(its_hold, 1, final=True))
        assert await here.state(user) == (99, 0, 1, 2)
        assert (await here.one(ledger.capture(its_hold, 1)))["error"] == "wallet.hold_closed"

    async def test_voided_after_a_part(self, here: Books) -> None:
        user = await here.customer(100)
        its_hold = await held(here, user, 60)
        await here.do(ledger.capture(its_hold, 10))
        answer = await here.do(ledger.void(its_hold))
        assert answer["legs"][0]["amount"] == 50
        assert answer["legs"][0]["transfer_id"] is None
        assert await here.state(user) == (90, 0, 10, 2)
        await here.do(pay(user, 90))

    async def test_one_whose_time_has_passed(self, here: Books) -> None:
        user = await here.customer(100)
        fresh, overdue, voided = [await held(here, user, 20, seconds) for seconds in (60, 0, 0)]
        assert (await here.one(ledger.expire(fresh)))["error"] == "wallet.hold_open"
        assert (await here.one(ledger.capture(overdue)))["error"] == "wallet.hold_expired"
        await here.do(ledger.expire(overdue))
        await here.do(ledger.void(voided))
        assert await here.state(user) == (100, 20, 0, 1)
        states = "select state from holds where id = any ($1) order by id"
        rows = await here.fetch(states, [fresh, overdue, voided])
        assert [row[0] for row in rows] == ["open", "expired", "voided"]

    async def test_two_captures_of_one_hold_in_one_call(self, here: Books) -> None:
        user = await here.customer(100)
        its_hold = await held(here, user, 60)
        first, second, third = await here.post(
            *(ask(ledger.capture(its_hold, amount)) for amount in (40, 30, 20))
        )
        assert ("error" in first, "error" in third) == (False, False)
        assert (second["error"], second["left"]) == ("wallet.capture_too_large", 20)
        assert await here.state(user) == (40, 0, 60, 3)

    async def test_a_hold_and_its_capture_in_one_call(self, here: Books) -> None:
        """An id is known only from an answer: in the same call it is the one of a repetition."""
        user = await here.customer(100)
        request = ask(hold(user, 60))
        [answer] = await here.post(request)
        its_hold = answer["legs"][0]["hold_id"]
        again, captured, other = await here.post(
            request, ask(ledger.capture(its_hold, 60)), ask(hold(user, 41))
        )
        assert (again["replayed"], captured["legs"][0]["balance"]) == (True, 40)
        assert other["error"] == "wallet.insufficient_funds"

    @pytest.mark.parametrize("turned", [False, True])
    async def test_several_holds_are_ended_each_in_its_way(self, here: Books, turned: bool) -> None:
        user, other = await here.customer(100), await here.customer(100)
        holds = [await held(here, payer, 20) for payer in (user, user, other, other)]
        legs = [ledger.capture(holds[0], 5), ledger.void(holds[1])]
        legs += [ledger.capture(holds[2], 5, final=True), ledger.capture(holds[3])]
        legs = legs[::-1] if turned else legs
        answers = await here.post(*map(ask, legs))
        assert not [answer for answer in answers if "error" in answer]
        assert await here.state(user) == (95, 15, 5, 2)
        assert await here.state(other) == (75, 0, 25, 3)
        closed_by = "select closed_by from holds where id = $1"
        order = answers[::-1] if turned else answers
        for its_hold, answer in zip(holds[1:], order[1:], strict=True):
            assert str(await here.fetchval(closed_by, UUID(its_hold))) == answer["operation_id"]

    async def test_captured_into_a_wallet_that_is_not_open_yet(self, here: Books) -> None:
        user, other = await here.customer(), await here.customer()
        await here.do(pay("rewards", 9, user, POINTS))
        leg = ledger.hold(ledger.user(user), 9, POINTS, kind="charge", seconds=60)
        its_hold = (await here.do(leg))["legs"][0]["hold_id"]
        await here.do(ledger.capture(its_hold, credit=ledger.user(other)))
        assert await here.state(other, POINTS) == (9, 0, 0, 1)


class TestReversals:
    async def test_in_parts_and_never_more_than_was_moved(self, here: Books) -> None:
        user = await here.customer(100)
        paid = await moved(here, pay(user, 60, category="api"))
        back = await moved(here, ledger.reverse(paid, 25))
        large = await here.one(ledger.reverse(paid, 36))
        assert (large["error"], large["left"]) == ("wallet.reversal_too_large", 35)
        first, second = await here.post(
            ask(ledger.reverse(paid, 20)), ask(ledger.reverse(paid, 16))
        )
        assert ("error" in first, second["left"]) == (False, 15)
        rest = await here.do(ledger.reverse(paid))
        assert rest["legs"][0]["amount"] == 15
        assert await here.state(user) == (100, 0, 0, 5)
        for leg in (ledger.reverse(paid), ledger.reverse(paid, 1), ledger.reverse(back)):
            answer = await here.one(leg)
            assert (answer["error"], answer["left"]) == ("wallet.reversal_too_large", 0)
        [row] = await here.fetch("select * from transfers where id = $1", UUID(back))
        assert (row["kind"], row["category"], str(row["reverses"])) == ("reversal", "api", paid)

    async def test_of_what_was_captured(self, here: Books) -> None:
        user = await here.customer(100)
        its_hold = await held(here, user, 60)
        taken = await moved(here, ledger.capture(its_hold, 40))
        await here.do(ledger.reverse(taken))
        assert await here.state(user) == (100, 20, 0, 3)


class TestLinkedLegs:
    async def test_an_exchange(self, here: Books) -> None:
        user = await here.customer(100)
        answer = await here.do(
            pay(user, 100, "exchange", kind="exchange"),
            pay("exchange", 7, user, POINTS, kind="exchange"),
        )
        assert [leg["asset"] for leg in answer["legs"]] == [USD, POINTS]
        assert answer["legs"][1]["credited"] == 7

    async def test_when_the_third_fails_nothing_of_the_first_remains(self, here: Books) -> None:
        user, other = await here.customer(100), await here.customer()
        its_hold, second = await held(here, user, 60), await held(here, user, 20)
        paid = await moved(here, pay(user, 5))
        before = await here.count()
        linked = (ledger.capture(its_hold, 40), ledger.void(second), ledger.reverse(paid))
        after, refused, captured = await here.post(
            ask(pay(user, 1)),
            ask(*linked, hold(user, 10), pay(other, 1)),
            ask(ledger.capture(its_hold, 60)),
        )
        assert (refused["error"], refused["leg"]) == ("wallet.insufficient_funds", 5)
        assert (after["legs"][0]["balance"], captured["legs"][0]["balance"]) == (94, 34)
        assert await here.state(user) == (34, 20, 66, 4)
        operations, transfers, holds, *_ = await here.count()
        assert (operations, transfers, holds) == (before[0] + 2, before[1] + 2, before[2])
        await here.do(ledger.reverse(paid))
        await here.do(ledger.void(second))

    async def test_legs_see_each_other(self, here: Books) -> None:
        user, other = await here.customer(10), await here.customer()
        send: dict[str, Any] = {"kind": "transfer", "at_most_today": 10}
        await here.do(pay(user, 10, other, **send), pay(other, 10, user), pay(user, 10, "fees"))
        again = await here.one(pay("clearing", 9, user), pay(user, 1, other, **send))
        assert (again["error"], again["leg"]) == ("wallet.transfer_limit", 2)
        assert await here.state(user) == (0, 0, 20, 4)


async def test_no_batch_reads_through_a_whole_table() -> None:
    """What a batch costs does not grow with customers, nor with what was posted before: also where
    the plans were made on empty tables."""
    url = await databases.clone()
    async with books(url) as here:
        await here.execute(
            "insert into users (email, name) "
            "select n || '@example.com', 'Somebody' from generate_series(1, 2000) as n"
        )
        users = [str(row["id"]) for row in await here.fetch("select id from users limit 100")]
        await here.execute("analyze")

        async def reads() -> int:
            await here.execute("select pg_stat_force_next_flush()")
            query = """select sum(seq_scan)::bigint from pg_stat_user_tables
              where relname in ('accounts', 'operations', 'transfers', 'holds')"""
            found: int = await here.fetchval(query)
            return found

        before = await reads()
        funded = await here.post(*(ask(pay("clearing", 9, user)) for user in users))
        paid = await here.post(*(ask(pay(user, 3)) for user in users))
        kept = await here.post(*(ask(hold(user, 3)) for user in users))
        assert not any("error" in answer for answer in funded + paid + kept)
        assert await reads() == before
    await databases.discard(url)
