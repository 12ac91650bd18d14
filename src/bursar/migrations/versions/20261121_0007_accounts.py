"""Customers and staff."""

from bursar.migrations.script import run

revision = "20261121_0007"
down_revision = "20261121_0006"


def upgrade() -> None:
    run("create extension if not exists pg_trgm")
    run(USERS)
    run(USER_PREFERENCES)
    run(ADMIN_USERS)
    run(RECOVERY_CODES)
    run(IDENTITIES)


# Plain `insert into users (email, name, user_type)` goes on working: the rest has defaults.
USERS = """
create table users (
  id uuid not null default uuid7(),
  email varchar not null,
  email_verified boolean not null default false,
  username varchar,
  name varchar not null default '',
  first_name varchar not null default '',
  last_name varchar not null default '',
  user_type varchar not null default 'customer',
  role varchar not null default 'individual_client',
  tier varchar not null default 'free',
  status varchar not null default 'active',
  is_active boolean not null generated always as (status = 'active') stored,
  searched text not null generated always as (
    lower(' ' || name || ' ' || email || ' ' || coalesce(username, ''))
  ) stored,
  password_hash varchar,
  login_attempts integer not null default 0,
  locked_until timestamptz,
  last_login timestamptz,
  deleted_at timestamptz,
  erased_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_users primary key (id),
  constraint ck_users_email check (email ~ '^[!-~]{1,64}@[!-~]{1,255}$' and length(email) <= 254),
  constraint ck_users_username check (username ~ '^[A-Za-z0-9][A-Za-z0-9._-]{1,48}[A-Za-z0-9]$'),
  constraint ck_users_names check (
    length(name) <= 201 and length(first_name) <= 200 and length(last_name) <= 200
  ),
  constraint ck_users_role check (
    role in ('individual_client', 'business_client', 'partner')
  ),
  constraint ck_users_tier check (tier in ('free', 'pro', 'enterprise')),
  constraint ck_users_status check (status in ('active', 'suspended', 'pending', 'deleted')),
  constraint ck_users_deleted check ((status = 'deleted') = (deleted_at is not null)),
  constraint ck_users_login_attempts check (login_attempts >= 0)
);
create unique index uq_users_email on users (lower(email));
create unique index uq_users_username on users (lower(username));
create index ix_users_created_at on users (created_at, id);
create index ix_users_email on users (email, id);
create index ix_users_name on users (name, id);
create index ix_users_status on users (status, created_at, id);
create index ix_users_tier on users (tier, created_at, id);
create index ix_users_role on users (role, created_at, id);
create index ix_users_searched on users using gin (searched gin_trgm_ops);
create index ix_users_deleted_at on users (deleted_at) where erased_at is null;
"""

USER_PREFERENCES = """
create table user_preferences (
  user_id uuid not null,
  document jsonb not null default '{}',
  version integer not null default 1,
  updated_at timestamptz not null default now(),
  constraint pk_user_preferences primary key (user_id),
  constraint fk_user_preferences_user_id foreign key (user_id)
    references users (id) on delete cascade,
  constraint ck_user_preferences_document check (jsonb_typeof(document) = 'object')
);
"""

ADMIN_USERS = """
create table admin_users (
  id uuid not null default uuid7(),
  email varchar not null,
  name varchar not null default '',
  role varchar not null,
  status varchar not null default 'active',
  password_hash varchar,
  totp_secret bytea,
  totp_pending bytea,
  totp_last_step bigint,
  totp_confirmed_at timestamptz,
  login_attempts integer not null default 0,
  locked_until timestamptz,
  last_login timestamptz,
  invited_by uuid,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_admin_users primary key (id),
  constraint fk_admin_users_invited_by foreign key (invited_by) references admin_users (id),
  constraint ck_admin_users_email check (
    email ~ '^[!-~]{1,64}@[!-~]{1,255}$' and length(email) <= 254
  ),
  constraint ck_admin_users_name check (length(name) <= 201),
  constraint ck_admin_users_role check (
    role in ('owner', 'administrator', 'support', 'analyst', 'marketer')
  ),
  constraint ck_admin_users_status check (
    status in ('invited', 'active', 'suspended', 'deleted')
  ),
  constraint ck_admin_users_totp check (totp_confirmed_at is null or totp_secret is not null),
  constraint ck_admin_users_login_attempts check (login_attempts >= 0)
);
create unique index uq_admin_users_email on admin_users (lower(email)) where status <> 'deleted';
create index ix_admin_users_created_at on admin_users (created_at, id);
"""

RECOVERY_CODES = """
create table recovery_codes (
  admin_user_id uuid not null,
  code_hash bytea not null,
  used_at timestamptz,
  constraint pk_recovery_codes primary key (admin_user_id, code_hash),
  constraint fk_recovery_codes_admin_user_id foreign key (admin_user_id)
    references admin_users (id) on delete cascade
);
"""

# Who somebody is at an OpenID provider. One row is one person: of the customers or of the staff.
IDENTITIES = """
create table identities (
  kind varchar not null,
  issuer varchar not null,
  subject varchar not null,
  user_id uuid,
  admin_user_id uuid,
  email varchar,
  created_at timestamptz not null default now(),
  constraint pk_identities primary key (kind, issuer, subject),
  constraint fk_identities_user_id foreign key (user_id)
    references users (id) on delete cascade,
  constraint fk_identities_admin_user_id foreign key (admin_user_id)
    references admin_users (id) on delete cascade,
  constraint ck_identities_one_person check (
    (kind = 'customer' and user_id is not null and admin_user_id is null)
    or (kind = 'staff' and admin_user_id is not null and user_id is null)
  )
);
create index ix_identities_user_id on identities (user_id);
create index ix_identities_admin_user_id on identities (admin_user_id);
"""
