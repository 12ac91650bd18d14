"""What tests of the audit trail may ask for."""

import pytest

from tests.audit.trail import Trail
from tests.conftest import Live


@pytest.fixture
def trail(live_db: Live) -> Trail:
    return Trail(live_db)
