"""An installation with Stripe set up, and that Stripe as a process of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from bursar.app import create_app
from tests import databases
from tests.accounts import people
from tests.conftest import Live
from tests.payments.shop import KEY, SECRETS, SUBSCRIBER, Shop
from tests.payments.stripe_program import Account, stripe_server
from tests.wallets.purses import move_in


@pytest.fixture(scope="session")
def stripe_process() -> Iterator[Account]:
    with stripe_server() as account:
        yield account


@pytest.fixture
async def shop(stripe_process: Account) -> AsyncIterator[Shop]:
    """Carl and Dora have wallets; what they pay goes to the Stripe of the tests."""
    stripe_process.start_anew()
    settings = databases.test_settings(
        stripe_secret_key=KEY,
        stripe_webhook_secret=",".join(SECRETS),
        stripe_api_base=stripe_process.url,
    )
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await move_in(live)
    await people.listen(live, SUBSCRIBER)
    yield Shop(live, stripe_process)
    await live.app.state.till.close()
    await live.app.state.providers.close()
    await live.database.close()
    await databases.discard(url)
