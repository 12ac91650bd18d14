"""The ground: time-ordered ids, idempotency keys, settings with their history."""

from bursar.migrations.script import run

revision = "20261120_0001"
down_revision = None


def upgrade() -> None:
    run(UUID7)
    run(IDEMPOTENCY_KEYS)
    run(SETTINGS)
    run(SETTING_CHANGES)


# PostgreSQL has uuidv7() from 18 on; this one is for 15 and up.
UUID7 = """
create function uuid7() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog
return encode(
  set_bit(set_bit(
    overlay(uuid_send(gen_random_uuid())
      placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
      from 1 for 6),
    52, 1), 53, 1), 'hex')::uuid
"""

IDEMPOTENCY_KEYS = """
create table idempotency_keys (
  subject varchar not null,
  key varchar not null,
  fingerprint bytea not null,
  status smallint not null,
  headers jsonb not null,
  body bytea not null,
  created_at timestamptz not null default now(),
  constraint pk_idempotency_keys primary key (subject, key)
);
create index ix_idempotency_keys_created_at on idempotency_keys (created_at);
"""

SETTINGS = """
create table settings (
  key varchar not null,
  value jsonb,
  version integer not null default 1,
  updated_at timestamptz not null default now(),
  updated_by uuid,
  constraint pk_settings primary key (key)
);
"""

SETTING_CHANGES = """
create table setting_changes (
  id uuid not null default uuid7(),
  key varchar not null,
  old jsonb,
  new jsonb,
  changed_at timestamptz not null default now(),
  changed_by uuid,
  constraint pk_setting_changes primary key (id)
);
create index ix_setting_changes_changed_at on setting_changes (changed_at, id);
create index ix_setting_changes_key on setting_changes (key, changed_at, id);
"""
