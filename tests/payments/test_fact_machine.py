"""Whatever happens at a provider, told in any order, late and repeated: Bursar ends where it is."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from bursar.app import create_app
from bursar.core.database import WORKER
from bursar.core.errors import BursarError
from bursar.payments import asking, refunds
from bursar.payments.models import ProviderState
from bursar.payments.providers import Answer, Fact, What
from tests import databases
from tests.accounts.people import rows
from tests.conftest import Live
from tests.payments import tills
from tests.wallets.purses import balance_of, fund, move_in

RANKS = ("pending", "failed", "completed", "partially_refunded", "refunded")
START = 1000
MISCOUNTED = """
  select payment_method, status, currency, payment_count, total_amount from payment_summary
  except
  select payment_method, status, currency, count(*), sum(amount) from payments group by 1, 2, 3
"""
numbers = count(1)
amounts = st.integers(1, 12)
places = st.integers(0, 40)


@dataclass
class Back:
    """A refund as the provider has it."""

    object_id: str
    amount: int
    refund_id: UUID | None = None  # ours, of one that we asked for
    # refused, done, returned (after it was done), failed (instead), reversed (by a dispute)
    fate: str = "asked"


@dataclass
class Truth:
    """A payment as the provider has it: the oracle."""

    payment: UUID
    amount: int
    purpose: str
    captured: bool = False
    cancelled: bool = False
    backs: list[Back] = field(default_factory=list)
    dispute: str | None = None
    disputed: int = 0

    @property
    def left(self) -> int:
        gone = sum(
            each.amount for each in self.backs if each.fate in ("done", "returned", "failed")
        )
        took = 0 if self.dispute == "won" else self.disputed
        return self.amount - gone - took if self.captured else 0

    @property
    def refunded(self) -> int:
        gone = sum(each.amount for each in self.backs if each.fate in ("done", "returned"))
        return gone + (self.disputed if self.dispute == "lost" else 0)

    @property
    def away(self) -> int:
        """What the provider has of it no more."""
        gone = sum(each.amount for each in self.backs if each.fate == "done")
        return gone + (self.disputed if self.dispute in ("open", "lost") else 0)

    @property
    def returned(self) -> int:
        return sum(each.amount for each in self.backs if each.fate == "returned")

    @property
    def status(self) -> str:
        if not self.captured:
            return "failed" if self.cancelled else "pending"
        if self.refunded == 0:
            return "completed"
        return "refunded" if self.refunded == self.amount else "partially_refunded"


class FactMachine(RuleBasedStateMachine):
    """A new customer for each example; what happens at the provider is told when it suits."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    live: Live

    @initialize()
    def move_in(self) -> None:
        self.truths: list[Truth] = []
        self.facts: list[Fact] = []
        self.customer = uuid4()
        self.run(move_in(self.live, self.customer))
        self.service = self.run(tills.service(self.live))
        self.run(fund(self.live, self.customer, START))
        self.before = self.run(tills.company(self.live))
        self.begin(20, "top_up")

    @rule(amount=st.integers(5, 20), purpose=st.sampled_from(["top_up", "top_up", "service"]))
    def begin(self, amount: int, purpose: str) -> None:
        about = {"service_id": self.service} if purpose == "service" else {}
        made = tills.intend(self.live, self.customer, amount, purpose=purpose, **about)
        self.truths.append(Truth(self.run(made), amount, purpose))

    def one(self, place: int) -> Truth:
        return self.truths[-1 - place % len(self.truths)]

    # What happens at the provider.

    @rule(place=places)
    def decline(self, place: int) -> None:
        truth = self.one(place)
        if not truth.captured:
            told = tills.fact(truth.payment, What.DECLINED, f"pi_{truth.payment}", code="declined")
            self.facts.append(told)

    @rule(place=places)
    def cancel(self, place: int) -> None:
        truth = self.one(place)
        if not truth.captured:
            truth.cancelled = True
            self.facts.append(tills.cancelled(truth.payment))

    @rule(place=places)
    def capture(self, place: int) -> None:
        """Also what was given up: some banks are slow."""
        truth = self.one(place)
        if not truth.captured:
            truth.captured = True
            self.facts.append(tills.captured(truth.payment, truth.amount))

    @rule(place=places, amount=amounts)
    def refund_there(self, place: int, amount: int) -> None:
        truth = self.one(place)
        if amount <= truth.left and truth.dispute != "open":
            self.happens(truth, Back(f"re_{next(numbers)}", amount), What.REFUNDED, "done")

    @rule(place=places)
    def send_back(self, place: int) -> None:
        truth = self.one(place)
        for back in truth.backs:
            if back.fate == "done":
                self.happens(truth, back, What.REFUND_FAILED, "returned")
                return

    @rule(place=places, amount=amounts)
    def dispute(self, place: int, amount: int) -> None:
        truth = self.one(place)
        if truth.dispute is None and amount <= truth.left:
            truth.dispute, truth.disputed = "open", amount
            self.tell_of_dispute(truth, What.DISPUTE_OPENED)

    @rule(place=places, won=st.booleans())
    def decide(self, place: int, won: bool) -> None:
        truth = self.one(place)
        if truth.dispute == "open":
            truth.dispute = "won" if won else "lost"
            self.tell_of_dispute(truth, What.DISPUTE_WON if won else What.DISPUTE_LOST)

    @rule(
        amount=amounts,
        part=st.integers(0, 4),
        won=st.booleans(),
        purpose=st.sampled_from(["top_up", "service"]),
    )
    def dispute_that_takes_back(self, amount: int, part: int, won: bool, purpose: str) -> None:
        """The provider reverses what is contested, and tells that and its decision in any order:
        lost, it is one and the same money; won all the same, it has gone besides."""
        self.begin(20, purpose)
        self.capture(0)
        self.dispute(0, amount)
        for fact in self.facts[-2:]:
            self.told(fact)
        truth = self.one(0)
        back = Back(f"re_{next(numbers)}", max(1, amount - part), fate="reversed")
        truth.backs.append(back)
        told = tills.refunded(truth.payment, back.object_id, back.amount, is_reversal=True)
        self.facts.append(told)
        self.decide(0, won)
        if won:
            back.fate = "done"

    def tell_of_dispute(self, truth: Truth, what: What) -> None:
        self.facts.append(tills.fact(truth.payment, what, f"dp_{truth.payment}", truth.disputed))

    def happens(self, truth: Truth, back: Back, what: What, fate: str) -> None:
        back.fate = fate
        if back not in truth.backs:
            truth.backs.append(back)
        ours = str(back.refund_id) if back.refund_id else None
        self.facts.append(
            tills.fact(truth.payment, what, back.object_id, back.amount, refund_id=ours)
        )

    # What we do.

    @rule(place=places, amount=amounts)
    def ask_for_a_refund(self, place: int, amount: int) -> None:
        truth = self.one(place)
        refund_id = self.run(self.requested(truth, amount))
        if refund_id:
            truth.backs.append(Back(f"re_{next(numbers)}", amount, refund_id))

    async def requested(self, truth: Truth, amount: int) -> UUID | None:
        """Refused by what we know now, which may be less than what has happened."""
        row = await tills.row_of(self.live, truth.payment)
        left = row["captured"] - row["refunded"] - row["refund_pending"] - row["disputed"]
        may = row["captured"] > 0 and row["disputed"] == 0 and amount <= left
        try:
            async with self.live.database.transaction(WORKER) as db:
                asked, _ = await refunds.request(db, truth.payment, Decimal(amount))
        except BursarError:
            assert not may
            return None
        assert may
        return asked.id

    @rule(purpose=st.sampled_from(["top_up", "service"]))
    def refund_that_comes_back(self, purpose: str) -> None:
        """Of which we hear nothing for a while, and then in any order."""
        self.begin(20, purpose)
        self.capture(0)
        self.told(self.facts[-1])
        self.ask_for_a_refund(0, 5)
        self.carry_out(0, fails=False, heard=False)
        self.send_back(0)

    @rule(place=places, fails=st.booleans(), heard=st.booleans())
    def carry_out(self, place: int, fails: bool, heard: bool) -> None:
        """The provider does it, or refuses; its answer may be lost."""
        truth = self.one(place)
        for back in truth.backs:
            if back.fate == "asked":
                self.decide_on(truth, back, fails=fails)
                if heard:
                    self.answer(truth, back)
                return

    def decide_on(self, truth: Truth, back: Back, *, fails: bool) -> None:
        if back.amount > truth.left or truth.dispute == "open":
            back.fate = "refused"
        elif fails:
            self.happens(truth, back, What.REFUND_FAILED, "failed")
        else:
            self.happens(truth, back, What.REFUNDED, "done")

    def answer(self, truth: Truth, back: Back) -> None:
        """What a call says, and again when it is repeated by its key."""
        states = {"done": ProviderState.DONE, "returned": ProviderState.DONE}
        state = states.get(back.fate, ProviderState.GONE)
        ids = {} if back.fate == "refused" else {"provider_refund_id": back.object_id}
        own = [each for each in self.facts if each.object_id == back.object_id]
        self.run(self.heard(back, Answer(state, tuple(own[:1]), ids, reason=back.fate)))

    async def heard(self, back: Back, answer: Answer) -> None:
        assert back.refund_id
        async with self.live.database.transaction(WORKER) as db:
            await asking.hear_refund(db, back.refund_id, "stripe", answer)

    # What we are told.

    @rule(place=places)
    def tell(self, place: int) -> None:
        if self.facts:
            self.told(self.facts[place % len(self.facts)])

    def told(self, fact: Fact) -> bool:
        """Whether it has arrived; the same again at once changes nothing."""
        [applied, again] = self.run(tills.tell(self.live, fact, fact))
        assert applied.what != "differs", (fact, applied.reason)
        assert again.what == ("not_here" if applied.what == "not_here" else "known")
        return bool(applied.what != "not_here")

    def teardown(self) -> None:
        if not hasattr(self, "truths"):
            return
        waiting = [fact for fact in reversed(self.facts) if not self.told(fact)]
        for truth in self.truths:
            for back in truth.backs:
                if back.fate == "asked":
                    self.decide_on(truth, back, fails=False)
                    waiting.append(self.facts[-1])
                if back.refund_id:
                    self.answer(truth, back)
        for _ in range(4):
            waiting = [fact for fact in reversed(waiting) if not self.told(fact)]
        assert waiting == []
        self.run(self.compare())

    async def compare(self) -> None:
        top_ups = services = returned = 0
        for truth in self.truths:
            captured = truth.amount if truth.captured else 0
            should = (truth.status, Decimal(captured), Decimal(truth.refunded))
            assert await tills.state(self.live, truth.payment) == should, truth
            trail = await tills.changes(self.live, truth.payment)
            ranks = [RANKS.index(status) for status in trail]
            assert ranks == sorted(ranks)
            assert trail[-1] == truth.status
            rest = captured - truth.away
            if truth.purpose == "top_up":
                top_ups += rest
            else:  # what was on its way to the customer and came back is the customer's
                services += rest - truth.returned
                returned += truth.returned
        assert await balance_of(self.live, self.customer) == START + top_ups + returned
        await self.compare_company(top_ups + services + returned, services)

    async def compare_company(self, clearing: int, revenue: int) -> None:
        now = await tills.company(self.live)
        moved = {name: now.get(name, 0) - self.before.get(name, 0) for name in {*now, *self.before}}
        should = {"clearing": -clearing, "revenue": revenue}
        assert {k: v for k, v in moved.items() if v} == {k: v for k, v in should.items() if v}
        query = """
          select count(*) filter (where name = 'payments.completed') as completed from events
          where payload ->> 'user_id' = $1
        """
        [told] = await rows(self.live, query, str(self.customer))
        assert told["completed"] == sum(truth.captured for truth in self.truths)
        assert await rows(self.live, MISCOUNTED) == []


@pytest.fixture
def machine() -> Iterator[type[FactMachine]]:
    """Hypothesis is not asynchronous: the machine has a loop of its own."""
    loop = asyncio.new_event_loop()
    url = loop.run_until_complete(databases.clone())
    here = databases.test_settings()
    live = Live(url, here, create_app(here, url))
    try:
        on_this = {"run": staticmethod(loop.run_until_complete), "live": live}
        yield type("Machine", (FactMachine,), on_this)
    finally:
        loop.run_until_complete(live.app.state.till.close())
        loop.run_until_complete(live.database.close())
        loop.run_until_complete(databases.discard(url))
        loop.close()


def test_bursar_ends_where_the_provider_is(machine: type[FactMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            # without Phase.shrink: against a database that takes minutes
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
