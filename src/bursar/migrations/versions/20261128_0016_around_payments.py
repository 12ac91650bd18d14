"""What stands around payments: receipts, automatic top-ups, reconciliation, bank statements."""

from bursar.migrations.script import run

revision = "20261128_0016"
down_revision = "20261128_0015"


def upgrade() -> None:
    for script in (RECEIPTS, METHODS, TOP_UPS, BOOKINGS, DIFFERENCES, STATEMENTS):
        run(script)


# Numbers without a gap in each year; what was paid in test mode has a series of its own.
RECEIPTS = """
create table receipts (
  payment_id uuid not null,
  series varchar not null,
  year smallint not null,
  number integer not null,
  company varchar not null,
  support_email varchar not null,
  issued_at timestamptz not null default now(),
  constraint pk_receipts primary key (payment_id),
  constraint fk_receipts_payment_id foreign key (payment_id) references payments (id),
  constraint uq_receipts_number unique (series, year, number),
  constraint ck_receipts_series check (series in ('live', 'test')),
  constraint ck_receipts_number check (number > 0 and year between 2000 and 9999)
);
create table receipt_numbers (
  series varchar not null,
  year smallint not null,
  last integer not null default 0,
  constraint pk_receipt_numbers primary key (series, year)
);
"""

# A token that is to be forgotten at its provider too outlives its row here until that is done.
METHODS = """
create table forgotten_methods (
  id uuid not null default uuid7(),
  provider varchar not null,
  token varchar not null,
  attempts integer not null default 0,
  forgotten_at timestamptz not null default now(),
  constraint pk_forgotten_methods primary key (id)
);
create table method_notices (
  method_id uuid not null,
  exp_year smallint not null,
  exp_month smallint not null,
  told_at timestamptz not null default now(),
  constraint pk_method_notices primary key (method_id, exp_year, exp_month),
  constraint fk_method_notices_method_id foreign key (method_id)
    references payment_methods (id) on delete cascade
);
"""

# Never two at once: the index holds it, whoever writes.
TOP_UPS = """
create table auto_topups (
  user_id uuid not null,
  threshold numeric not null,
  amount numeric not null,
  currency varchar not null default 'USD',
  method_id uuid,
  at_most_per_day smallint not null default 1,
  enabled boolean not null default true,
  declines smallint not null default 0,
  retry_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_auto_topups primary key (user_id),
  constraint fk_auto_topups_user_id foreign key (user_id)
    references users (id) on delete cascade,
  constraint fk_auto_topups_currency foreign key (currency) references assets (code),
  constraint fk_auto_topups_method_id foreign key (method_id)
    references payment_methods (id) on delete set null,
  constraint ck_auto_topups_amounts check (
    threshold >= 0 and threshold < 1e12 and amount > 0 and amount < 1e12
  ),
  constraint ck_auto_topups_at_most_per_day check (at_most_per_day between 1 and 10),
  constraint ck_auto_topups_declines check (declines between 0 and 3)
);
create index ix_auto_topups_method_id on auto_topups (method_id) where method_id is not null;
create unique index uq_payments_automatic on payments (user_id)
  where automatic and status = 'pending';
create index ix_payments_automatic on payments (user_id, created_at) where automatic;
"""

# The provider's own books as it last told them; what is read again replaces what was read before.
BOOKINGS = """
create table provider_bookings (
  id uuid not null default uuid7(),
  read_id uuid not null,
  provider varchar not null,
  object_id varchar not null,
  what varchar not null,
  amount numeric not null,
  currency varchar not null,
  fee numeric not null,
  booked_at timestamptz not null,
  reference jsonb not null default '{}',
  payment_id uuid,
  constraint pk_provider_bookings primary key (id),
  constraint fk_provider_bookings_payment_id foreign key (payment_id) references payments (id)
);
create index ix_provider_bookings_object_id on provider_bookings (provider, object_id);
create index ix_provider_bookings_booked_at on provider_bookings (provider, booked_at);
create index ix_provider_bookings_payment_id on provider_bookings (payment_id)
  where payment_id is not null;
"""

DIFFERENCES = """
create table reconciliations (
  id uuid not null default uuid7(),
  since timestamptz not null,
  until timestamptz not null,
  bookings bigint not null default 0,
  differences bigint not null default 0,
  started_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint pk_reconciliations primary key (id),
  constraint ck_reconciliations_period check (since < until)
);
create index ix_reconciliations_started_at on reconciliations (started_at, id);
create table reconciliation_differences (
  id uuid not null default uuid7(),
  kind varchar not null,
  provider varchar not null,
  subject varchar not null,
  payment_id uuid,
  ours numeric,
  our_currency varchar,
  theirs numeric,
  their_currency varchar,
  happened_at timestamptz not null,
  status varchar not null default 'open',
  note varchar,
  closed_by varchar,
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  seen_by uuid not null,
  settled_at timestamptz,
  version integer not null default 1,
  updated_at timestamptz not null default now(),
  constraint pk_reconciliation_differences primary key (id),
  constraint fk_reconciliation_differences_payment_id foreign key (payment_id)
    references payments (id),
  constraint fk_reconciliation_differences_seen_by foreign key (seen_by)
    references reconciliations (id),
  constraint uq_reconciliation_differences_subject unique (kind, provider, subject),
  constraint ck_reconciliation_differences_kind check (kind in (
    'missing_here', 'missing_there', 'other_amount', 'other_currency', 'other_fee',
    'ledger_without_payment', 'payment_without_ledger', 'ledger_differs'
  )),
  constraint ck_reconciliation_differences_status check (status in ('open', 'gone', 'closed')),
  constraint ck_reconciliation_differences_closed check (
    (status = 'closed') = (note is not null and closed_by is not null)
      and (status = 'open') = (settled_at is null)
  ),
  constraint ck_reconciliation_differences_note check (length(note) <= 1000)
);
create index ix_reconciliation_differences_status
  on reconciliation_differences (status, happened_at, id);
create index ix_reconciliation_differences_happened_at
  on reconciliation_differences (happened_at, id);
"""

STATEMENTS = """
create table bank_statements (
  id uuid not null default uuid7(),
  sha256 bytea not null,
  file_name varchar not null,
  format varchar not null,
  lines integer not null,
  new_lines integer not null,
  imported_by varchar not null,
  imported_at timestamptz not null default now(),
  constraint pk_bank_statements primary key (id),
  constraint uq_bank_statements_sha256 unique (sha256),
  constraint ck_bank_statements_format check (format in ('csv', 'camt.053')),
  constraint ck_bank_statements_lines check (lines >= new_lines and new_lines >= 0)
);
create table bank_lines (
  id uuid not null default uuid7(),
  statement_id uuid not null,
  hash bytea not null,
  account varchar,
  booked_on date not null,
  amount numeric not null,
  currency varchar not null,
  name varchar,
  reference varchar,
  bank_reference varchar,
  status varchar not null default 'unmatched',
  payment_id uuid,
  decided_by varchar,
  decided_at timestamptz,
  created_at timestamptz not null default now(),
  constraint pk_bank_lines primary key (id),
  constraint fk_bank_lines_statement_id foreign key (statement_id)
    references bank_statements (id),
  constraint fk_bank_lines_payment_id foreign key (payment_id) references payments (id),
  constraint uq_bank_lines_hash unique (hash),
  constraint uq_bank_lines_payment_id unique (payment_id),
  constraint ck_bank_lines_amount check (amount <> 0 and abs(amount) < 1e12),
  constraint ck_bank_lines_currency check (currency ~ '^[A-Z]{3}$'),
  constraint ck_bank_lines_status check (status in ('unmatched', 'matched', 'ignored')),
  constraint ck_bank_lines_matched check (
    (status = 'matched') = (payment_id is not null)
      and (status = 'unmatched') = (decided_by is null)
      and (decided_by is null) = (decided_at is null)
  ),
  constraint ck_bank_lines_lengths check (
    length(account) <= 100 and length(name) <= 200 and length(reference) <= 1000
      and length(bank_reference) <= 200
  )
);
create index ix_bank_lines_status on bank_lines (status, booked_on, id);
create index ix_bank_lines_booked_on on bank_lines (booked_on, id);
create index ix_bank_lines_statement_id on bank_lines (statement_id);
create table bank_matches (
  id uuid not null default uuid7(),
  line_id uuid not null,
  payment_id uuid not null,
  score smallint not null,
  reason varchar not null,
  status varchar not null default 'proposed',
  decided_by varchar,
  decided_at timestamptz,
  created_at timestamptz not null default now(),
  constraint pk_bank_matches primary key (id),
  constraint fk_bank_matches_line_id foreign key (line_id) references bank_lines (id),
  constraint fk_bank_matches_payment_id foreign key (payment_id) references payments (id),
  constraint uq_bank_matches_line_id unique (line_id, payment_id),
  constraint ck_bank_matches_score check (score between 1 and 100),
  constraint ck_bank_matches_status check (status in ('proposed', 'accepted', 'rejected')),
  constraint ck_bank_matches_decided check (
    (status = 'proposed') = (decided_by is null) and (decided_by is null) = (decided_at is null)
  )
);
create index ix_bank_matches_payment_id on bank_matches (payment_id);
create index ix_bank_matches_score on bank_matches (status, score, id);
"""
