"""The balance by effect at a moment: an index on the time between posting and effect."""

from bursar.migrations.script import run

revision = "20261128_0019"
down_revision = "20261128_0018"


def upgrade() -> None:
    run(INDEXES)


# Either order: posted late for a day before, or early for a day to come.
INDEXES = """
create extension if not exists btree_gist;
drop index ix_transfers_debit_effective;
drop index ix_transfers_credit_effective;
create index ix_transfers_debit_between on transfers using gist (
  debit_id, tstzrange(least(effective_at, posted_at), greatest(effective_at, posted_at))
) where effective_at is not null;
create index ix_transfers_credit_between on transfers using gist (
  credit_id, tstzrange(least(effective_at, posted_at), greatest(effective_at, posted_at))
) where effective_at is not null;
"""
