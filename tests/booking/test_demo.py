"""The demo data: something is booked, something is full, and a second time changes nothing."""

from bursar.demo import company
from tests.accounts.people import rows
from tests.conftest import Live

COUNTS = """
select (select count(*) from providers) p, (select count(*) from services) s,
  (select count(*) from appointments) a, (select count(*) from trainings) t,
  (select count(*) from training_enrolments where status = 'enrolled') e,
  (select count(*) from training_enrolments where status = 'waiting') w
"""


async def test_it_is_loaded_once(live_db: Live) -> None:
    for _ in range(2):
        loaded = await company.load(live_db.database)
        assert loaded["bookings"] == 12
        [counted] = await rows(live_db, COUNTS)
        assert tuple(counted) == (2, 4, 6, 3, 5, 1)
