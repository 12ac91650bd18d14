"""An id that was verified leads to the call that was counted for it, for its outcome."""

from bursar.migrations.script import run

revision = "20261128_0018"
down_revision = "20261128_0017"


def upgrade() -> None:
    run("alter table usage_event_ids add column usage_id uuid")
