"""`bursar serve` and `bursar worker` on an external database."""

from collections.abc import AsyncIterator

import pytest

from tests import databases
from tests.databases import SECRET
from tests.programs import Run, bursar, serving


@pytest.fixture
async def elsewhere() -> AsyncIterator[str]:
    """The address of an external database, migrated."""
    url = await databases.clone()
    yield url
    await databases.discard(url)


def outside(url: str, **given: str) -> dict[str, str]:
    return {"DATABASE_URL": url, "BURSAR_SECRET_KEY": SECRET, **given}


async def test_an_external_database_is_served(elsewhere: str) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    given = outside(nowhere, BURSAR_DATABASE_URL=elsewhere)  # the name of our own is meant for us
    with serving(**given) as server:
        assert server.stop().code == 0
        assert "starting the database" not in server.said


async def test_an_external_database_is_migrated_by_who_asks_for_it() -> None:
    url = await databases.bare()
    given = outside(url)
    try:
        refused = bursar("serve", "--port", 0, **given)
        assert refused.code == 1
        assert refused.line.startswith("The database is at nothing, this Bursar needs ")
        assert refused.line.endswith(": run `bursar migrate`.")
        assert bursar("worker", **given).code == 1
        assert bursar("migrate", **given).code == 0
        with serving(**given) as server:
            assert server.stop().code == 0
    finally:
        await databases.discard(url)


async def test_a_worker_works_beside_servers(elsewhere: str) -> None:
    run = Run("worker", **outside(elsewhere))
    run.until_said("running jobs")
    ended = run.stop()
    run.discard()
    assert (ended.code, ended.stdout) == (0, "")
