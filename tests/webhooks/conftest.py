"""A database with staff in it, on which webhooks may go to this machine."""

from collections.abc import AsyncIterator

import pytest

from bursar.app import create_app
from tests import databases
from tests.accounts.people import rows
from tests.conftest import Live
from tests.webhooks.receivers import listen
from tests.world import ADAM, OLIVIA

STAFF = """
insert into admin_users (id, email, name, role, status) values ($1, $2, $3, $4, 'active')
"""


async def opened(*, allow_private: bool) -> AsyncIterator[Live]:
    settings = databases.test_settings(webhooks_allow_private=allow_private)
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await rows(live, STAFF, OLIVIA.id, "olivia@example.com", "Olivia", "owner")
    await rows(live, STAFF, ADAM.id, "adam@example.com", "Adam", "administrator")
    await listen(live)
    yield live
    await live.app.state.till.close()
    await live.database.close()
    await databases.discard(url)


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    """As somebody develops: receivers on this machine are fine."""
    async for each in opened(allow_private=True):
        yield each


@pytest.fixture
async def strict() -> AsyncIterator[Live]:
    """As it comes: nothing private, nothing but https."""
    async for each in opened(allow_private=False):
        yield each
