"""Where tests of jobs and events are at work: a database of a test's own, or of its module's."""

from collections.abc import AsyncIterator

import pytest

from tests.workers import Bench, bench


@pytest.fixture
async def here() -> AsyncIterator[Bench]:
    async with bench() as opened:
        yield opened


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Bench]:
    """For tests that leave nothing behind."""
    async with bench() as opened:
        yield opened
