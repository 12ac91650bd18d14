"""Sessions: who is signed in where, and which refresh token is good."""

from bursar.migrations.script import run

revision = "20261121_0003"
down_revision = "20261120_0002"


def upgrade() -> None:
    run(SESSIONS)


# No foreign key to people: a session is of a customer or of staff, and outlives neither for long.
SESSIONS = """
create table sessions (
  id uuid not null default uuid7(),
  kind varchar not null,
  subject uuid not null,
  scope varchar not null,
  method varchar not null,
  impersonator uuid,
  address varchar,
  user_agent varchar,
  created_at timestamptz not null default now(),
  last_used_at timestamptz not null default now(),
  idle_seconds integer not null,
  expires_at timestamptz not null,
  renewable_until timestamptz not null,
  refresh_hash bytea,
  generation integer not null default 0,
  ended_at timestamptz,
  end_reason varchar,
  constraint pk_sessions primary key (id),
  constraint ck_sessions_kind check (kind in ('customer', 'staff')),
  constraint ck_sessions_scope check (scope in ('full', 'read', 'enrol')),
  constraint ck_sessions_lengths check (
    length(method) <= 50 and length(address) <= 100 and length(user_agent) <= 300
  ),
  constraint ck_sessions_end_reason check (end_reason ~ '^[a-z_]{1,50}$'),
  constraint ck_sessions_ended check ((ended_at is null) = (end_reason is null)),
  constraint ck_sessions_no_refresh_after_end check (ended_at is null or refresh_hash is null),
  constraint ck_sessions_impersonation check (
    impersonator is null or (kind = 'customer' and refresh_hash is null)
  )
);
create index ix_sessions_subject on sessions (subject);
create index ix_sessions_impersonator on sessions (impersonator) where impersonator is not null;
create index ix_sessions_ended_at on sessions (ended_at) where ended_at is not null;
create index ix_sessions_expires_at on sessions (expires_at);
"""
