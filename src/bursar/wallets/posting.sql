-- The one function through which money moves: post(requests). Everything else asks it.
--
-- A request is {"scope", "key", "legs": […], "actor": {…}, "event"}: all its legs happen or none. A leg
-- has a verb (transfer, hold, capture, void, expire, reverse) and names its sides: `user:<id>` (that
-- customer's wallet), the id of an account, or the purpose of one of the company's own accounts, such
-- as `revenue`. The answer is one outcome for each request, in order; a refused one has changed
-- nothing and says why in `error`. Requests of one call see each other's effects, in order.
--
-- Every account of a call is locked first, in the order of ids, and what was asked before is read in
-- a statement after that; keys are written in order too. So two calls never wait in a circle, and of
-- two equal requests the second one sees the first.

-- Which of an account's sixteen shards: by the last digit of whoever stands on the other side, so that
-- lanes which share no customer (wallets/till.py) share no row of the company's either.
-- A purpose has no dash in it, every id has. No regular expressions: they cost more than the rest.
create or replace function with_shard(party text, other text) returns text
language sql immutable parallel safe
return case
  when strpos(party, '-') = 0
    then party || '#' || case when strpos(other, '-') > 0
      then greatest(strpos('0123456789abcdef', right(other, 1)) - 1, 0)::text else '0' end
  else party
end;

drop function if exists accounts_of(text[], text[]);

-- The legs of all requests with accounts in place of names. Sides never change, so this may be read
-- before the locks; what may change is read after them. Without settings of its own it is planned as a
-- part of the statement that asks.
create or replace function legs_of(requests jsonb) returns setof ledger_leg
language sql stable as $$
  with asked as materialized (
    select request.op::integer as op, request.leg, request.leg = request.legs as last,
      request.scope, request.key, request.actor, request.request_id, request.fingerprint,
      given.verb, given.debit, given.credit, given.amount, given.metadata, given.effective_at,
      given.hold, given.transfer, given.seconds, given.final, given.at_most_today,
      coalesce(given.kind, holds.kind, case verb when 'reverse' then 'reversal' else 'other' end)
        as kind,
      coalesce(given.category, holds.category, original.category) as category,
      holds.account_id as holder, original.debit_id as paid_by, original.credit_id as paid_to,
      coalesce(holds.asset, original.asset, given.asset) as its_asset
    from (  -- two functions side by side go through the legs: half the time of a join
      select op, value ->> 'scope' as scope, value ->> 'key' as key,
        value -> 'actor' ->> 'name' as actor, value -> 'actor' ->> 'request_id' as request_id,
        sha256(convert_to((value -> 'legs')::text, 'UTF8')) as fingerprint,
        jsonb_array_length(value -> 'legs') as legs,
        generate_series(1, jsonb_array_length(value -> 'legs')) as leg,
        jsonb_array_elements(value -> 'legs') as given
      from jsonb_array_elements(requests) with ordinality as asked (value, op)
    ) as request
    cross join jsonb_to_record(request.given) as given (
      verb text, debit text, credit text, asset text, amount bigint, kind text, category text,
      metadata jsonb, effective_at timestamptz, hold uuid, transfer uuid, seconds integer,
      final boolean, at_most_today bigint)
    left join lateral (  -- a limit of one: looked up one by one, never by reading the whole table
      select account_id, asset, kind, category from holds where id = given.hold limit 1
    ) as holds on true
    left join lateral (
      select debit_id, credit_id, asset, category from transfers
      where id = given.transfer and given.verb = 'reverse' limit 1
    ) as original on true
  ), sides as materialized (
    select *, with_shard(debit, coalesce(credit, '')) as debit_party,
      with_shard(credit, coalesce(debit, hold::text, '')) as credit_party
    from asked
  ), named as materialized (
    select distinct party, asset from (
      select debit_party as party, its_asset as asset from sides
      union all select credit_party, its_asset from sides
    ) as either
  ), known as materialized (
    select party, asset, case
        when party like 'user:%' then (
          select id from accounts
          where owner_id = substr(party, 6)::uuid and accounts.asset = named.asset)
        when party like '%#%' then (
          select id from accounts
          where purpose = split_part(party, '#', 1) and accounts.asset = named.asset
            and shard = split_part(party, '#', 2)::smallint and purpose <> 'wallet')
        when party like '%-%' then (select id from accounts where id = party::uuid)
      end as id
    from named
  )
  select op, leg, last, scope, key, actor, request_id, fingerprint, verb,
    coalesce(holder, paid_to, debtor.id), coalesce(paid_by, creditor.id),
    its_asset, amount, kind, category, metadata, effective_at, hold, transfer, seconds,
    coalesce(final, false), at_most_today,
    case
      when verb is null
          or verb not in ('transfer', 'hold', 'capture', 'void', 'expire', 'reverse')
        then 'wallet.bad_leg'
      when verb in ('capture', 'void', 'expire') and holder is null then 'wallet.unknown_hold'
      when verb = 'reverse' and paid_by is null then 'wallet.unknown_transfer'
      when its_asset is null or not exists (select from assets where code = its_asset)
        then 'wallet.unknown_asset'
      when verb in ('transfer', 'hold') and debtor.id is null then 'wallet.unknown_account'
      when verb in ('transfer', 'capture') and creditor.id is null then 'wallet.unknown_account'
      when amount <= 0 or (amount is null and verb in ('transfer', 'hold')) then 'wallet.bad_leg'
    end
  from sides
  left join known as debtor on debtor.party = debit_party and debtor.asset = its_asset
  left join known as creditor on creditor.party = credit_party and creditor.asset = its_asset
$$;

-- Wallets that are paid into for the first time: in another currency, or for points. If the request
-- is refused after all, an empty one stays.
create or replace function open_missing_wallets(requests jsonb) returns void
language sql set search_path = pg_catalog, public, pg_temp as $$
  insert into accounts (owner_id, asset)
  select distinct users.id, assets.code
  from jsonb_array_elements(requests) as request
  cross join jsonb_array_elements(request -> 'legs') as leg
  join assets on assets.code = coalesce(
    leg ->> 'asset', (select asset from holds where id = (leg ->> 'hold')::uuid))
  join users on users.id = case
    when leg ->> 'credit' like 'user:%' then substr(leg ->> 'credit', 6)::uuid end
  where leg ->> 'verb' in ('transfer', 'capture')
  order by users.id, assets.code
  on conflict do nothing
$$;

-- One plan for all calls: making a new one costs as much as a small call, and knows no more. Compiling
-- one (jit, which is on by default) takes seconds. It may have been made while a table was empty, and
-- must not go through all of it when it no longer is.
create or replace function post(requests jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set plan_cache_mode = force_generic_plan set enable_mergejoin = off set enable_seqscan = off
set jit = off as $$
#variable_conflict use_column
declare
  legs ledger_leg[];
  account_ids uuid[];
  missing boolean; plain boolean; opened boolean := false;
  outcomes jsonb[];
begin
  if jsonb_typeof(requests) <> 'array' or jsonb_array_length(requests) not between 1 and 1000 then
    raise exception 'post takes 1 to 1000 requests' using errcode = 'invalid_parameter_value';
  end if;
  if exists (
    select from jsonb_array_elements(requests) as request
    where case when jsonb_typeof(request -> 'legs') = 'array'
      then jsonb_array_length(request -> 'legs') not between 1 and 100 else true end
  ) then
    raise exception 'a request has 1 to 100 legs' using errcode = 'invalid_parameter_value';
  end if;
  loop
    select array_agg(l order by op, l.leg),
      bool_or(l.problem = 'wallet.unknown_account' and credit_id is null),
      bool_and(leg = 1 and last and verb = 'transfer' and l.problem is null
        and debit_id <> credit_id and at_most_today is null)
    into legs, missing, plain from legs_of(requests) as l;
    exit when opened or not missing;
    perform open_missing_wallets(requests);
    opened := true;
  end loop;
  account_ids := array(
    select id from accounts where id = any (array(
      select debit_id from unnest(legs) union select credit_id from unnest(legs)
    )) order by id for no key update);
  if plain then
    outcomes := post_plain(legs, account_ids);
  end if;
  if outcomes is null then
    outcomes := post_in_turn(legs, account_ids);
  end if;
  -- One audit row for each person and kind of deed in a call; a job's deeds stand in the ledger alone.
  perform record_audit(
    event, 'operation', min(operation), null,
    case
      when count(*) = 1 and octet_length((requests -> min(place) -> 'legs')::text) < 16384
        then json_build_object('legs', requests -> min(place) -> 'legs')
      else json_build_object('operations', count(*), 'last', max(operation))
    end,
    actor ->> 'kind', (actor ->> 'id')::uuid, (actor ->> 'on_behalf_of')::uuid,
    (actor ->> 'impersonator')::uuid, actor ->> 'address', min(request_id))
  from (
    select coalesce(request ->> 'event', 'wallets.posted') as event,
      (request -> 'actor') - 'request_id' as actor, request -> 'actor' ->> 'request_id' as request_id,
      outcome ->> 'operation_id' as operation, op::integer - 1 as place
    from rows from (jsonb_array_elements(requests), unnest(outcomes)) with ordinality
      as r (request, outcome, op)
    where request -> 'actor' ->> 'kind' in ('customer', 'staff', 'key')
      and outcome ? 'operation_id' and not outcome ? 'replayed'
  ) as deeds
  group by event, actor;
  return to_jsonb(outcomes);
end $$;
drop function if exists audit_postings(jsonb, jsonb[]);
