"""Usage: raw events by month, what they add up to, and what is still left of a quota."""

from bursar.migrations.script import run

revision = "20261128_0015"
down_revision = "20261128_0014"


def upgrade() -> None:
    for script in (USAGE, EVENT_IDS, MONTHS, KEY_MONTHS, HOURS, DAYS, GRANTS, WARNINGS, METERS):
        run(script)


# One row for each call, in one partition for each month (UTC). The key leads with the customer, so
# it is the order in which usage is read and goes with its customer or API key.
USAGE = """
create table usage (
  id uuid not null default uuid7(),
  user_id uuid not null,
  api_key_id uuid,
  event_id varchar,
  endpoint varchar not null,
  location varchar,
  state varchar,
  date_from varchar,
  date_to varchar,
  response_time_ms integer,
  status_code smallint,
  error_message varchar,
  ip_address inet,
  user_agent varchar,
  units bigint not null default 1,
  timestamp timestamptz not null default now(),
  recorded_at timestamptz not null default now(),
  constraint pk_usage primary key (user_id, timestamp, id),
  constraint fk_usage_user_id foreign key (user_id) references users (id) on delete cascade,
  constraint fk_usage_user_id_api_key_id foreign key (user_id, api_key_id)
    references api_keys (user_id, id) on delete cascade,
  constraint ck_usage_endpoint check (length(endpoint) between 1 and 300),
  constraint ck_usage_response_time_ms check (response_time_ms >= 0),
  constraint ck_usage_status_code check (status_code between 100 and 599),
  constraint ck_usage_units check (units between 0 and 1000000000)
) partition by range (timestamp);
"""

# A partitioned table cannot hold an id unique across its months, so that stands here: half of the
# SHA-256 of the id that a caller gave, and a mark of what the event said.
EVENT_IDS = """
create table usage_event_ids (
  user_id uuid not null,
  event bytea not null,
  content bytea not null,
  seen_on date not null default current_date,
  constraint pk_usage_event_ids primary key (user_id, event),
  constraint fk_usage_event_ids_user_id foreign key (user_id)
    references users (id) on delete cascade
);
create index ix_usage_event_ids_seen_on on usage_event_ids using brin (seen_on);
"""

MONTHS = """
create table monthly_usage (
  user_id uuid not null,
  month char(7) not null,
  total_requests bigint not null default 0,
  successful_requests bigint not null default 0,
  failed_requests bigint not null default 0,
  total_response_time_ms bigint not null default 0,
  units bigint not null default 0,
  last_updated timestamptz not null default now(),
  constraint pk_monthly_usage primary key (user_id, month),
  constraint fk_monthly_usage_user_id foreign key (user_id) references users (id) on delete cascade,
  constraint ck_monthly_usage_month check (month ~ '^\\d{4}-(0[1-9]|1[0-2])$')
) with (fillfactor = 50);
"""

KEY_MONTHS = """
create table api_key_months (
  api_key_id uuid not null,
  month char(7) not null,
  requests bigint not null default 0,
  units bigint not null default 0,
  constraint pk_api_key_months primary key (api_key_id, month),
  constraint fk_api_key_months_api_key_id foreign key (api_key_id)
    references api_keys (id) on delete cascade
) with (fillfactor = 50);
"""

# `latencies` counts response times by the bounds in metering/database.sql. No key, and a status
# that is not known, are zeros, so that they can be part of the primary key.
ROLLUP = """
create table usage_{unit}s (
  user_id uuid not null,
  {unit} {type} not null,
  endpoint varchar not null,
  api_key_id uuid not null,
  status_code smallint not null,
  requests bigint not null,
  units bigint not null,
  timed bigint not null,
  total_response_time_ms bigint not null,
  latencies bigint[] not null,
  constraint pk_usage_{unit}s primary key (user_id, {unit}, endpoint, api_key_id, status_code),
  constraint fk_usage_{unit}s_user_id foreign key (user_id) references users (id) on delete cascade
) with (fillfactor = 70);
"""
HOURS = ROLLUP.format(unit="hour", type="timestamptz")
DAYS = ROLLUP.format(unit="day", type="date")

GRANTS = """
create table usage_grants (
  id uuid not null default uuid7(),
  user_id uuid not null,
  month char(7) not null,
  units bigint not null,
  reason varchar not null,
  granted_by uuid,
  created_at timestamptz not null default now(),
  constraint pk_usage_grants primary key (id),
  constraint fk_usage_grants_user_id foreign key (user_id) references users (id) on delete cascade,
  constraint ck_usage_grants_month check (month ~ '^\\d{4}-(0[1-9]|1[0-2])$'),
  constraint ck_usage_grants_units check (units between 1 and 1000000000000),
  constraint ck_usage_grants_reason check (length(reason) between 1 and 500)
);
create index ix_usage_grants_user_id on usage_grants (user_id, month);
create index ix_usage_grants_created_at on usage_grants (created_at, id);
"""

WARNINGS = """
create table quota_warnings (
  user_id uuid not null,
  month char(7) not null,
  percent smallint not null,
  used bigint not null,
  quota bigint not null,
  is_hard boolean not null,
  noticed_at timestamptz not null default now(),
  mailed_at timestamptz,
  constraint pk_quota_warnings primary key (user_id, month, percent),
  constraint fk_quota_warnings_user_id foreign key (user_id) references users (id) on delete cascade
);
create index ix_quota_warnings_waiting on quota_warnings (noticed_at) where mailed_at is null;
"""

# One row for each customer and each key: whoever counts takes its lock, and how far a rate is used
# up stands in it, as the moment (in seconds since 1970) at which all would be as if nobody had
# called. Nothing here outlives a crash, or has to.
METERS = """
create unlogged table meters (
  id uuid not null,
  second_full_at double precision not null default 0,
  minute_full_at double precision not null default 0,
  constraint pk_meters primary key (id)
) with (fillfactor = 50);
"""
