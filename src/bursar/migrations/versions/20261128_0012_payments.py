"""Payments, refunds, disputes, saved methods, and the inbox of what providers tell us."""

from bursar.migrations.script import run

revision = "20261128_0012"
down_revision = "20261128_0010"


def upgrade() -> None:
    for script in (CUSTOMERS, METHODS, PAYMENTS, AUDITS, REFUNDS, DISPUTES, INBOX, TOTALS):
        run(script)


CUSTOMERS = """
create table provider_customers (
  user_id uuid not null,
  provider varchar not null,
  customer_id varchar not null,
  created_at timestamptz not null default now(),
  constraint pk_provider_customers primary key (user_id, provider),
  constraint uq_provider_customers_customer_id unique (provider, customer_id),
  constraint fk_provider_customers_user_id foreign key (user_id)
    references users (id) on delete cascade,
  constraint ck_provider_customers_customer_id check (length(customer_id) between 1 and 255)
);
"""

# A token of the provider's, never a number: whatever looks like one is refused here as well.
METHODS = """
create table payment_methods (
  id uuid not null default uuid7(),
  user_id uuid not null,
  provider varchar not null,
  token varchar not null,
  kind varchar not null default 'card',
  brand varchar,
  last_four varchar,
  exp_month smallint,
  exp_year smallint,
  is_default boolean not null default false,
  test_mode boolean not null default false,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_payment_methods primary key (id),
  constraint uq_payment_methods_token unique (provider, token),
  constraint fk_payment_methods_user_id foreign key (user_id)
    references users (id) on delete cascade,
  constraint ck_payment_methods_token check (
    length(token) between 1 and 255 and token !~ '[0-9][0-9 -]{10,}[0-9]'
  ),
  constraint ck_payment_methods_kind check (kind in ('card', 'paypal', 'bank_account')),
  constraint ck_payment_methods_brand check (brand ~ '^[a-z][a-z0-9_ -]{0,39}$'),
  constraint ck_payment_methods_last_four check (last_four ~ '^[0-9]{4}$'),
  constraint ck_payment_methods_expiry check (
    exp_month between 1 and 12 and exp_year between 2000 and 2100
  )
);
create index ix_payment_methods_user_id on payment_methods (user_id, created_at, id);
create unique index uq_payment_methods_default on payment_methods (user_id) where is_default;
"""

# What was asked for never changes; what has come of it only goes forward (payments/database.sql).
PAYMENTS = """
create table payments (
  id uuid not null default uuid7(),
  user_id uuid,
  amount numeric not null,
  currency varchar not null default 'USD',
  payment_method varchar not null,
  status varchar not null default 'pending',
  purpose varchar not null default 'top_up',
  service_id uuid,
  appointment_id uuid,
  training_id uuid,
  invoice_id uuid,
  description varchar,
  reference varchar,
  provider varchar not null,
  provider_state varchar not null default 'intended',
  test_mode boolean not null default false,
  stripe_payment_intent_id varchar,
  stripe_customer_id varchar,
  stripe_charge_id varchar,
  paypal_order_id varchar,
  paypal_payment_id varchar,
  paypal_payer_id varchar,
  method_id uuid,
  save_method boolean not null default false,
  automatic boolean not null default false,
  next_action jsonb,
  captured numeric not null default 0,
  refunded numeric not null default 0,
  refund_pending numeric not null default 0,
  disputed numeric not null default 0,
  fee numeric not null default 0,
  unclaimed boolean not null default false,
  failure_code varchar,
  failure_reason varchar,
  change_reason varchar,
  changed_by varchar,
  change_data jsonb,
  metadata jsonb,
  idempotency_key varchar,
  fingerprint bytea,
  attempts integer not null default 0,
  asked_at timestamptz,
  payment_date timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_payments primary key (id),
  constraint fk_payments_user_id foreign key (user_id) references users (id) on delete set null,
  constraint fk_payments_currency foreign key (currency) references assets (code),
  constraint fk_payments_method_id foreign key (method_id)
    references payment_methods (id) on delete set null,
  constraint uq_payments_stripe_payment_intent_id unique (stripe_payment_intent_id),
  constraint uq_payments_stripe_charge_id unique (stripe_charge_id),
  constraint uq_payments_paypal_order_id unique (paypal_order_id),
  constraint uq_payments_paypal_payment_id unique (paypal_payment_id),
  constraint ck_payments_amount check (amount > 0 and amount < 1e12),
  constraint ck_payments_currency check (currency ~ '^[A-Z]{3}$'),
  constraint ck_payments_payment_method check (
    payment_method in ('stripe', 'paypal', 'cash', 'check', 'bank_transfer')
  ),
  constraint ck_payments_status check (
    status in ('pending', 'completed', 'failed', 'partially_refunded', 'refunded')
  ),
  constraint ck_payments_status_is_amounts check (
    case when captured = 0 then status in ('pending', 'failed')
      when refunded = 0 then status = 'completed'
      when refunded < captured then status = 'partially_refunded'
      else status = 'refunded' end
  ),
  constraint ck_payments_amounts check (
    captured between 0 and amount and refunded >= 0 and refund_pending >= 0 and disputed >= 0
      and fee >= 0 and refunded + refund_pending + disputed <= captured
  ),
  constraint ck_payments_purpose check (purpose ~ '^[a-z][a-z_]{0,39}$'),
  constraint ck_payments_subject check (
    num_nonnulls(service_id, appointment_id, training_id, invoice_id)
      = case when purpose = 'top_up' then 0 else 1 end
  ),
  constraint ck_payments_provider check (
    provider = 'manual' and payment_method in ('cash', 'check', 'bank_transfer')
      or provider in (payment_method, 'demo') and payment_method in ('stripe', 'paypal')
  ),
  constraint ck_payments_provider_state check (
    provider_state in ('intended', 'unknown', 'waiting', 'done', 'gone')
  ),
  constraint ck_payments_lengths check (
    length(description) <= 500 and length(reference) <= 200
      and length(failure_reason) <= 1000 and length(change_reason) <= 500
      and length(idempotency_key) <= 255
  )
);
create unique index uq_payments_idempotency_key on payments (user_id, idempotency_key)
  where idempotency_key is not null;
create index ix_payments_user_id on payments (user_id, created_at, id);
create index ix_payments_created_at on payments (created_at, id);
create index ix_payments_status on payments (status, created_at, id);
create index ix_payments_payment_method on payments (payment_method, created_at, id);
create index ix_payments_due on payments (asked_at)
  where provider_state in ('intended', 'unknown');
create index ix_payments_reference on payments (reference)
  where reference is not null;
create index ix_payments_service_id on payments (service_id) where service_id is not null;
create index ix_payments_appointment_id on payments (appointment_id)
  where appointment_id is not null;
create index ix_payments_training_id on payments (training_id) where training_id is not null;
create index ix_payments_invoice_id on payments (invoice_id) where invoice_id is not null;
"""

AUDITS = """
create table payment_audits (
  id uuid not null default uuid7(),
  payment_id uuid not null,
  old_status varchar,
  new_status varchar not null,
  change_reason varchar,
  changed_by varchar not null,
  captured numeric not null,
  refunded numeric not null,
  provider_data jsonb,
  created_at timestamptz not null default clock_timestamp(),
  constraint pk_payment_audits primary key (id),
  constraint fk_payment_audits_payment_id foreign key (payment_id) references payments (id)
);
create index ix_payment_audits_payment_id on payment_audits (payment_id, created_at, id);
"""

REFUNDS = """
create table refunds (
  id uuid not null default uuid7(),
  payment_id uuid not null,
  amount numeric not null,
  destination varchar not null default 'provider',
  status varchar not null default 'pending',
  provider_state varchar not null default 'intended',
  provider_refund_id varchar,
  reason varchar,
  requested_by varchar not null,
  failure_reason varchar,
  idempotency_key varchar,
  fingerprint bytea,
  attempts integer not null default 0,
  asked_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  settled_at timestamptz,
  constraint pk_refunds primary key (id),
  constraint fk_refunds_payment_id foreign key (payment_id) references payments (id),
  constraint uq_refunds_provider_refund_id unique (provider_refund_id),
  constraint uq_refunds_idempotency_key unique (payment_id, idempotency_key),
  constraint ck_refunds_amount check (amount > 0),
  constraint ck_refunds_destination check (destination in ('provider', 'wallet')),
  constraint ck_refunds_status check (status in ('pending', 'completed', 'failed', 'returned')),
  constraint ck_refunds_provider_state check (
    provider_state in ('intended', 'unknown', 'waiting', 'done', 'gone')
  ),
  constraint ck_refunds_settled check ((settled_at is null) = (status = 'pending')),
  constraint ck_refunds_lengths check (
    length(reason) <= 500 and length(failure_reason) <= 1000 and length(idempotency_key) <= 255
  )
);
create index ix_refunds_payment_id on refunds (payment_id, created_at, id);
create index ix_refunds_due on refunds (asked_at) where provider_state in ('intended', 'unknown');
create index ix_refunds_created_at on refunds (created_at, id);
"""

# `counted` is what the payment had left when the dispute came: a fact of the provider's cannot be
# refused, also where some of the money has gone back already.
DISPUTES = """
create table disputes (
  id uuid not null default uuid7(),
  payment_id uuid not null,
  provider_dispute_id varchar not null,
  amount numeric not null,
  counted numeric not null default 0,
  held numeric not null default 0,
  status varchar not null default 'open',
  reason varchar,
  opened_at timestamptz not null default now(),
  due_at timestamptz,
  closed_at timestamptz,
  constraint pk_disputes primary key (id),
  constraint fk_disputes_payment_id foreign key (payment_id) references payments (id),
  constraint uq_disputes_provider_dispute_id unique (provider_dispute_id),
  constraint ck_disputes_amounts check (amount > 0 and counted >= 0 and held >= 0),
  constraint ck_disputes_status check (status in ('open', 'won', 'lost')),
  constraint ck_disputes_closed check ((closed_at is null) = (status = 'open')),
  constraint ck_disputes_reason check (length(reason) <= 500)
);
create index ix_disputes_payment_id on disputes (payment_id, opened_at, id);
create index ix_disputes_opened_at on disputes (opened_at, id);
"""

INBOX = """
create table payment_events (
  id uuid not null default uuid7(),
  provider varchar not null,
  event_id varchar not null,
  type varchar not null,
  payload text not null,
  headers jsonb not null default '{}',
  status varchar not null default 'waiting',
  attempts integer not null default 0,
  outcome varchar,
  payment_id uuid,
  happened_at timestamptz,
  received_at timestamptz not null default now(),
  next_try_at timestamptz,
  settled_at timestamptz,
  constraint pk_payment_events primary key (id),
  constraint uq_payment_events_event_id unique (provider, event_id),
  constraint fk_payment_events_payment_id foreign key (payment_id) references payments (id),
  constraint ck_payment_events_status check (
    status in ('waiting', 'parked', 'done', 'ignored', 'failed')
  ),
  constraint ck_payment_events_lengths check (
    length(event_id) between 1 and 255 and length(type) between 1 and 255
      and length(outcome) <= 1000
  )
);
create index ix_payment_events_received_at on payment_events (received_at, id);
create index ix_payment_events_status on payment_events (status, received_at, id);
create index ix_payment_events_due on payment_events (next_try_at)
  where status in ('waiting', 'parked');
create index ix_payment_events_payment_id on payment_events (payment_id)
  where payment_id is not null;
"""

# Kept by a trigger, so that the summary of five million payments is a look at a few rows.
TOTALS = """
create table payment_totals (
  payment_method varchar not null,
  status varchar not null,
  currency varchar not null,
  shard smallint not null,
  payments bigint not null default 0,
  amount numeric not null default 0,
  constraint pk_payment_totals primary key (payment_method, status, currency, shard)
) with (fillfactor = 50);
"""
