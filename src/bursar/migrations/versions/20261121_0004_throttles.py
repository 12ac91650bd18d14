"""Throttles: how often something was tried that must not be tried often; links that work once."""

from bursar.migrations.script import run

revision = "20261121_0004"
down_revision = "20261121_0003"


def upgrade() -> None:
    run(ATTEMPTS)
    run(ONE_TIME_TOKENS)


# Each row is changed often and lives for minutes: room on its page for the next version of it, no
# second index that every change would have to follow, and old versions are swept early.
ATTEMPTS = """
create table attempts (
  key bytea not null,
  count integer not null,
  window_ends timestamptz not null,
  constraint pk_attempts primary key (key),
  constraint ck_attempts_count check (count >= 0)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 2000
);
"""

ONE_TIME_TOKENS = """
create table one_time_tokens (
  hash bytea not null,
  purpose varchar not null,
  subject uuid not null,
  payload jsonb not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  constraint pk_one_time_tokens primary key (subject, purpose),
  constraint uq_one_time_tokens_hash unique (hash),
  constraint ck_one_time_tokens_hash check (length(hash) = 32)
);
create index ix_one_time_tokens_expires_at on one_time_tokens (expires_at);
"""
