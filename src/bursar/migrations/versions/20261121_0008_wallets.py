"""The ledger: assets, accounts, operations, transfers, holds."""

from bursar.migrations.script import run

revision = "20261121_0008"
down_revision = "20261121_0007"


def upgrade() -> None:
    for script in (ASSETS, ACCOUNTS, OPERATIONS, HOLDS, TRANSFERS, LEG, ADJUSTMENTS, FOLLOWERS):
        run(script)


ASSETS = """
create table assets (
  code varchar not null,
  scale smallint not null,
  kind varchar not null default 'currency',
  created_at timestamptz not null default now(),
  constraint pk_assets primary key (code),
  constraint ck_assets_code check (code ~ '^[A-Z][A-Z0-9]{2,11}$'),
  constraint ck_assets_scale check (scale between 0 and 12),
  constraint ck_assets_kind check (kind in ('currency', 'points'))
);
"""

# Somebody's wallet, or one of the company's own accounts, which come in sixteen shards: a row that
# every charge of every customer changes would put all of them into one queue. The owner may go
# (with an empty wallet), the account never does.
ACCOUNTS = """
create table accounts (
  id uuid not null default uuid7(),
  asset varchar not null,
  owner_id uuid,
  purpose varchar not null default 'wallet',
  shard smallint not null default 0,
  posted bigint not null default 0,
  held bigint not null default 0,
  spent bigint not null default 0,
  overdraft bigint default 0,
  seq bigint not null default 0,
  moved_at timestamptz,
  status varchar not null default 'open',
  created_at timestamptz not null default now(),
  constraint pk_accounts primary key (id),
  constraint uq_accounts_id_asset unique (id, asset),
  constraint fk_accounts_asset foreign key (asset) references assets (code),
  constraint fk_accounts_owner_id foreign key (owner_id) references users (id) on delete set null,
  constraint ck_accounts_purpose check (purpose ~ '^[a-z][a-z0-9_.]{0,39}$'),
  constraint ck_accounts_owned check (owner_id is null or (purpose = 'wallet' and shard = 0)),
  constraint ck_accounts_shard check (shard between 0 and 15),
  constraint ck_accounts_status check (status in ('open', 'frozen', 'closed')),
  constraint ck_accounts_counts check (held >= 0 and spent >= 0 and seq >= 0 and overdraft >= 0),
  constraint ck_accounts_within_limit check (posted::numeric - held >= -overdraft::numeric),
  constraint ck_accounts_closed check (status <> 'closed' or (posted = 0 and held = 0))
) with (fillfactor = 70);
create unique index uq_accounts_owner_id on accounts (owner_id, asset) where owner_id is not null;
create unique index uq_accounts_purpose on accounts (purpose, asset, shard)
  where purpose <> 'wallet';
"""

# What was asked, by whom, and what came of it: for ever, so that a repetition changes nothing.
OPERATIONS = """
create table operations (
  id uuid not null,
  scope varchar collate "C" not null,
  key varchar collate "C" not null,
  fingerprint bytea not null,
  outcome jsonb not null,
  actor varchar not null,
  request_id varchar,
  created_at timestamptz not null,
  constraint pk_operations primary key (id),
  constraint uq_operations_scope_key unique (scope, key),
  constraint ck_operations_lengths check (
    length(scope) between 1 and 100 and length(key) between 1 and 300
      and length(actor) <= 200 and length(request_id) <= 300
  ),
  constraint ck_operations_fingerprint check (octet_length(fingerprint) = 32)
);
"""

HOLDS = """
create table holds (
  id uuid not null,
  operation_id uuid not null,
  account_id uuid not null,
  asset varchar not null,
  amount bigint not null,
  captured bigint not null default 0,
  state varchar not null default 'open',
  kind varchar not null,
  category varchar,
  metadata jsonb,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  closed_at timestamptz,
  closed_by uuid,
  constraint pk_holds primary key (id),
  constraint fk_holds_operation_id foreign key (operation_id) references operations (id),
  constraint fk_holds_closed_by foreign key (closed_by) references operations (id),
  constraint fk_holds_account_id_asset foreign key (account_id, asset)
    references accounts (id, asset),
  constraint ck_holds_amount check (amount > 0 and captured between 0 and amount),
  constraint ck_holds_kind check (kind ~ '^[a-z][a-z0-9_]{0,39}$' and length(category) <= 100),
  constraint ck_holds_state check (state in ('open', 'captured', 'voided', 'expired')),
  constraint ck_holds_closed check (
    (state = 'open') = (closed_at is null) and (state = 'open') = (closed_by is null)
  )
);
create index ix_holds_open on holds (account_id) include (amount, captured) where state = 'open';
create index ix_holds_expires_at on holds (expires_at) where state = 'open';
create index ix_holds_account_id on holds (account_id, created_at, id);
"""

# One row is one debit and one credit. `*_after` is the balance of that side after this row, so each
# side of each account is a chain: number after number, balance after balance.
TRANSFERS = """
create table transfers (
  id uuid not null,
  operation_id uuid not null,
  asset varchar not null,
  amount bigint not null,
  debit_id uuid not null,
  debit_seq bigint not null,
  debit_after bigint not null,
  credit_id uuid not null,
  credit_seq bigint not null,
  credit_after bigint not null,
  kind varchar not null,
  category varchar,
  reverses uuid,
  hold_id uuid,
  posted_at timestamptz not null,
  effective_at timestamptz,
  metadata jsonb,
  constraint pk_transfers primary key (id),
  constraint uq_transfers_debit_id_debit_seq unique (debit_id, debit_seq),
  constraint uq_transfers_credit_id_credit_seq unique (credit_id, credit_seq),
  constraint fk_transfers_operation_id foreign key (operation_id) references operations (id),
  constraint fk_transfers_reverses foreign key (reverses) references transfers (id),
  constraint fk_transfers_hold_id foreign key (hold_id) references holds (id),
  constraint fk_transfers_debit_id_asset foreign key (debit_id, asset)
    references accounts (id, asset),
  constraint fk_transfers_credit_id_asset foreign key (credit_id, asset)
    references accounts (id, asset),
  constraint ck_transfers_amount check (amount > 0),
  constraint ck_transfers_sides check (debit_id <> credit_id),
  constraint ck_transfers_kind check (
    kind ~ '^[a-z][a-z0-9_]{0,39}$' and length(category) <= 100
  ),
  constraint ck_transfers_metadata check (octet_length(metadata::text) <= 4096)
);
create index ix_transfers_reverses on transfers (reverses) where reverses is not null;
create index ix_transfers_hold_id on transfers (hold_id) where hold_id is not null;
create index ix_transfers_sent on transfers (debit_id, posted_at) include (amount)
  where kind = 'transfer';
create index ix_transfers_debit_effective on transfers (debit_id, effective_at)
  include (debit_seq, amount)
  where effective_at is not null;
create index ix_transfers_credit_effective on transfers (credit_id, effective_at)
  include (credit_seq, amount)
  where effective_at is not null;
create index ix_transfers_posted_at on transfers using brin (posted_at);
"""

# One leg of what somebody asks for, with its names resolved; only functions pass it around.
LEG = """
create type ledger_leg as (
  op integer, leg integer, last boolean, scope text, key text,
  actor text, request_id text, fingerprint bytea,
  verb text, debit_id uuid, credit_id uuid, asset text, amount bigint, kind text, category text,
  metadata jsonb, effective_at timestamptz, hold_id uuid, reverses uuid, seconds integer,
  final boolean, at_most_today bigint, problem text
);
"""

ADJUSTMENTS = """
create table adjustments (
  id uuid not null default uuid7(),
  user_id uuid,
  asset varchar not null,
  amount bigint not null,
  reason varchar not null,
  state varchar not null default 'proposed',
  proposed_by uuid not null,
  decided_by uuid,
  decided_at timestamptz,
  operation_id uuid,
  created_at timestamptz not null default now(),
  constraint pk_adjustments primary key (id),
  constraint fk_adjustments_user_id foreign key (user_id) references users (id) on delete set null,
  constraint fk_adjustments_asset foreign key (asset) references assets (code),
  constraint fk_adjustments_operation_id foreign key (operation_id) references operations (id),
  constraint ck_adjustments_amount check (amount <> 0),
  constraint ck_adjustments_reason check (length(reason) between 1 and 500),
  constraint ck_adjustments_state check (state in ('proposed', 'posted', 'rejected')),
  constraint ck_adjustments_decided check ((state = 'proposed') = (decided_at is null)),
  constraint ck_adjustments_posted check ((state = 'posted') = (operation_id is not null)),
  constraint ck_adjustments_two_people check (decided_by <> proposed_by)
);
create index ix_adjustments_state on adjustments (state, created_at, id);
create index ix_adjustments_user_id on adjustments (user_id, created_at, id);
"""

# Numbers of an account have no gaps and are committed in order, so a position misses nothing.
FOLLOWERS = """
create table account_positions (
  follower varchar not null,
  account_id uuid not null,
  seq bigint not null,
  constraint pk_account_positions primary key (follower, account_id),
  constraint fk_account_positions_account_id foreign key (account_id) references accounts (id)
) with (fillfactor = 70);
create table wallet_days (
  account_id uuid not null,
  day date not null,
  category varchar not null,
  spent numeric not null default 0,
  transfers bigint not null default 0,
  constraint pk_wallet_days primary key (account_id, day, category),
  constraint fk_wallet_days_account_id foreign key (account_id) references accounts (id)
);
"""
