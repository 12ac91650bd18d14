"""The audit trail and its seals."""

from bursar.migrations.script import run

revision = "20261121_0006"
down_revision = "20261121_0005"


def upgrade() -> None:
    for script in (CHAIN, LOGS, UNSEALED, SEALS, CHECKPOINTS, SHIPMENTS):
        run(script)


# The name of this history: a copy of the database continues it, a new database has another one.
CHAIN = """
create table audit_chains (
  installation uuid not null default gen_random_uuid(),
  started_at timestamptz not null default now(),
  constraint pk_audit_chains primary key (installation)
);
insert into audit_chains default values;
"""

# json, not jsonb: the text is kept as it was written, and its digest with it. bigint for the
# transaction's id: xid8 would fit as well, but no driver knows it.
LOGS = """
create table audit_logs (
  id uuid not null default uuid7(),
  event_type varchar not null,
  actor_kind varchar not null,
  actor_id uuid,
  on_behalf_of uuid,
  impersonator_id uuid,
  target_type varchar,
  target_id varchar,
  before json,
  after json,
  address varchar,
  request_id varchar,
  occurred_at timestamptz not null,
  login_role varchar not null,
  subject uuid,
  xid bigint not null,
  constraint pk_audit_logs primary key (id)
);
create index ix_audit_logs_occurred_at on audit_logs (occurred_at, id);
create index ix_audit_logs_event_type on audit_logs (event_type, occurred_at, id);
create index ix_audit_logs_area on audit_logs (split_part(event_type, '.', 1), occurred_at, id);
create index ix_audit_logs_actor_id on audit_logs (actor_id, occurred_at, id);
create index ix_audit_logs_on_behalf_of on audit_logs (on_behalf_of, occurred_at, id)
  where on_behalf_of is not null;
create index ix_audit_logs_impersonator_id on audit_logs (impersonator_id, occurred_at, id)
  where impersonator_id is not null;
create index ix_audit_logs_target_type on audit_logs (target_type, occurred_at, id);
create index ix_audit_logs_target_id on audit_logs (target_id, occurred_at, id);
create index ix_audit_logs_request_id on audit_logs (request_id, occurred_at, id)
  where request_id is not null;
"""

# What waits for its seal. Not found by a position in audit_logs, which a dump restored into a
# younger server would set back, nor by looking for what has no seal, which costs more every day.
UNSEALED = """
create table audit_unsealed (
  xid bigint not null,
  log_id uuid not null,
  constraint pk_audit_unsealed primary key (xid, log_id)
);
"""

# No foreign key to audit_logs: it would lock, and so rewrite, every row that is sealed. It is
# verification that looks for a seal without its row.
SEALS = """
create table audit_seals (
  seq bigint not null,
  log_id uuid not null,
  digest bytea not null,
  hash bytea not null,
  sealed_at timestamptz not null default clock_timestamp(),
  constraint pk_audit_seals primary key (seq),
  constraint uq_audit_seals_log_id unique (log_id),
  constraint ck_audit_seals_counted check (seq > 0),
  constraint ck_audit_seals_sha256 check (octet_length(digest) = 32 and octet_length(hash) = 32)
);
"""

CHECKPOINTS = """
create table audit_checkpoints (
  seq bigint not null,
  document varchar not null,
  made_at timestamptz not null default clock_timestamp(),
  constraint pk_audit_checkpoints primary key (seq)
);
"""

SHIPMENTS = """
create table audit_shipments (
  seq bigint not null,
  place varchar not null,
  shipped_at timestamptz not null default clock_timestamp(),
  constraint pk_audit_shipments primary key (seq, place)
);
"""
