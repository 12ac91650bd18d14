"""What was proposed under a key is known for ever, as what was posted under one is."""

from bursar.migrations.script import run

revision = "20261128_0022"
down_revision = "20261128_0021"


def upgrade() -> None:
    run("""
    alter table adjustments add column key varchar,
      add constraint ck_adjustments_key check (length(key) between 1 and 300),
      add constraint uq_adjustments_proposed_by_key unique (proposed_by, key);
    """)
