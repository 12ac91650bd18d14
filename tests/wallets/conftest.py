"""A till of a test's own, for tests/wallets/test_till*.py."""

from collections.abc import AsyncIterator

import pytest

from bursar.wallets.till import Till
from tests.conftest import Live


@pytest.fixture
async def desk(live_db: Live) -> AsyncIterator[Till]:
    opened = Till(live_db.database)
    yield opened
    await opened.close()
