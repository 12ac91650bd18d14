-- One stored procedure per charge, as a back office without a ledger has it: for bench/procedure.py.
-- The usual columns, and favours: no key that makes a charge happen once, no second side, no audit.

create schema direct;

create table direct.user_balance (
  user_id uuid primary key,
  total numeric(20, 6) not null,
  spent numeric(20, 6) not null default 0,
  available numeric(20, 6) not null check (available >= 0),
  currency varchar(3) not null default 'USD',
  updated_at timestamptz not null default now()
);

create table direct.transactions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references direct.user_balance,
  type varchar(20) not null,
  amount numeric(20, 6) not null,
  currency varchar(3) not null default 'USD',
  balance_after numeric(20, 6) not null,
  model_id varchar(100),
  tokens bigint,
  status varchar(20) not null default 'completed',
  created_at timestamptz not null default now()
);
create index on direct.transactions (user_id, created_at);

create function direct.deduct_user_balance(its_user uuid, price numeric, its_model text, used bigint)
returns boolean
language plpgsql as $$
declare
  left_over numeric;
begin
  select available into left_over from direct.user_balance where user_id = its_user for update;
  if left_over is null or left_over < price then
    raise exception 'user % has not enough', its_user;
  end if;
  update direct.user_balance
  set available = available - price, spent = spent + price, updated_at = now()
  where user_id = its_user;
  insert into direct.transactions (user_id, type, amount, balance_after, model_id, tokens)
  values (its_user, 'charge', price, left_over - price, its_model, used);
  return true;
end $$;

create function direct.nth_user(number integer) returns uuid
language sql immutable
return ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid;

insert into direct.user_balance (user_id, total, available)
select direct.nth_user(number), 10000000, 10000000 from generate_series(1, 10000) as number;
analyze direct.user_balance;
