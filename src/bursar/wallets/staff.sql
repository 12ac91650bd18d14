-- What staff do in the ledger. No login role writes its tables: whatever changes one of them for staff
-- is a function here, which asks who is at work, keeps the bounds, and leaves the audit row.

-- What staff have set, or the default; a test compares both with wallets/service.py.
create or replace function wallet_rule(name text) returns numeric
language sql stable set search_path = pg_catalog, public, pg_temp
return coalesce(
  (select (value #>> '{}')::numeric from public.settings where key = name),
  case name when 'adjustment_limit' then 100 when 'overdraft_at_most' then 100 end
);

-- post() for staff: whatever is posted is the deed of whoever is at work, and audited as theirs.
create or replace function post_as_staff(requests jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  who uuid := staff_at_work();
begin
  return post((
    select coalesce(jsonb_agg(
      request || jsonb_build_object('actor', jsonb_strip_nulls(jsonb_build_object(
        'kind', 'staff', 'id', who, 'name', 'staff:' || who,
        'address', request #> '{actor,address}', 'request_id', request #> '{actor,request_id}')))
      order by place), '[]')
    from jsonb_array_elements(requests) with ordinality as asked (request, place)
  ));
end $$;

-- The operation of this key, found by its index: behind the policy, PostgreSQL would read them all.
create or replace function operation_of(its_scope text, its_key text) returns uuid
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  perform staff_at_work();
  return (select id from operations
    where operation_mark(scope, key) = operation_mark(its_scope, its_key));
end $$;

-- Another currency, with the company's own accounts in it. False if there is one with this code.
create or replace function add_asset(
  its_code text, its_scale integer, its_kind text, address text default null,
  request_id text default null
) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  who uuid := staff_at_work();
begin
  insert into assets (code, scale, kind) values (its_code, its_scale, its_kind)
  on conflict do nothing;
  if not found then
    return false;
  end if;
  perform record_audit('wallets.asset_added', 'asset', its_code, null,
    json_build_object('scale', its_scale, 'kind', its_kind),
    'staff', who, null, null, address, request_id);
  return true;
end $$;

-- Freezes a wallet, opens it again, closes an empty one. Answers why not, or null when it is so.
create or replace function change_wallet_status(
  its_owner uuid, its_asset text, new_status text, reason text, address text default null,
  request_id text default null
) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  who uuid := staff_at_work();
  wallet accounts;
begin
  select * into wallet from accounts where owner_id = its_owner and asset = its_asset
  for no key update;
  if not found then
    return jsonb_build_object('error', 'wallet.unknown_account');
  elsif new_status = 'closed' and (wallet.posted, wallet.held) <> (0, 0) then
    return jsonb_build_object(
      'error', 'wallet.not_empty', 'balance', wallet.posted, 'held', wallet.held);
  elsif new_status = wallet.status then
    return null;
  end if;
  update accounts set status = new_status where id = wallet.id;
  perform record_audit(
    case new_status when 'open' then 'wallets.opened' else 'wallets.' || new_status end,
    'wallet', wallet.id::text, json_build_object('status', wallet.status),
    json_build_object('status', new_status, 'reason', given_reason(reason)),
    'staff', who, null, null, address, request_id);
  return null;
end $$;

-- How far below zero a wallet may go: within the settings, points not at all. Never less than it has
-- gone already; so far it may go also where the settings allow less by now. Answers why not, or null
-- when it is so.
create or replace function change_wallet_overdraft(
  its_owner uuid, its_asset text, new_overdraft bigint, reason text default null,
  address text default null, request_id text default null
) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  who uuid := staff_at_work();
  wallet accounts;
  used numeric;
  most numeric;
  unit numeric;
begin
  select case kind when 'currency' then wallet_rule('overdraft_at_most') else 0 end, 10::numeric ^ scale
  into most, unit from assets where code = its_asset;
  select * into wallet from accounts where owner_id = its_owner and asset = its_asset
  for no key update;
  used := greatest(0, wallet.held::numeric - wallet.posted);
  most := greatest(most, trim_scale(used / unit));
  if wallet.id is null then
    return jsonb_build_object('error', 'wallet.unknown_account');
  elsif new_overdraft > most * unit then
    return jsonb_build_object('error', 'wallet.overdraft_too_large', 'most', most);
  elsif new_overdraft < used then
    return jsonb_build_object('error', 'wallet.overdraft_in_use', 'used', used);
  elsif new_overdraft = wallet.overdraft then
    return null;
  end if;
  update accounts set overdraft = new_overdraft where id = wallet.id;
  perform record_audit(
    'wallets.overdraft_changed', 'wallet', wallet.id::text,
    json_build_object('overdraft', wallet.overdraft),
    json_strip_nulls(json_build_object('overdraft', new_overdraft,
      'reason', case when reason is not null then given_reason(reason) end)),
    'staff', who, null, null, address, request_id);
  return null;
end $$;

-- A reason has words, and not too many.
create or replace function given_reason(reason text) returns text
language plpgsql immutable set search_path = pg_catalog, public, pg_temp as $$
begin
  if coalesce(length(trim(reason)), 0) not between 1 and 500 then
    raise exception 'a reason has 1 to 500 letters' using errcode = 'invalid_parameter_value';
  end if;
  return trim(reason);
end $$;

revoke execute on function wallet_rule(text), post_as_staff(jsonb), operation_of(text, text),
  add_asset(text, integer, text, text, text), given_reason(text),
  change_wallet_status(uuid, text, text, text, text, text),
  change_wallet_overdraft(uuid, text, bigint, text, text, text) from public;
grant execute on function post_as_staff(jsonb), operation_of(text, text),
  add_asset(text, integer, text, text, text),
  change_wallet_status(uuid, text, text, text, text, text),
  change_wallet_overdraft(uuid, text, bigint, text, text, text) to staff_user;

-- Corrections: what one person posted alone, and what waits for a second one.
call lock_down('adjustments');
call let_staff('adjustments', 'select, insert (user_id, asset, amount, reason, proposed_by, key, state,
  operation_id, decided_at), update (state, decided_by, decided_at, operation_id)');

-- Who proposes and who decides is who is at work, whatever the statement says; a check of the table
-- wants them to be two. What is said to be posted is so, for this customer and this amount, and alone
-- only within the limit of the day.
create or replace function decide_adjustment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if tg_op = 'UPDATE' and old.state <> 'proposed' then
    if new.user_id is null and to_jsonb(new) - 'user_id' = to_jsonb(old) - 'user_id' then
      return new;  -- the customer's row goes; what was decided stays
    end if;
    raise exception 'this adjustment is decided' using errcode = 'restrict_violation';
  end if;
  if session_user = 'staff_user' then
    if tg_op = 'INSERT' then
      new.proposed_by := staff_at_work();
    elsif new.state = 'proposed' then
      raise exception 'an adjustment is posted or rejected' using errcode = 'restrict_violation';
    else
      new.decided_by := staff_at_work();
    end if;
    perform check_adjustment(new);
  end if;
  return new;
end $$;

-- What one person gave and took today, in UTC, without a second one; in minor units.
create or replace function adjusted_alone_today(person uuid, its_asset text) returns numeric
language sql stable set search_path = pg_catalog, public, pg_temp
return (
  select coalesce(sum(abs(amount)), 0) from public.adjustments
  where state = 'posted' and decided_by is null and proposed_by = person and asset = its_asset
    and created_at >= date_trunc('day', now(), 'UTC')
);

create or replace function check_adjustment(its adjustments) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if its.decided_by is null and its.state = 'rejected' then
    raise exception 'nobody rejects what nobody proposed' using errcode = 'restrict_violation';
  elsif its.state <> 'posted' then
    return;
  elsif not exists (
    select from transfers as moved
    join accounts as given on given.id = credit_id join accounts as taken on taken.id = debit_id
    where operation_id = its.operation_id and moved.kind = 'adjustment' and moved.asset = its.asset
      and amount = abs(its.amount)
      and case when its.amount > 0
        then given.owner_id = its.user_id and taken.purpose = 'adjustments'
        else taken.owner_id = its.user_id and given.purpose = 'adjustments' end
  ) then
    raise exception 'nothing was posted for this adjustment' using errcode = 'restrict_violation';
  elsif its.decided_by is null
    and adjusted_alone_today(its.proposed_by, its.asset) + abs(its.amount)
      > wallet_rule('adjustment_limit') * (select 10::numeric ^ scale from assets where code = its.asset)
  then
    raise exception 'a second person has to decide' using errcode = 'restrict_violation';
  end if;
end $$;
revoke execute on function decide_adjustment(), check_adjustment(adjustments),
  adjusted_alone_today(uuid, text) from public;
grant execute on function adjusted_alone_today(uuid, text) to staff_user;
create or replace trigger decide before insert or update on adjustments
  for each row execute function decide_adjustment();
call never_removed('adjustments');
