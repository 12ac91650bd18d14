"""API keys: of customers, and of other services of the business."""

from bursar.migrations.script import run

revision = "20261128_0014"
down_revision = "20261128_0013"


def upgrade() -> None:
    run(KEYS)


# Only the hash of a key is kept. One without an owner is a service's, made by staff.
KEYS = """
create table api_keys (
  id uuid not null default uuid7(),
  user_id uuid,
  name varchar not null default '',
  key_hash bytea not null,
  start varchar not null,
  last_four varchar not null,
  scopes varchar[] not null default '{}',
  allowed_addresses cidr[] not null default '{}',
  per_second integer,
  per_minute integer,
  per_month bigint,
  expires_at timestamptz,
  grace_until timestamptz,
  rotated_from uuid,
  status varchar not null default 'active',
  revoked_at timestamptz,
  revoke_reason varchar,
  last_used_at timestamptz,
  created_by uuid,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  searched text generated always as (lower(' ' || name || ' ' || start || ' ' || last_four)) stored,
  constraint pk_api_keys primary key (id),
  constraint fk_api_keys_user_id foreign key (user_id) references users (id) on delete cascade,
  constraint fk_api_keys_rotated_from foreign key (rotated_from)
    references api_keys (id) on delete set null,
  constraint uq_api_keys_key_hash unique (key_hash),
  constraint uq_api_keys_user_id_id unique (user_id, id),  -- for what refers to both
  constraint ck_api_keys_key_hash check (octet_length(key_hash) = 32),
  constraint ck_api_keys_name check (length(name) <= 100),
  constraint ck_api_keys_masked check (length(start) <= 16 and length(last_four) = 4),
  constraint ck_api_keys_scopes check (cardinality(scopes) <= 50),
  constraint ck_api_keys_scopes_of_services check (
    user_id is null or not scopes && '{keys:verify,usage:ingest,wallets:charge}'::varchar[]
  ),
  constraint ck_api_keys_allowed_addresses check (cardinality(allowed_addresses) <= 50),
  constraint ck_api_keys_limits check (per_second > 0 and per_minute > 0 and per_month > 0),
  constraint ck_api_keys_status check (status in ('active', 'revoked')),
  constraint ck_api_keys_revoked check ((status = 'revoked') = (revoked_at is not null))
) with (fillfactor = 80);
create index ix_api_keys_user_id on api_keys (user_id, created_at, id);
create index ix_api_keys_created_at on api_keys (created_at, id);
create index ix_api_keys_searched on api_keys using gin (searched gin_trgm_ops);
create index ix_api_keys_rotated_from on api_keys (rotated_from);
"""
