"""Booking: providers and their hours, services, appointments, trainings, and who is enrolled."""

from bursar.migrations.script import run

revision = "20261128_0013"
down_revision = "20261128_0012"


def upgrade() -> None:
    run("create extension if not exists btree_gist")  # trusted: the database's owner may
    for script in (PROVIDERS, SERVICES, HOURS, APPOINTMENTS, TRAININGS, ENROLMENTS, TIMES, PAID):
        run(script)


PROVIDERS = """
create table providers (
  id uuid not null default uuid7(),
  name varchar not null,
  email varchar,
  time_zone varchar not null default 'UTC',
  active boolean not null default true,
  searched text not null generated always as (
    lower(' ' || name || ' ' || coalesce(email, ''))
  ) stored,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_providers primary key (id),
  constraint ck_providers_name check (length(name) between 1 and 200),
  constraint ck_providers_email check (length(email) between 3 and 254),
  constraint ck_providers_time_zone check (length(time_zone) between 1 and 100)
);
create index ix_providers_name on providers (name, id);
create index ix_providers_created_at on providers (created_at, id);
create index ix_providers_searched on providers using gin (searched gin_trgm_ops);
"""

SERVICES = """
create table services (
  id uuid not null default uuid7(),
  name varchar not null,
  description varchar not null default '',
  price numeric not null,
  currency varchar not null default 'USD',
  duration_minutes integer not null,
  buffer_before_minutes integer not null default 0,
  buffer_after_minutes integer not null default 0,
  payment_in_advance boolean not null default false,
  active boolean not null default true,
  searched text not null generated always as (lower(' ' || name || ' ' || description)) stored,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_services primary key (id),
  constraint ck_services_name check (length(name) between 1 and 200),
  constraint ck_services_description check (length(description) <= 5000),
  constraint ck_services_price check (price between 0 and 1000000000 and price = round(price, 4)),
  constraint ck_services_currency check (currency ~ '^[A-Z]{3}$'),
  constraint ck_services_duration_minutes check (duration_minutes between 1 and 1440),
  constraint ck_services_buffers check (
    buffer_before_minutes between 0 and 1440 and buffer_after_minutes between 0 and 1440
  )
);
create index ix_services_name on services (name, id);
create index ix_services_price on services (price, id);
create index ix_services_created_at on services (created_at, id);
create index ix_services_searched on services using gin (searched gin_trgm_ops);
create table service_providers (
  service_id uuid not null,
  provider_id uuid not null,
  constraint pk_service_providers primary key (service_id, provider_id),
  constraint fk_service_providers_service_id foreign key (service_id)
    references services (id) on delete cascade,
  constraint fk_service_providers_provider_id foreign key (provider_id) references providers (id)
);
create index ix_service_providers_provider_id on service_providers (provider_id);
"""

# Minutes since midnight by the provider's clock; a day ends at 1440, which no clock shows.
HOURS = """
create table working_hours (
  id uuid not null default uuid7(),
  provider_id uuid not null,
  weekday integer not null,
  starts_minute integer not null,
  ends_minute integer not null,
  constraint pk_working_hours primary key (id),
  constraint fk_working_hours_provider_id foreign key (provider_id)
    references providers (id) on delete cascade,
  constraint ck_working_hours_weekday check (weekday between 1 and 7),
  constraint ck_working_hours_time check (
    starts_minute >= 0 and starts_minute < ends_minute and ends_minute <= 1440
  ),
  constraint ex_working_hours_overlap exclude using gist (
    provider_id with =, weekday with =, int4range(starts_minute, ends_minute) with &&
  )
);
create table availability_exceptions (
  id uuid not null default uuid7(),
  provider_id uuid not null,
  kind varchar not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  reason varchar,
  created_at timestamptz not null default now(),
  constraint pk_availability_exceptions primary key (id),
  constraint fk_availability_exceptions_provider_id foreign key (provider_id)
    references providers (id) on delete cascade,
  constraint ck_availability_exceptions_kind check (kind in ('closed', 'extra')),
  constraint ck_availability_exceptions_time check (
    starts_at < ends_at
      and ends_at - starts_at <= case kind when 'extra' then interval '31 days'
        else interval '366 days' end
  ),
  constraint ck_availability_exceptions_reason check (length(reason) <= 500)
);
create index ix_availability_exceptions_during on availability_exceptions
  using gist (provider_id, tstzrange(starts_at, ends_at));
create index ix_availability_exceptions_starts_at
  on availability_exceptions (provider_id, starts_at, id);
"""

# What was agreed is copied from the service: its price may change, theirs does not.
APPOINTMENTS = """
create table appointments (
  id uuid not null default uuid7(),
  service_id uuid not null,
  provider_id uuid not null,
  user_id uuid,
  service_name varchar not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  buffer_before_minutes integer not null,
  buffer_after_minutes integer not null,
  price numeric not null,
  currency varchar not null,
  status varchar not null default 'booked',
  note varchar,
  pay_by timestamptz,
  payment_status varchar not null default 'unpaid',
  payment_id uuid,
  refund_percent integer,
  refund_asked_at timestamptz,
  cancelled_at timestamptz,
  cancel_reason varchar,
  letter varchar,
  reminded_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_appointments primary key (id),
  constraint fk_appointments_service_id foreign key (service_id) references services (id),
  constraint fk_appointments_provider_id foreign key (provider_id) references providers (id),
  constraint fk_appointments_user_id foreign key (user_id)
    references users (id) on delete set null,
  constraint ck_appointments_time check (starts_at < ends_at),
  constraint ck_appointments_status check (
    status in ('booked', 'confirmed', 'completed', 'cancelled', 'no_show')
  ),
  constraint ck_appointments_cancelled check ((status = 'cancelled') = (cancelled_at is not null)),
  constraint ck_appointments_payment_status check (
    payment_status in ('unpaid', 'paid', 'partially_refunded', 'refunded')
  ),
  constraint ck_appointments_payment_id check (payment_status = 'unpaid' or payment_id is not null),
  constraint ck_appointments_refund_percent check (refund_percent between 0 and 100),
  constraint ck_appointments_note check (length(note) <= 1000),
  constraint ck_appointments_cancel_reason check (length(cancel_reason) <= 500)
);
create index ix_appointments_user_id on appointments (user_id, starts_at, id);
create index ix_appointments_provider_id on appointments (provider_id, starts_at, id);
create index ix_appointments_service_id on appointments (service_id);
create index ix_appointments_starts_at on appointments (starts_at, id);
create index ix_appointments_created_at on appointments (created_at, id);
create index ix_appointments_payment_id on appointments (payment_id) where payment_id is not null;
create index ix_appointments_letter on appointments (updated_at) where letter is not null;
create index ix_appointments_pay_by on appointments (pay_by)
  where pay_by is not null and status in ('booked', 'confirmed') and payment_status = 'unpaid';
create index ix_appointments_unreminded on appointments (starts_at)
  where reminded_at is null and status in ('booked', 'confirmed');
create index ix_appointments_refund on appointments (updated_at)
  where refund_percent > 0 and refund_asked_at is null
    and payment_status in ('paid', 'partially_refunded');
"""

TRAININGS = """
create table trainings (
  id uuid not null default uuid7(),
  title varchar not null,
  description varchar not null default '',
  provider_id uuid not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  enrol_until timestamptz not null,
  capacity integer not null,
  enrolled integer not null default 0,
  waiting integer not null default 0,
  price numeric not null,
  currency varchar not null default 'USD',
  payment_in_advance boolean not null default false,
  status varchar not null default 'scheduled',
  cancel_reason varchar,
  searched text not null generated always as (lower(' ' || title || ' ' || description)) stored,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_trainings primary key (id),
  constraint fk_trainings_provider_id foreign key (provider_id) references providers (id),
  constraint ck_trainings_title check (length(title) between 1 and 200),
  constraint ck_trainings_description check (length(description) <= 5000),
  constraint ck_trainings_time check (
    starts_at < ends_at and ends_at - starts_at <= interval '31 days' and enrol_until <= starts_at
  ),
  constraint ck_trainings_capacity check (capacity between 1 and 10000),
  constraint ck_trainings_enrolled check (enrolled between 0 and capacity),
  constraint ck_trainings_price check (price between 0 and 1000000000 and price = round(price, 4)),
  constraint ck_trainings_currency check (currency ~ '^[A-Z]{3}$'),
  constraint ck_trainings_status check (status in ('scheduled', 'cancelled', 'completed')),
  constraint ck_trainings_cancel_reason check (length(cancel_reason) <= 500)
);
create index ix_trainings_starts_at on trainings (starts_at, id);
create index ix_trainings_title on trainings (title, id);
create index ix_trainings_created_at on trainings (created_at, id);
create index ix_trainings_provider_id on trainings (provider_id, starts_at);
create index ix_trainings_searched on trainings using gin (searched gin_trgm_ops);
create index ix_trainings_over on trainings (ends_at) where status = 'scheduled';
"""

ENROLMENTS = """
create table training_enrolments (
  id uuid not null default uuid7(),
  training_id uuid not null,
  user_id uuid,
  number bigint not null generated always as identity,
  may_wait boolean not null default false,
  status varchar not null default 'enrolled',
  price numeric not null,
  currency varchar not null,
  pay_by timestamptz,
  payment_status varchar not null default 'unpaid',
  payment_id uuid,
  refund_percent integer,
  refund_asked_at timestamptz,
  cancelled_at timestamptz,
  cancel_reason varchar,
  letter varchar,
  reminded_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_training_enrolments primary key (id),
  constraint fk_training_enrolments_training_id foreign key (training_id)
    references trainings (id),
  constraint fk_training_enrolments_user_id foreign key (user_id)
    references users (id) on delete set null,
  constraint ck_training_enrolments_status check (status in ('enrolled', 'waiting', 'cancelled')),
  constraint ck_training_enrolments_cancelled check (
    (status = 'cancelled') = (cancelled_at is not null)
  ),
  constraint ck_training_enrolments_payment_status check (
    payment_status in ('unpaid', 'paid', 'partially_refunded', 'refunded')
  ),
  constraint ck_training_enrolments_payment_id check (
    payment_status = 'unpaid' or payment_id is not null
  ),
  constraint ck_training_enrolments_refund_percent check (refund_percent between 0 and 100),
  constraint ck_training_enrolments_cancel_reason check (length(cancel_reason) <= 500)
);
create unique index uq_training_enrolments_user_id on training_enrolments (training_id, user_id)
  where status in ('enrolled', 'waiting');
create index ix_training_enrolments_number on training_enrolments (training_id, status, number);
create index ix_training_enrolments_created_at on training_enrolments (created_at, id);
create index ix_training_enrolments_user_id on training_enrolments (user_id, created_at, id);
create index ix_training_enrolments_payment_id on training_enrolments (payment_id)
  where payment_id is not null;
create index ix_training_enrolments_letter on training_enrolments (updated_at)
  where letter is not null;
create index ix_training_enrolments_pay_by on training_enrolments (pay_by)
  where pay_by is not null and status = 'enrolled' and payment_status = 'unpaid';
create index ix_training_enrolments_refund on training_enrolments (updated_at)
  where refund_percent > 0 and refund_asked_at is null
    and payment_status in ('paid', 'partially_refunded');
"""

# Where both kinds of a provider's time stand side by side, so that one constraint holds for both.
TIMES = """
create table provider_times (
  id uuid not null generated always as (coalesce(appointment_id, training_id)) stored,
  provider_id uuid not null,
  appointment_id uuid,
  training_id uuid,
  during tstzrange not null,
  constraint pk_provider_times primary key (id),
  constraint fk_provider_times_provider_id foreign key (provider_id) references providers (id),
  constraint fk_provider_times_appointment_id foreign key (appointment_id)
    references appointments (id) on delete cascade,
  constraint fk_provider_times_training_id foreign key (training_id)
    references trainings (id) on delete cascade,
  constraint ck_provider_times_one check (num_nonnulls(appointment_id, training_id) = 1),
  constraint ex_provider_times_during exclude using gist (provider_id with =, during with &&)
);
create index ix_provider_times_appointment_id on provider_times (appointment_id);
create index ix_provider_times_training_id on provider_times (training_id);
"""

# Payments stand below and know only that there are such columns.
PAID = """
alter table payments
  add constraint fk_payments_service_id foreign key (service_id) references services (id),
  add constraint fk_payments_appointment_id foreign key (appointment_id)
    references appointments (id),
  add constraint fk_payments_training_id foreign key (training_id) references trainings (id);
alter table appointments add constraint fk_appointments_payment_id
  foreign key (payment_id) references payments (id);
alter table training_enrolments add constraint fk_training_enrolments_payment_id
  foreign key (payment_id) references payments (id);
"""
