"""What is cut off before its answer is in the ledger once, however often it is asked again."""

from typing import Any

import pytest

from bursar.core.database import Database
from bursar.core.database_errors import OutcomeUnknown
from bursar.wallets import till
from bursar.wallets.ledger import Outcome
from bursar.wallets.till import Till
from tests.between import Cutter
from tests.conftest import Live
from tests.wallets.till_world import LOTS, add_customer, balance, charge, entries


@pytest.mark.parametrize("neighbours", [0, 200])
async def test_a_socket_is_cut_before_the_answer_ten_times(live_db: Live, neighbours: int) -> None:
    carl = await add_customer(live_db.url, LOTS)
    async with Cutter(live_db.url, b"the-marked-one", cuts=10).listening() as cutter:
        desk = Till(Database(cutter.url, live_db.settings))
        requests = [charge(carl, 3, "the-marked-one"), *(charge(carl) for _ in range(neighbours))]
        outcomes = await desk.post_all(requests)
        await desk.close()
    assert cutter.cuts == 10
    assert [type(each) for each in outcomes] == [Outcome] * (neighbours + 1)
    assert all(getattr(each, "replayed", False) for each in outcomes)
    assert len(await entries(live_db.url)) == neighbours + 1
    assert await balance(live_db.url, carl) == LOTS - 3 - neighbours


async def test_who_was_cut_off_may_ask_again_ten_times(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(till, "PATIENCE_SECONDS", 0)
    carl = await add_customer(live_db.url, LOTS)
    request: Any = charge(carl, 3, "the-marked-one")
    async with Cutter(live_db.url, b"the-marked-one", cuts=10).listening() as cutter:
        desk = Till(Database(cutter.url, live_db.settings))
        for _ in range(10):
            with pytest.raises(OutcomeUnknown):
                await desk.post(request)
        monkeypatch.setattr(till, "PATIENCE_SECONDS", 60)
        done = await desk.post(request)
        await desk.close()
    assert (cutter.cuts, done.replayed) == (10, True)
    assert len(await entries(live_db.url)) == 1
    assert await balance(live_db.url, carl) == LOTS - 3
