"""What tests of wallets begin with: a till of their own, or books of their module's own."""

from collections.abc import AsyncIterator

import pytest

from bursar.wallets.till import Till
from tests import databases
from tests.conftest import Live
from tests.wallets.oracle import Books, books
from tests.wallets.paying import undone


@pytest.fixture
async def desk(live_db: Live) -> AsyncIterator[Till]:
    opened = Till(live_db.database)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    made = await databases.clone()
    yield made
    await databases.discard(made)


@pytest.fixture(scope="module")
async def shared(url: str) -> AsyncIterator[Books]:
    async with books(url) as opened:
        yield opened


@pytest.fixture
async def here(shared: Books) -> AsyncIterator[Books]:
    """What a test does there is undone after it."""
    async with undone(shared):
        yield shared
