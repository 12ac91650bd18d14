"""A wallet always has a limit; what was posted stands for one adjustment; an area is a column.

The policies of staff have a condition, behind which no index on an expression is used.
"""

from bursar.migrations.script import run

revision = "20261129_0028"
down_revision = "20261129_0027"


def upgrade() -> None:
    run("""
    update accounts set overdraft = greatest(0, held::numeric - posted)
    where purpose = 'wallet' and overdraft is null;
    alter table accounts add constraint ck_accounts_wallets_have_a_limit
      check (purpose <> 'wallet' or overdraft is not null);
    alter table adjustments add constraint uq_adjustments_operation_id unique (operation_id);

    drop index ix_audit_logs_area;
    alter table audit_logs add column area varchar not null
      generated always as (split_part(event_type, '.', 1)) stored;
    create index ix_audit_logs_area on audit_logs (area, occurred_at, id);
    """)
