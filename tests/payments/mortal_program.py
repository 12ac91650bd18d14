"""Requests that are killed at the n-th step, for tests/payments/test_crashes.py.

    python -m tests.payments.mortal_program

Reads an order per line (JSON) and forks a child for it, so that a start costs no imports. The child
sends one request through the whole application, and dies by SIGKILL at its `kill_at`-th moment:
before, at the end of and after each transaction, and when its provider has answered. Says `killed`,
or how many moments there were and what was answered.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.app import create_app
from bursar.core.database import Claim, Database
from bursar.core.settings import Settings
from bursar.payments.providers import Answer, Charge, Return
from bursar.payments.providers.paypal import PayPal
from bursar.payments.providers.registry import Providers
from bursar.payments.providers.stripe import Stripe
from tests.conftest import Live
from tests.world import CARL, OLIVIA

PEOPLE = {"carl": CARL, "olivia": OLIVIA}


class Clock:
    """Counts moments, and ends the process at one of them."""

    moments = kill_at = 0

    def moment(self) -> None:
        self.moments += 1
        if self.moments == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalDatabase(Database):
    """The real one, with a moment around each commit."""

    clock: Clock

    @asynccontextmanager
    async def transaction(
        self, claim: Claim, *, origin: object = None
    ) -> AsyncIterator[AsyncSession]:
        self.clock.moment()
        async with super().transaction(claim, origin=origin) as db:
            yield db
            await db.flush()
            self.clock.moment()
        self.clock.moment()


class Mortal:
    """Before a real provider, with a moment after each answer."""

    clock: Clock

    async def create(self, charge: Charge) -> Answer:
        return self._heard(await super().create(charge))  # type: ignore[misc]

    async def complete(self, charge: Charge) -> Answer:
        return self._heard(await super().complete(charge))  # type: ignore[misc]

    async def refund(self, back: Return) -> Answer:
        return self._heard(await super().refund(back))  # type: ignore[misc]

    def _heard(self, answer: Answer) -> Answer:
        self.clock.moment()
        return answer


class MortalStripe(Mortal, Stripe):
    """Its intents take by themselves what was approved."""


class MortalPayPal(Mortal, PayPal):
    """Its orders are taken by us: a moment lies between our look and that."""

    async def _order(self, charge: Charge) -> dict[str, Any]:
        order = await super()._order(charge)
        self.clock.moment()
        return order


def installed(order: dict[str, Any]) -> tuple[Live, Clock]:
    """Once for a database, before any child; connections are made by whoever needs them first."""
    settings = Settings(data=Path("/nowhere"), **order["settings"])
    app = create_app(settings, order["url"])
    kind = MortalPayPal if settings.paypal_client_secret else MortalStripe
    database, provider = MortalDatabase(order["url"], settings), kind.of(settings)
    assert isinstance(provider, Mortal)
    database.clock = provider.clock = Clock()
    app.state.database, app.state.providers = database, Providers({provider.name: provider})
    return Live(order["url"], settings, app), database.clock


async def send(live: Live, clock: Clock, order: dict[str, Any]) -> str:
    clock.kill_at = order["kill_at"]
    async with live.api(PEOPLE[order["who"]], **order["headers"]) as api:
        answer = await api.post(order["path"], json=order["body"])
    return f"{clock.moments} {answer.status_code}"


def main() -> None:
    known: dict[str, tuple[Live, Clock]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        here = known.setdefault(order["url"], known.get(order["url"]) or installed(order))
        reading, writing = os.pipe()
        if pid := os.fork():
            os.close(writing)
            with os.fdopen(reading) as said:
                answer = said.read()
            os.waitpid(pid, 0)
            sys.stdout.write(f"{answer or 'killed'}\n")
            sys.stdout.flush()
        else:
            os.write(writing, asyncio.run(send(*here, order)).encode())
            os._exit(0)


if __name__ == "__main__":
    main()
