"""Points: rules and tiers that staff set, and how far points have been given."""

from bursar.migrations.script import run

revision = "20261121_0009"
down_revision = "20261121_0008"


def upgrade() -> None:
    for script in (RULES, TIERS, DEFAULTS, STANDINGS, RATES, DAYS):
        run(script)


RULES = """
create table reward_rules (
  id uuid not null default uuid7(),
  name varchar not null,
  category varchar,
  points_per_unit numeric not null,
  active boolean not null default true,
  starts_at timestamptz,
  ends_at timestamptz,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_reward_rules primary key (id),
  constraint ck_reward_rules_name check (length(name) between 1 and 100),
  constraint ck_reward_rules_category check (length(category) between 1 and 100),
  constraint ck_reward_rules_points_per_unit check (
    points_per_unit > 0 and points_per_unit <= 1000
      and points_per_unit = round(points_per_unit, 4)
  ),
  constraint ck_reward_rules_time check (starts_at < ends_at)
);
create index ix_reward_rules_created_at on reward_rules (created_at, id);
"""

TIERS = """
create table reward_tiers (
  id uuid not null default uuid7(),
  name varchar not null,
  from_points bigint not null,
  multiplier numeric not null,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint pk_reward_tiers primary key (id),
  constraint uq_reward_tiers_name unique (name),
  constraint uq_reward_tiers_from_points unique (from_points),
  constraint ck_reward_tiers_name check (length(name) between 1 and 100),
  constraint ck_reward_tiers_from_points check (from_points >= 0),
  constraint ck_reward_tiers_multiplier check (
    multiplier > 0 and multiplier <= 10 and multiplier = round(multiplier, 4)
  )
);
"""

DEFAULTS = """
insert into reward_tiers (name, from_points, multiplier)
  values ('bronze', 0, 1), ('silver', 1000, 1.25), ('gold', 5000, 1.5);
"""

# What is less than a point, and waits until it is one. Below zero: points that are owed, because
# their charge was reversed when they were spent already.
STANDINGS = """
create table reward_standings (
  account_id uuid not null,
  carried numeric not null default 0,
  constraint pk_reward_standings primary key (account_id),
  constraint fk_reward_standings_account_id foreign key (account_id) references accounts (id),
  constraint ck_reward_standings_carried check (carried < 1)
) with (fillfactor = 70);
"""

# Points for one unit from an entry of the wallet on, until the next row says otherwise: what a
# charge that is reversed had earned, whatever has become of its rule since.
RATES = """
create table reward_rates (
  account_id uuid not null,
  from_seq bigint not null,
  rate numeric not null,
  constraint pk_reward_rates primary key (account_id, from_seq),
  constraint fk_reward_rates_account_id foreign key (account_id) references accounts (id),
  constraint ck_reward_rates_rate check (rate >= 0)
);
"""

DAYS = """
create table reward_days (
  account_id uuid not null,
  day date not null,
  earned bigint not null default 0,
  constraint pk_reward_days primary key (account_id, day),
  constraint fk_reward_days_account_id foreign key (account_id) references accounts (id)
) with (fillfactor = 70);
"""
