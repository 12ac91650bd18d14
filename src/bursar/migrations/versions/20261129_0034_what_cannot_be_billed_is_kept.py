"""What cannot be billed as it is is kept, with the reason, and keeps no look at the others back.

A look that has left somebody out, and is not over, begins anew: it would go on without them.
"""

from bursar.migrations.script import run

revision = "20261129_0034"
down_revision = "20261129_0033"


def upgrade() -> None:
    run("""
    create table billing_waits (
      id uuid not null default uuid7(),
      charging varchar not null,
      user_id uuid not null,
      month char(7) not null,
      meter varchar,
      waits_because varchar not null,
      since timestamptz not null default now(),
      next_look_at timestamptz not null default now(),
      constraint pk_billing_waits primary key (id),
      constraint uq_billing_waits_meter unique nulls not distinct (user_id, month, charging, meter),
      constraint fk_billing_waits_user_id foreign key (user_id)
        references users (id) on delete cascade,
      constraint ck_billing_waits_charging check (charging in ('at_once', 'monthly'))
    );
    create index ix_billing_waits_since on billing_waits (since, id);

    update billing_looks set began = null, after = null where failed;
    alter table billing_looks drop column failed;

    alter table usage_periods add column unpaid_tried_at timestamptz;

    drop procedure if exists let_owner_and_staff_read(regclass);  -- no file has it any more
    """)
