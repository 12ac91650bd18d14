-- The one function through which money moves: post(requests). Everything else asks it.
--
-- A request is {"scope", "key", "legs": […], "actor": {…}, "event"}: all its legs happen or none. A leg
-- has a verb (transfer, hold, capture, void, expire, reverse) and names its sides: `user:<id>` (that
-- customer's wallet), the id of an account, or the purpose of one of the company's own accounts, such
-- as `revenue`. The answer is one outcome for each request, in order; a refused one has changed
-- nothing and says why in `error`. Requests of one call see each other's effects, in order.
--
-- Every account of a call is locked first, in the order of ids, and what was asked before is read in
-- a statement after that; wallets that are opened are written in order too, and then keys. Who finds
-- one opened meanwhile lets go of its locks. So two calls never wait in a circle, and of two equal
-- requests the second one sees the first.

-- Which of an account's sixteen shards: by the last digit of whoever stands on the other side, so that
-- lanes which share no customer (wallets/till.py) share no row of the company's either.
-- A purpose has no dash in it, every id has. No regular expressions: they cost more than the rest.
create or replace function shard_for(other text) returns smallint
language sql immutable parallel safe
return case
  when strpos(other, '-') > 0
    then greatest(strpos('0123456789abcdef', right(other, 1)) - 1, 0)::smallint
  else 0::smallint
end;

-- Whoever has no wallet in an asset has an empty one: it is opened, under an id that is known before,
-- by the first leg that moves something in it.
create or replace function wallet_to_be(owner uuid, asset text) returns uuid
language sql immutable parallel safe
return encode(substr(sha256(
  uuid_send(owner) || decode(replace(asset, '\', '\\'), 'escape')
), 1, 16), 'hex')::uuid;

-- The legs of all requests with accounts in place of names. Sides never change, so this may be read
-- before the locks; what may change is read after them. Without settings of its own it is planned as a
-- part of the statement that asks. `offset 0` has a value worked out once, however often it is named
-- further out, and without keeping the rows as a materialized table would.
create or replace function legs_of(requests jsonb) returns setof ledger_leg
language sql stable as $$
  with given as (  -- two functions side by side go through the legs: half the time of a join
    select op, scope, key, actor ->> 'name' as actor, actor ->> 'request_id' as request_id,
      sha256(convert_to(legs::text, 'UTF8')) as fingerprint,
      jsonb_array_length(legs) as last_leg, generate_series(1, jsonb_array_length(legs)) as leg,
      jsonb_array_elements(legs) as said
    from (
      select op::integer, value ->> 'scope' as scope, value ->> 'key' as key,
        value -> 'actor' as actor, value -> 'legs' as legs
      from jsonb_array_elements(requests) with ordinality as asked (value, op)
      offset 0
    ) as request
  ), asked as (
    select op, leg, leg = last_leg as last, scope, key, actor, request_id, fingerprint,
      said ->> 'verb' as verb, said ->> 'debit' as debit, said ->> 'credit' as credit,
      coalesce(holds.asset, original.asset, said ->> 'asset') as asset,
      (said ->> 'amount')::bigint as amount,
      coalesce(case when not is_spending(original.kind) then original.kind end,
        said ->> 'kind', holds.kind,
        case said ->> 'verb' when 'reverse' then 'reversal' else 'other' end) as kind,
      coalesce(said ->> 'category', holds.category, original.category) as category,
      nullif(said -> 'metadata', 'null') as metadata,
      (said ->> 'effective_at')::timestamptz as effective_at,
      (said ->> 'hold')::uuid as hold, (said ->> 'transfer')::uuid as transfer,
      (said ->> 'seconds')::integer as seconds,
      coalesce((said ->> 'final')::boolean, false) as final,
      (said ->> 'at_most_today')::bigint as at_most_today,
      coalesce(holds.account_id, original.credit_id) as holder, original.debit_id as payer
    from given
    left join lateral (  -- a limit of one: looked up one by one, never by reading the whole table
      select account_id, asset, kind, category from holds where id = (said ->> 'hold')::uuid limit 1
    ) as holds on true
    left join lateral (
      select debit_id, credit_id, asset, kind, category from transfers
      where id = (said ->> 'transfer')::uuid and said ->> 'verb' = 'reverse' limit 1
    ) as original on true
    offset 0
  ), found as (
    select *,
      coalesce(holder, case
        when starts_with(debit, 'user:') then (
          select id from accounts
          where owner_id = substr(debit, 6)::uuid and accounts.asset = asked.asset)
        when strpos(debit, '-') = 0 then (
          select id from accounts
          where purpose = debit and accounts.asset = asked.asset and purpose <> 'wallet'
            and shard = shard_for(coalesce(credit, '')))
        else (select id from accounts where id = debit::uuid)
      end) as debit_id,
      coalesce(payer, case
        when starts_with(credit, 'user:') then (
          select id from accounts
          where owner_id = substr(credit, 6)::uuid and accounts.asset = asked.asset)
        when strpos(credit, '-') = 0 then (
          select id from accounts
          where purpose = credit and accounts.asset = asked.asset and purpose <> 'wallet'
            and shard = shard_for(coalesce(debit, hold::text, '')))
        else (select id from accounts where id = credit::uuid)
      end) as credit_id
    from asked
    offset 0
  ), known as (
    select *,
      case when debit_id is null and starts_with(debit, 'user:') then (
        select wallet_to_be(id, asset) from users where id = substr(debit, 6)::uuid
      ) end as new_debit,
      case when credit_id is null and starts_with(credit, 'user:') then (
        select wallet_to_be(id, asset) from users where id = substr(credit, 6)::uuid
      ) end as new_credit
    from found
    offset 0
  )
  select op, leg, last, scope, key, actor, request_id, fingerprint, verb,
    coalesce(debit_id, new_debit), coalesce(credit_id, new_credit),
    asset, amount, kind, category, metadata, effective_at, hold, transfer, seconds, final,
    at_most_today,
    case
      when verb is null
          or verb not in ('transfer', 'hold', 'capture', 'void', 'expire', 'reverse')
        then 'wallet.bad_leg'
      when hold is not null and verb not in ('capture', 'void', 'expire')
          or transfer is not null and verb <> 'reverse'
        then 'wallet.bad_leg'
      when verb in ('capture', 'void', 'expire') and holder is null then 'wallet.unknown_hold'
      when verb = 'reverse' and payer is null then 'wallet.unknown_transfer'
      when asset is null or asset <> all (array(select code from assets))
        then 'wallet.unknown_asset'
      when verb in ('transfer', 'hold') and debit_id is null and new_debit is null
          or verb in ('transfer', 'capture') and credit_id is null and new_credit is null
        then 'wallet.unknown_account'
      when amount <= 0 or (amount is null and verb in ('transfer', 'hold'))
          or amount is not null and verb in ('void', 'expire')
          or seconds < 0 or not is_moment(effective_at) or not is_note(metadata)
        then 'wallet.bad_leg'
      when new_debit is not null or new_credit is not null then 'wallet.unopened'  -- no refusal
    end
  from known
$$;

-- What the wallets stand at that legs name and nobody has opened; they have no `created_at`.
create or replace function wallets_to_be(legs ledger_leg[], requests jsonb, standing accounts[])
returns accounts[]
language sql stable as $$
  select array_agg(jsonb_populate_record(null::accounts, jsonb_build_object(
    'id', id, 'owner_id', substr(name, 6), 'asset', asset, 'posted', 0, 'held', 0, 'spent', 0,
    'overdraft', 0, 'seq', 0, 'status', 'open')))
  from (
    select distinct on (id) id, name, asset
    from unnest(legs) as l
    cross join lateral (
      select requests -> (op - 1) -> 'legs' -> (leg - 1) as said
    ) as asked
    cross join lateral (
      values (debit_id, said ->> 'debit'), (credit_id, said ->> 'credit')
    ) as side (id, name)
    where id is not null and starts_with(name, 'user:')
      and id <> all (array(select id from unnest(standing)))
  ) as absent
$$;

-- What their accounts stand at is read as they are locked: nobody changes it from here on.
create or replace function standing_of(legs ledger_leg[]) returns accounts[]
language plpgsql as $$
begin
  return array(
    select a from accounts as a where id = any (array(
      select debit_id from unnest(legs) union select credit_id from unnest(legs)
    )) order by id for no key update);
end $$;
revoke execute on function standing_of(ledger_leg[]) from public;

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
  standing accounts[];
  complete boolean; plain boolean; opening boolean;
  place text; attempts integer := 0;
  outcomes jsonb[];
begin
  if jsonb_typeof(requests) <> 'array' or jsonb_array_length(requests) not between 1 and 1000 then
    raise exception 'post takes 1 to 1000 requests' using errcode = 'invalid_parameter_value';
  end if;
  loop
    select array_agg(l),
      count(*) filter (where leg = 1) = jsonb_array_length(requests) and max(leg) <= 100
        and count(scope) = count(*) and count(key) = count(*),
      bool_and(leg = 1 and last and verb = 'transfer' and l.problem is null
        and debit_id <> credit_id and at_most_today is null),
      bool_or(l.problem = 'wallet.unopened')
    into legs, complete, plain, opening from legs_of(requests) as l;
    if complete is not true then
      raise exception 'a request has a scope, a key and 1 to 100 legs'
        using errcode = 'invalid_parameter_value';
    end if;
    if opening then
      begin
        standing := standing_of(legs);
        outcomes := post_in_turn(legs, standing || wallets_to_be(legs, requests, standing));
      exception when unique_violation then  -- and all that was locked is free again
        get stacked diagnostics place = table_name;
        attempts := attempts + 1;
        if place <> 'accounts' or attempts = 3 then
          raise;  -- as for a key that was just used: whoever asked may ask again
        end if;
      end;
    else
      standing := standing_of(legs);
      if plain then
        outcomes := post_plain(legs, standing);
      end if;
      if outcomes is null then
        outcomes := post_in_turn(legs, standing);
      end if;
    end if;
    exit when outcomes is not null;  -- or else a wallet was opened meanwhile by somebody else
  end loop;
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
    select coalesce(request ->> 'event', 'wallets.posted') as event, who - 'request_id' as actor,
      who ->> 'request_id' as request_id, outcome ->> 'operation_id' as operation,
      op::integer - 1 as place
    from (
      select request, request -> 'actor' as who, outcome, op
      from rows from (jsonb_array_elements(requests), unnest(outcomes)) with ordinality
        as r (request, outcome, op)
      offset 0
    ) as each
    where who ->> 'kind' in ('customer', 'staff', 'key')
      and outcome ? 'operation_id' and not outcome ? 'replayed'
  ) as deeds
  group by event, actor;
  return to_jsonb(outcomes);
end $$;
