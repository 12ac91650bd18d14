"""Webhooks of Stripe: how many are taken in and kept on disk in a second.

Asked of `bursar serve` as it is: signatures checked over the raw bytes, each event and the job that
reads it committed before the answer. Every event is new, of a type that changes nothing here as
most of Stripe's are, and has 2.5 kB. The jobs read them meanwhile, in the same process. In the end
each event that was answered must be there, read or with its job. No peer: the claim is a rate.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import asyncpg
from stripe import WebhookSignature

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.load import Ask, Job, Outcome
from bench.programs import BenchFailed, Program, load
from bursar.core.embedded import running

TITLE = "Webhooks taken in and kept"
WEBHOOK = "/api/v1/payments/webhook"
SECRET = "whsec_that_only_the_benchmarks_know"
ENVIRONMENT = {"BURSAR_STRIPE_SECRET_KEY": "sk_test_bench", "BURSAR_STRIPE_WEBHOOK_SECRET": SECRET}
CLIENTS = 64
MOST_PER_SECOND = 6_000  # so many are made for a round
NAME = "taken in"
CLAIMS = (Claim(NAME, 2_000, at_least=True),)
COUNTED = """
  select count(*) as events,
    count(*) filter (where status = 'waiting') as waiting,
    (select coalesce(sum(json_array_length(convert_from(payload, 'utf8')::json -> 'events')), 0)
      from pgqueuer where entrypoint = 'payments.read_events') as jobs
  from payment_events
"""


def run(plan: Plan) -> Report:
    with office() as taking:
        taking.measure(1)
        taking.forget()
        report = harness.run(
            "webhooks",
            TITLE,
            "webhooks/s",
            [Contender(NAME, f"{CLIENTS} clients", partial(taking.measure, plan.seconds))],
            CLAIMS,
            plan.rounds,
        )
        taking.compare()
        return replace(report, notes=(taking.note,))


@contextmanager
def office() -> Iterator["Taking"]:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        environment = ground.ENVIRONMENT | ENVIRONMENT
        with Program(ground.serve(data), folder=folder, environment=environment) as server:
            address = running(data)
            if address is None:
                raise BenchFailed("the database of `bursar serve` does not run")
            yield Taking(server, address.url("postgres"))


@dataclass
class Taking:
    """One server, and all that was sent to it."""

    server: Program
    url: str
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    outcomes: list[Outcome] = field(default_factory=list)
    answered: int = 0
    unheard: int = 0
    cpu_seconds: float = 0.0

    def measure(self, seconds: float) -> float:
        asks = [ask(next(self.numbers)) for _ in range(int(seconds * MOST_PER_SECOND))]
        used = self.server.cpu_seconds()
        most = len(asks) - CLIENTS  # none is sent twice
        outcome = load(Job(self.server.port, asks, CLIENTS, seconds, requests=most))
        self.cpu_seconds += self.server.cpu_seconds() - used
        self.outcomes.append(outcome)
        self.answered += outcome.requests
        self.unheard += CLIENTS
        return outcome.per_second

    def forget(self) -> None:
        self.outcomes.clear()
        self.cpu_seconds = 0.0

    def compare(self) -> None:
        """Nothing that was answered is lost: it is there, read or with the job that reads it."""
        kept = asyncio.run(self.count())
        if not 0 <= kept["events"] - self.answered <= self.unheard:
            raise BenchFailed(f"{self.answered} were answered, {kept['events']} are kept")
        if kept["jobs"] < kept["waiting"]:
            raise BenchFailed(f"{kept['waiting']} wait, {kept['jobs']} have a job")

    async def count(self) -> asyncpg.Record:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchrow(COUNTED)
        finally:
            await connection.close()

    @property
    def note(self) -> str:
        requests = sum(outcome.requests for outcome in self.outcomes)
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        return (
            f"{self.cpu_seconds / requests * 1e6:.0f} µs of a core in the server's process for"
            f" each; p50 {middle:.1f} ms, p99 at most {slowest:.1f} ms"
        )


def ask(number: int) -> Ask:
    body = json.dumps(event(number))
    signature = WebhookSignature.generate_signature_header(body, SECRET, int(time.time()))
    return Ask(WEBHOOK, '"new":true', {"Stripe-Signature": signature}, "POST", body)


def event(number: int) -> dict[str, object]:
    """An intent that somebody has begun: the commonest one that changes nothing here."""
    intent = {
        "id": f"pi_3QK{number:021}",
        "object": "payment_intent",
        "amount": 2000,
        "amount_received": 0,
        "currency": "usd",
        "status": "requires_payment_method",
        "client_secret": f"pi_3QK{number:021}_secret_{number:025}",
        "metadata": {"payment_id": f"00000000-0000-7000-8000-{number:012}"},
        "created": 1_790_000_000,
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "always"},
        "payment_method_types": ["card", "link", "cashapp", "klarna", "amazon_pay"],
        "payment_method_options": {
            name: {"setup_future_usage": None, "request_three_d_secure": "automatic"}
            for name in ("card", "link", "cashapp", "klarna", "amazon_pay")
        },
        **{f"field_{place}_that_is_null": None for place in range(40)},
    }
    return {
        "id": f"evt_3QK{number:021}",
        "object": "event",
        "api_version": "2026-10-29.dahlia",
        "created": 1_790_000_000,
        "type": "payment_intent.created",
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": f"req_{number:014}", "idempotency_key": f"payment-{number:036}"},
        "data": {"object": intent},
    }
