"""Metered billing: meters, price plans, what was billed of each month's usage, and invoices."""

from bursar.migrations.script import run

revision = "20261128_0017"
down_revision = "20261128_0016"


def upgrade() -> None:
    for script in (METERS, PLANS, PERIODS, INVOICES, CHARGES, LOOKS, STOPS, FOUND_BY_MONTH):
        run(script)


METERS = """
create table billing_meters (
  code varchar not null,
  name varchar not null,
  counts varchar not null default 'units',
  endpoints varchar[] not null default '{}',
  created_at timestamptz not null default now(),
  constraint pk_billing_meters primary key (code),
  constraint ck_billing_meters_code check (code ~ '^[a-z][a-z0-9_]{0,39}$'),
  constraint ck_billing_meters_name check (length(name) between 1 and 100),
  constraint ck_billing_meters_counts check (counts in ('units', 'calls')),
  constraint ck_billing_meters_endpoints check (
    cardinality(endpoints) <= 100 and array_position(endpoints, null) is null
  )
);
create index ix_billing_meters_created_at on billing_meters (created_at, code);
"""

# For one customer, for a tier, or for everybody: of one meter no two at a time. The customer is no
# foreign key: with their row a plan must neither go, nor become everybody's.
PLANS = """
create table price_plans (
  id uuid not null default uuid7(),
  name varchar not null,
  meter varchar not null,
  charging varchar not null,
  currency varchar not null default 'USD',
  tier varchar,
  user_id uuid,
  included bigint not null default 0,
  price_tiers jsonb not null,
  first_month char(7) not null,
  last_month char(7),
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_price_plans primary key (id),
  constraint fk_price_plans_meter foreign key (meter) references billing_meters (code),
  constraint fk_price_plans_currency foreign key (currency) references assets (code),
  constraint ck_price_plans_name check (length(name) between 1 and 100),
  constraint ck_price_plans_charging check (charging in ('at_once', 'monthly')),
  constraint ck_price_plans_tier check (tier in ('free', 'pro', 'enterprise')),
  constraint ck_price_plans_audience check (num_nonnulls(tier, user_id) <= 1),
  constraint ck_price_plans_included check (included between 0 and 1000000000000),
  constraint ck_price_plans_price_tiers check (jsonb_typeof(price_tiers) = 'array'),
  constraint ck_price_plans_first_month check (first_month ~ '^\\d{4}-(0[1-9]|1[0-2])$'),
  constraint ck_price_plans_last_month check (
    last_month ~ '^\\d{4}-(0[1-9]|1[0-2])$' and last_month >= first_month
  ),
  constraint ex_price_plans_one_at_a_time exclude using gist (
    meter with =, (coalesce(user_id::text, tier, '')) with =,
    int4range(
      left(first_month, 4)::integer * 12 + right(first_month, 2)::integer,
      left(last_month, 4)::integer * 12 + right(last_month, 2)::integer, '[]'
    ) with &&
  )
);
create index ix_price_plans_created_at on price_plans (created_at, id);
create index ix_price_plans_user_id on price_plans (user_id, tier);
"""

# `units` and `amount` (in the smallest unit of the plan's currency) are what has been billed of the
# month so far.
PERIODS = """
create table usage_periods (
  id uuid not null default uuid7(),
  user_id uuid,
  meter varchar not null,
  month char(7) not null,
  plan_id uuid not null,
  units bigint not null default 0,
  amount bigint not null default 0,
  unpaid_since timestamptz,
  constraint pk_usage_periods primary key (id),
  constraint uq_usage_periods_month unique (user_id, meter, month),
  constraint fk_usage_periods_user_id foreign key (user_id)
    references users (id) on delete set null,
  constraint fk_usage_periods_plan_id foreign key (plan_id) references price_plans (id),
  constraint ck_usage_periods_units check (units >= 0),
  constraint ck_usage_periods_amount check (amount >= 0)
) with (fillfactor = 80);
create index ix_usage_periods_plan_id on usage_periods (plan_id);
create index ix_usage_periods_unpaid on usage_periods (id)
  where unpaid_since is not null;
"""

INVOICES = """
create table invoice_numbers (
  year integer not null,
  last integer not null,
  constraint pk_invoice_numbers primary key (year)
);
create table invoices (
  id uuid not null default uuid7(),
  year integer not null,
  number integer not null,
  user_id uuid,
  month char(7) not null,
  currency varchar not null,
  total numeric not null,
  status varchar not null default 'open',
  issued_at timestamptz not null default now(),
  due_at timestamptz not null,
  paid_at timestamptz,
  operation_id uuid,
  payment_id uuid,
  void_reason varchar,
  next_try_at timestamptz not null default now(),
  overdue_mailed_at timestamptz,
  version integer not null default 1,
  updated_at timestamptz not null default now(),
  constraint pk_invoices primary key (id),
  constraint uq_invoices_number unique (year, number),
  constraint uq_invoices_operation_id unique (operation_id),
  constraint uq_invoices_payment_id unique (payment_id),
  constraint fk_invoices_user_id foreign key (user_id) references users (id) on delete set null,
  constraint fk_invoices_currency foreign key (currency) references assets (code),
  constraint fk_invoices_operation_id foreign key (operation_id) references operations (id),
  constraint fk_invoices_payment_id foreign key (payment_id) references payments (id),
  constraint ck_invoices_month check (month ~ '^\\d{4}-(0[1-9]|1[0-2])$'),
  constraint ck_invoices_total check (total > 0 and total < 1000000000000 and scale(total) <= 4),
  constraint ck_invoices_status check (status in ('open', 'paid', 'void')),
  constraint ck_invoices_paid check (
    (status = 'paid') = (paid_at is not null)
    and (status = 'paid') = (num_nonnulls(operation_id, payment_id) = 1)
    and num_nonnulls(operation_id, payment_id) <= 1
  ),
  constraint ck_invoices_void check ((status = 'void') = (void_reason is not null)),
  constraint ck_invoices_void_reason check (length(void_reason) between 3 and 500)
);
create index ix_invoices_user_id on invoices (user_id, issued_at, id);
create index ix_invoices_issued_at on invoices (issued_at, id);
create index ix_invoices_status on invoices (status, issued_at, id);
create index ix_invoices_month on invoices (month, issued_at, id);
create index ix_invoices_open on invoices (id) where status = 'open';
create index ix_invoices_due_at on invoices (due_at) where status = 'open';
alter table payments add constraint fk_payments_invoice_id
  foreign key (invoice_id) references invoices (id);
"""

# One charge stands for the units of its month from `from_units` to `to_units`; no two share one.
CHARGES = """
create table usage_charges (
  id uuid not null default uuid7(),
  period_id uuid not null,
  user_id uuid,
  from_units bigint not null,
  to_units bigint not null,
  amount bigint not null,
  amount_after bigint not null,
  operation_id uuid,
  invoice_id uuid,
  created_at timestamptz not null default now(),
  constraint pk_usage_charges primary key (id),
  constraint fk_usage_charges_period_id foreign key (period_id) references usage_periods (id),
  constraint fk_usage_charges_user_id foreign key (user_id)
    references users (id) on delete set null,
  constraint fk_usage_charges_operation_id foreign key (operation_id) references operations (id),
  constraint fk_usage_charges_invoice_id foreign key (invoice_id) references invoices (id),
  constraint ck_usage_charges_units check (0 <= from_units and from_units < to_units),
  constraint ck_usage_charges_amount check (0 < amount and amount <= amount_after),
  constraint ck_usage_charges_one_way check (num_nonnulls(operation_id, invoice_id) = 1),
  constraint uq_usage_charges_operation_id unique (operation_id),
  constraint ex_usage_charges_once exclude using gist (
    period_id with =, int8range(from_units, to_units) with &&
  )
);
create index ix_usage_charges_period_id on usage_charges (period_id, to_units);
create index ix_usage_charges_user_id on usage_charges (user_id, created_at, id);
create index ix_usage_charges_invoice_id on usage_charges (invoice_id)
  where invoice_id is not null;
"""

# Up to when changes of a month's usage have been looked at; and the look that is under way: when it
# began, and at which customer it is.
LOOKS = """
create table billing_looks (
  charging varchar not null,
  month char(7) not null,
  upto timestamptz,
  began timestamptz,
  after uuid,
  failed boolean not null default false,
  constraint pk_billing_looks primary key (charging, month)
);
"""

# Customers whose calls are refused until they have paid; keys/verify looks here.
STOPS = """
create table usage_stops (
  user_id uuid not null,
  since timestamptz not null default now(),
  constraint pk_usage_stops primary key (user_id),
  constraint fk_usage_stops_user_id foreign key (user_id) references users (id) on delete cascade
);
"""

FOUND_BY_MONTH = """
create index ix_monthly_usage_month on monthly_usage (month, user_id);
"""
