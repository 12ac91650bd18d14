"""Webhooks: who is told of events, what each was sent, and how every attempt ended."""

from bursar.migrations.script import run

revision = "20261128_0010"
down_revision = "20261121_0009"


def upgrade() -> None:
    for script in (ENDPOINTS, DELIVERIES, ATTEMPTS):
        run(script)


ENDPOINTS = """
create table webhook_endpoints (
  id uuid not null default uuid7(),
  url varchar not null,
  description varchar not null default '',
  events varchar[] not null,
  enabled boolean not null default true,
  off_reason varchar,
  off_at timestamptz,
  failing_since timestamptz,
  secret bytea not null,
  old_secret bytea,
  old_secret_until timestamptz,
  created_by uuid,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_webhook_endpoints primary key (id),
  constraint fk_webhook_endpoints_created_by foreign key (created_by) references admin_users (id),
  constraint ck_webhook_endpoints_url check (length(url) between 1 and 2000),
  constraint ck_webhook_endpoints_description check (length(description) <= 200),
  constraint ck_webhook_endpoints_events check (cardinality(events) between 1 and 50),
  constraint ck_webhook_endpoints_off check (
    enabled = (off_reason is null) and enabled = (off_at is null)
      and off_reason in ('staff', 'gone', 'failing')
  ),
  constraint ck_webhook_endpoints_old_secret check (
    (old_secret is null) = (old_secret_until is null)
  )
);
create index ix_webhook_endpoints_created_at on webhook_endpoints (created_at, id);
"""

# One for each event and endpoint; a test has no event. Who has taken it to send it stands in it
# until the outcome does, and no longer than claimed_until.
DELIVERIES = """
create table webhook_deliveries (
  id uuid not null default uuid7(),
  endpoint_id uuid not null,
  event_id bigint,
  event_type varchar not null,
  body varchar not null,
  status varchar not null default 'pending',
  reason varchar,
  attempts integer not null default 0,
  next_attempt_at timestamptz default now(),
  claimed_by varchar,
  claimed_until timestamptz,
  created_at timestamptz not null default now(),
  settled_at timestamptz,
  constraint pk_webhook_deliveries primary key (id),
  constraint fk_webhook_deliveries_endpoint_id foreign key (endpoint_id)
    references webhook_endpoints (id) on delete cascade,
  constraint uq_webhook_deliveries_event_id_endpoint_id unique (event_id, endpoint_id),
  constraint ck_webhook_deliveries_status check (status in ('pending', 'delivered', 'failed')),
  constraint ck_webhook_deliveries_pending check (
    (status = 'pending') = (next_attempt_at is not null)
      and (status = 'pending') = (settled_at is null)
  )
);
create index ix_webhook_deliveries_created_at on webhook_deliveries (created_at, id);
create index ix_webhook_deliveries_status on webhook_deliveries (status, created_at, id);
create index ix_webhook_deliveries_event_type on webhook_deliveries (event_type, created_at, id);
create index ix_webhook_deliveries_endpoint_id
  on webhook_deliveries (endpoint_id, created_at, id);
create index ix_webhook_deliveries_due on webhook_deliveries (endpoint_id, next_attempt_at)
  where status = 'pending';
create index ix_webhook_deliveries_claimed on webhook_deliveries (endpoint_id)
  where claimed_by is not null;
"""

ATTEMPTS = """
create table webhook_attempts (
  id uuid not null default uuid7(),
  delivery_id uuid not null,
  started_at timestamptz not null,
  duration_ms integer not null,
  status_code integer,
  reason varchar,
  detail varchar,
  answer varchar,
  constraint pk_webhook_attempts primary key (id),
  constraint fk_webhook_attempts_delivery_id foreign key (delivery_id)
    references webhook_deliveries (id) on delete cascade
);
create index ix_webhook_attempts_delivery_id on webhook_attempts (delivery_id, id);
"""
