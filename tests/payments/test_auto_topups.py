"""Automatic top-ups: below the threshold once, never two at once, and no further than their owner said."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bursar.core import jobs
from bursar.core.database import WORKER
from bursar.payments import asking, automatic
from bursar.payments.automatic import fill_wallets, look_at_wallets
from bursar.payments.providers import Answer, Charge, Unknown, registry
from bursar.payments.providers.demo import Demo
from bursar.payments.models import ProviderState
from tests.accounts.people import actions, mails, rows, run_jobs
from tests.conftest import Live
from tests.payments.surroundings import listen, save_method, settle
from tests.wallets.purses import balance_of, charge, fund, hold, move_in, refused
from tests.world import CARL, DORA, OLIVIA, SUE

ME = "/api/v1/users/me/auto-topup"
