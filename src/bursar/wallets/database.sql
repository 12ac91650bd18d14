-- The ledger's tables for those who read them, and what plain SQL may do with money.

call lock_down('assets');
call lock_down('accounts');
call lock_down('operations');
call lock_down('holds');
call lock_down('transfers');
call write_once('assets');
call write_once('operations');
call write_once('transfers');

grant select on assets to app_user, staff_user, worker_user, analytics_user;
create policy everybody on assets for select using (true);

-- A transfer's row has the balance of both sides in it, so customers see their side of it only:
-- through wallet_entries() and the views.
call let_owner('accounts', its => 'owner_id');
call let_owner('holds', its => 'account_id', through => 'accounts');
call let_staff('accounts');
call let_staff('operations');
call let_staff('holds');
call let_staff('transfers');
call let_worker('accounts');
call let_worker('operations');
call let_worker('holds');
call let_worker('transfers');
call let_analytics('accounts');

call lock_down('account_positions');
call let_worker('account_positions', 'select, insert, update');
call let_owner('account_positions', its => 'account_id', through => 'accounts');
call let_staff('account_positions');
call lock_down('wallet_days');
call let_worker('wallet_days', 'select, insert, update');
call let_owner('wallet_days', its => 'account_id', through => 'accounts');
call let_staff('wallet_days');
call let_analytics('wallet_days');

-- The company's own accounts in one asset: where money comes from and where it goes. They have no
-- limit: money that came in from outside stands as a debt of the outside world in `clearing`.
create or replace function open_company_accounts(asset_code text) returns void
language sql set search_path = pg_catalog, public, pg_temp as $$
  insert into accounts (asset, purpose, shard, overdraft)
  select asset_code, purpose, shard, null
  from unnest(array['clearing', 'revenue', 'adjustments', 'exchange', 'rewards', 'fees', 'disputes',
    'refunds', 'suspense'])
    as purpose
  cross join generate_series(0, 15) as shard
  on conflict do nothing
$$;

create or replace function open_accounts_of_asset() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  perform open_company_accounts(new.code);
  return null;
end $$;
create or replace trigger open_accounts after insert on assets
  for each row execute function open_accounts_of_asset();
insert into assets (code, scale, kind) values ('USD', 6, 'currency'), ('POINTS', 0, 'points')
  on conflict do nothing;
do $$ begin
  perform open_company_accounts(code) from assets;  -- also those that a newer release has added
end $$;

-- Whoever is a customer has a wallet in dollars, from the first moment on.
create or replace function open_wallets() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into accounts (owner_id, asset) select id, 'USD' from added order by id;
  return null;
end $$;
create or replace trigger open_wallets after insert on users referencing new table as added
  for each statement execute function open_wallets();
insert into accounts (owner_id, asset)
  select id, 'USD' from users
  where not exists (select from accounts where owner_id = users.id and asset = 'USD');

create or replace view user_balance with (security_invoker) as
select owner_id as user_id,
  round((posted::numeric + spent) / 10::numeric ^ scale, scale) as total,
  round(spent / 10::numeric ^ scale, scale) as spent,
  round((posted::numeric - held) / 10::numeric ^ scale, scale) as available,
  round(held / 10::numeric ^ scale, scale) as held,
  asset as currency, coalesce(moved_at, accounts.created_at) as updated_at
from accounts join assets on assets.code = asset
where owner_id is not null and kind = 'currency';

create or replace view wallets with (security_invoker) as
select accounts.id, owner_id as user_id, asset as currency,
  round(posted / 10::numeric ^ scale, scale) as balance,
  round((posted::numeric - held) / 10::numeric ^ scale, scale) as available,
  round(held / 10::numeric ^ scale, scale) as held,
  status, accounts.created_at, coalesce(moved_at, accounts.created_at) as updated_at
from accounts join assets on assets.code = asset
where purpose = 'wallet';

create or replace view user_with_balance with (security_invoker) as
select users.id, email, username, name, user_type, role, tier, users.status, is_active,
  users.created_at, total, spent, available, held, currency
from users left join user_balance on user_id = users.id and currency = 'USD';

-- One side of an account's transfers, the newest first. Definer's rights, and a customer's login role
-- sees its own accounts only. Each side has the limit too: an index gives its newest rows in order.
create or replace function wallet_entries(
  account uuid, until_seq bigint default null, after_seq bigint default null,
  most integer default null, its_kind text default null, its_category text default null,
  credits boolean default null
) returns table (
  id uuid, seq bigint, amount bigint, balance bigint, counterpart uuid, kind text, category text,
  reverses uuid, hold_id uuid, operation_id uuid, posted_at timestamptz, effective_at timestamptz,
  metadata jsonb
)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select side.* from (
    (select id, debit_seq as seq, -amount as amount, debit_after, credit_id, kind, category, reverses,
      hold_id, operation_id, posted_at, coalesce(effective_at, posted_at), metadata
    from transfers
    where debit_id = account and debit_seq <= coalesce(until_seq, 9223372036854775807)
      and debit_seq > coalesce(after_seq, 0) and credits is not true
      and (its_kind is null or kind = its_kind)
      and (its_category is null or category = its_category)
    order by debit_seq desc limit most)
    union all
    (select id, credit_seq, amount, credit_after, debit_id, kind, category, reverses,
      hold_id, operation_id, posted_at, coalesce(effective_at, posted_at), metadata
    from transfers
    where credit_id = account and credit_seq <= coalesce(until_seq, 9223372036854775807)
      and credit_seq > coalesce(after_seq, 0) and credits is not false
      and (its_kind is null or kind = its_kind)
      and (its_category is null or category = its_category)
    order by credit_seq desc limit most)
  ) as side
  where may_see(account)
  order by seq desc
  limit most
$$;

create or replace view wallet_transactions with (security_invoker) as
select entry.id, accounts.id as wallet_id, owner_id as user_id, entry.kind as type,
  case when entry.amount < 0 then 'debit' else 'credit' end as direction,
  round(abs(entry.amount) / 10::numeric ^ scale, scale) as amount,
  case when entry.amount < 0 then accounts.id else counterpart end as from_wallet,
  case when entry.amount < 0 then counterpart else accounts.id end as to_wallet,
  round(entry.balance / 10::numeric ^ scale, scale) as balance_after, asset as currency, 'completed' as status,
  category, metadata, effective_at, posted_at as created_at
from accounts join assets on assets.code = asset
cross join lateral wallet_entries(accounts.id) as entry
where purpose = 'wallet';

revoke all on user_balance, wallets, user_with_balance, wallet_transactions
  from app_user, staff_user, worker_user, analytics_user;
grant select on user_balance, wallets, wallet_transactions
  to app_user, staff_user, worker_user, analytics_user;
grant select on user_with_balance to app_user, staff_user, worker_user, analytics_user;
call let_analytics('users',
  'select (id, email, username, name, user_type, role, tier, status, is_active, created_at)');

-- For plain SQL: the same posting under the same rules. Not enough is for the caller to tell; all else
-- is an error with its code.
create or replace function post_one(request jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  outcome jsonb := post(jsonb_build_array(request)) -> 0;
begin
  if outcome ->> 'error' <> 'wallet.insufficient_funds' then
    raise exception '%', outcome ->> 'error' using errcode = 'data_exception';
  end if;
  return outcome;
end $$;

create or replace function as_minor(amount numeric, asset_code text) returns bigint
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
declare
  minor numeric := amount * (select 10::numeric ^ scale from assets where code = asset_code);
begin
  if minor is null or minor <= 0 or minor = 'NaN' then
    raise exception 'money.not_positive' using errcode = 'data_exception';
  elsif minor > 9223372036854775807 then
    raise exception 'money.too_large' using errcode = 'data_exception';
  elsif minor <> trunc(minor) then
    raise exception 'money.too_many_digits' using errcode = 'data_exception';
  end if;
  return minor::bigint;
end $$;

-- Who runs this statement, for the audit; the owner and the worker are nobody's deed. Staff have to
-- be somebody who works here.
create or replace function sql_actor() returns jsonb
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
declare
  kind text := case session_user when 'app_user' then 'customer' when 'staff_user' then 'staff' end;
  who uuid := case kind when 'staff' then staff_at_work() else current_subject() end;
begin
  return case when kind is not null
    then jsonb_build_object('kind', kind, 'id', who, 'name', kind || ':' || who) end;
end $$;

create or replace function deduct_user_balance(
  user_id uuid, amount numeric, model_id text default null, tokens bigint default null
) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if session_user = 'app_user' and user_id is distinct from current_subject() then
    raise exception 'this is not your wallet' using errcode = 'insufficient_privilege';
  end if;
  return not post_one(jsonb_build_object(
    'scope', 'sql', 'key', uuid7(),
    'event', 'wallets.charged',
    'actor', sql_actor(),
    'legs', jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
      'verb', 'transfer', 'debit', 'user:' || user_id, 'credit', 'revenue', 'asset', 'USD',
      'amount', as_minor(amount, 'USD'), 'kind', 'charge', 'category', 'models',
      'metadata', nullif(jsonb_strip_nulls(
        jsonb_build_object('model_id', model_id, 'tokens', tokens)), '{}')))))) ? 'error';
end $$;

create or replace function add_user_funds(user_id uuid, amount numeric, transaction_id text)
returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
#variable_conflict use_variable
declare
  outcome jsonb := post_one(jsonb_build_object(
    'scope', 'sql', 'key', coalesce(transaction_id, uuid7()::text),
    'event', 'wallets.funded',
    'actor', sql_actor(),
    'legs', jsonb_build_array(jsonb_build_object(
      'verb', 'transfer', 'debit', 'clearing', 'credit', 'user:' || user_id, 'asset', 'USD',
      'amount', as_minor(amount, 'USD'), 'kind', 'funding'))));
begin
  if not outcome ? 'replayed'  -- what was paid in before the end stays true
    and exists (select from users where users.id = user_id and users.status = 'deleted')
  then
    raise exception 'wallet.unknown_account' using errcode = 'data_exception';
  end if;
  return not outcome ? 'error';
end $$;

revoke execute on function post(jsonb), deduct_user_balance(uuid, numeric, text, bigint),
  add_user_funds(uuid, numeric, text),
  wallet_entries(uuid, bigint, bigint, integer, text, text, boolean) from public, staff_user;
grant execute on function post(jsonb) to worker_user;
grant execute on function deduct_user_balance(uuid, numeric, text, bigint)
  to app_user, staff_user, worker_user;
grant execute on function add_user_funds(uuid, numeric, text) to staff_user, worker_user;
grant execute on function wallet_entries(uuid, bigint, bigint, integer, text, text, boolean)
  to app_user, staff_user, worker_user, analytics_user;
