"""The demo's customers see what their calls cost."""

from dataclasses import replace

from bursar.demo import company
from tests.accounts.people import rows
from tests.billing.meterman import ask, minute, use
from tests.conftest import Live
from tests.world import ANNA, CARL


async def test_usage_of_the_demo_costs_something(live_db: Live) -> None:
    for _ in range(2):  # the second time changes nothing
        assert (await company.load(live_db.database))["price_plans"] == 2
    [carl] = await rows(live_db, "select id from users where email = $1", company.CUSTOMER)
    path = f"/api/v1/admin/users/{carl['id']}/usage/costs"
    told = (await ask(live_db, "GET", path, who=ANNA)).json()
    assert {each["meter"] for each in told["costs"]} == {"calls", "orders"}
    before = {each["meter"]: each["billedUnits"] for each in told["costs"]}
    await use(live_db, replace(CARL, id=carl["id"]), endpoint="/v1/orders")  # if the month is new
    await minute(live_db)
    told = (await ask(live_db, "GET", path, who=ANNA)).json()
    after = {each["meter"]: each["billedUnits"] for each in told["costs"]}
    assert (before["orders"], after["calls"]) == (0, 0)
    assert after["orders"] > 0
