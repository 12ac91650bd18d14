-- Verifies keys and counts the calls, many in one statement: what arrives together is decided in turn,
-- under the lock of its customer's meter, and committed as one.
--
-- A rate of L calls in P seconds lets L calls through at once, and then one every P / L seconds: how
-- far it is used up is one moment, the one at which it would be as if nobody had called.

create or replace function verify_keys(asked json, defaults jsonb, at timestamptz default null)
returns json
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set jit = off set plan_cache_mode = force_generic_plan
-- Whoever waits behind a row that somebody holds shall not wait long.
set lock_timeout = '1s'
-- One by one by their key, however few there were when it was planned.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off as $$
declare
  terms jsonb := metering_terms(defaults);
  periods constant double precision[] := array[1, 60, 1, 60];  -- of the key, then of the customer
  names constant text[] := array['key-second', 'key-minute', 'second', 'minute'];
  moment timestamptz;
  seconds double precision;
  this_month char(7);  -- as the tables have it: another type would pass their indexes by
  pattern text;
  ask record;
  owner uuid;
  key uuid;
  line uuid;  -- of keys that were rotated: their limits are one
  limits bigint[] := array[null, null, null, null];
  -- Seconds from now until each bucket is full again: small numbers, which many calls add up exactly.
  full_in double precision[] := array[0, 0, 0, 0];
  wait double precision;
  is_limited boolean;
  quota bigint;
  hard boolean;
  used bigint;
  key_used bigint;
  code text;
  left_over bigint;
  least_left bigint;
  tightest integer;
  retry double precision;
  seen bytea;
  seen_line uuid;
  known boolean;
  asked_before boolean;
  call_id uuid;
  put meters[] := '{}';
  counted usage[] := '{}';
  rested uuid[] := '{}';
  answers json[] := '{}';
begin
  perform lock_meters(array(
    select coalesce(api_keys.user_id, line_id)
    from json_to_recordset(asked) as request (hash text)
    join api_keys on key_hash = decode(hash, 'hex')));
  moment := coalesce(at, clock_timestamp());
  seconds := extract(epoch from moment);
  this_month := month_of(moment);
  pattern := time_of_id(moment) || substr(gen_random_uuid()::text, 20);
  perform make_usage_partition(this_month);

  for ask in
    select request.*, api_keys.id as key_id, api_keys.line_id, api_keys.user_id,
      api_keys.status as key_status, scopes, allowed_addresses,
      least(expires_at, grace_until) as ends_at, per_second, per_minute, per_month,
      coalesce(last_used_at < moment - interval '1 minute', true) as has_rested,
      users.status as owner_status, users.tier, usage_stops.user_id is not null as is_stopped,
      coalesce(month_before.units, 0) as used, coalesce(key_month.units, 0) as key_used,
      array[coalesce(of_key.second_full_at, 0), coalesce(of_key.minute_full_at, 0),
        coalesce(of_owner.second_full_at, 0), coalesce(of_owner.minute_full_at, 0)] as full_at
    from json_to_recordset(asked) as request (
      n integer, hash text, counts boolean, paces boolean, scope text, address inet, units bigint, event text,
      content text, event_id text, endpoint text, location text, state text, date_from text,
      date_to text, response_time_ms integer, status_code smallint, error_message text,
      ip_address inet, user_agent text, subject text, given_key text, marks text[], body text)
    left join api_keys on key_hash = decode(request.hash, 'hex')
    left join users on users.id = api_keys.user_id
    left join usage_stops on usage_stops.user_id = api_keys.user_id
    left join meters as of_key on of_key.id = api_keys.line_id
    left join meters as of_owner on of_owner.id = api_keys.user_id
    left join monthly_usage as month_before
      on month_before.user_id = api_keys.user_id and month_before.month = this_month
    left join api_key_months as key_month
      on key_month.line_id = api_keys.line_id and key_month.month = this_month
    order by api_keys.user_id, api_keys.line_id, n
  loop
    if ask.line_id is distinct from line then
      if full_in[1] > 0 or full_in[2] > 0 then
        put := put || row(line, seconds + full_in[1], seconds + full_in[2])::meters;
      end if;
      line := ask.line_id;
      full_in[1:2] := array[ask.full_at[1] - seconds, ask.full_at[2] - seconds];
      key_used := ask.key_used;
    end if;
    if ask.key_id is distinct from key then
      key := ask.key_id;
      limits[1] := ask.per_second;
      limits[2] := ask.per_minute;
    end if;
    if ask.user_id is distinct from owner then
      if limits[3] is not null or limits[4] is not null then
        put := put || row(owner, seconds + full_in[3], seconds + full_in[4])::meters;
      end if;
      if quota > 0 and used >= (quota * 80 + 99) / 100 then
        perform notice_quota(owner, this_month, used, quota, hard);
      end if;
      owner := ask.user_id;
      limits[3] := nullif((terms ->> ('rate_per_second_' || ask.tier))::bigint, 0);
      limits[4] := nullif((terms ->> ('rate_per_minute_' || ask.tier))::bigint, 0);
      full_in[3:4] := array[ask.full_at[3] - seconds, ask.full_at[4] - seconds];
      quota := coalesce((terms ->> ('quota_' || ask.tier))::bigint, 0);
      if quota > 0 then
        quota := quota + coalesce(
          (select sum(units) from usage_grants where user_id = owner and month = this_month), 0);
      end if;
      hard := (terms ->> ('quota_hard_' || ask.tier))::boolean;
      used := ask.used;
    end if;
    is_limited := coalesce(limits[1], limits[2], limits[3], limits[4]) is not null;

    known := false;
    call_id := null;
    retry := 0;
    code := case
      when key is null then 'UNKNOWN'
      when ask.key_status = 'revoked' then 'REVOKED'
      when ask.ends_at <= moment then 'EXPIRED'
      when owner is not null and ask.owner_status <> 'active' then 'DISABLED_OWNER'
      when cardinality(ask.allowed_addresses) > 0
        and not coalesce(ask.address <<= any (ask.allowed_addresses::inet[]), false)
        then 'FORBIDDEN_ADDRESS'
      when ask.scope is not null and not ask.scope = any (ask.scopes) then 'MISSING_SCOPE'
      -- Not for our own routes, which pace and count nothing: there they see what they owe.
      when ask.is_stopped and (ask.counts or not coalesce(ask.paces, true)) then 'PAYMENT_REQUIRED'
      else 'VALID'
    end;
    if code = 'VALID' and ask.given_key is not null then
      -- Another customer's call with the key may be at work under another lock.
      for look in 1..2 loop
        select fingerprint, (headers ->> 'usage_id')::uuid into seen, call_id from idempotency_keys as kept
        where kept.subject = ask.subject and kept.key = ask.given_key;
        known := found;
        exit when known or look = 2;
        if not claim_idempotency_key(ask.subject, ask.given_key) then
          code := 'KEY_IN_FLIGHT';
          exit;
        end if;
      end loop;
      if known and encode(seen, 'hex') <> all (ask.marks) then
        code := 'KEY_REUSED';
      end if;
    end if;
    asked_before := known;
    if code = 'VALID' and not known and ask.event is not null and owner is not null then
      select content, usage_id, line_id into seen, call_id, seen_line from usage_event_ids
      where user_id = owner and event = decode(ask.event, 'hex');
      known := found;
      if known and (seen <> decode(ask.content, 'hex') or seen_line <> line) then
        code := 'EVENT_CONFLICT';
        call_id := null;
      end if;
    end if;
    if code = 'VALID' and not known then
      if is_limited then
        for i in 1..4 loop
          wait := greatest(full_in[i], 0) + periods[i] / limits[i] - periods[i];
          if wait > periods[i] / limits[i] / 100 then  -- what is kept is rounded: by far less than that
            retry := greatest(retry, wait);
          end if;
        end loop;
      end if;
      if retry > 0 then
        code := 'RATE_LIMITED';
      elsif ask.counts
        and (hard and quota > 0 and used + ask.units > quota or key_used + ask.units > ask.per_month)
      then
        code := 'QUOTA_EXCEEDED';
        retry := extract(epoch from
          date_trunc('month', moment, 'UTC') + interval '1 month' - moment);
      else
        retry := 0;
        if is_limited and coalesce(ask.paces, true) then
          for i in 1..4 loop
            if limits[i] is not null then
              full_in[i] := greatest(full_in[i], 0) + periods[i] / limits[i];
            end if;
          end loop;
        end if;
        if ask.counts and owner is not null then
          used := used + ask.units;
          key_used := key_used + ask.units;
          call_id := nth_id(pattern, ask.n);
          counted := counted || row(call_id, owner, key, ask.event_id, ask.endpoint, ask.location,
            ask.state, ask.date_from, ask.date_to, ask.response_time_ms, ask.status_code,
            ask.error_message, ask.ip_address, ask.user_agent, ask.units, moment, moment)::usage;
          if ask.event is not null then
            insert into usage_event_ids (user_id, event, content, seen_on, usage_id, line_id)
            values (owner, decode(ask.event, 'hex'), decode(ask.content, 'hex'),
              (moment at time zone 'UTC')::date, call_id, line);
          end if;
        end if;
      end if;
    end if;
    if code = 'VALID' and ask.counts and ask.given_key is not null and not asked_before then
      insert into idempotency_keys (subject, key, fingerprint, status, headers, body)
      values (ask.subject, ask.given_key, decode(ask.marks[1], 'hex'), 200,
        jsonb_build_object('usage_id', call_id), decode(ask.body, 'hex'));
    end if;
    if code = 'VALID' and ask.has_rested then
      rested := rested || key;
    end if;

    tightest := null;
    least_left := null;
    if is_limited then
      for i in 1..4 loop
        if limits[i] is not null then
          left_over := greatest(0, floor(
            (periods[i] - greatest(full_in[i], 0)) * limits[i] / periods[i] + 0.01));
          if least_left is null or left_over < least_left then
            least_left := left_over;
            tightest := i;
          end if;
        end if;
      end loop;
    end if;
    answers[ask.n + 1] := json_build_object(
      'code', code, 'key_id', key, 'user_id', owner, 'tier', ask.tier, 'scopes', ask.scopes,
      'replayed', known and code = 'VALID', 'asked_before', asked_before and code = 'VALID',
      'usage_id', call_id, 'used', used, 'quota', quota,
      'key_quota', ask.per_month, 'key_left', ask.per_month - key_used,
      'rate', case when tightest is not null then json_build_object(
        'policy', names[tightest], 'limit', limits[tightest],
        'window_seconds', periods[tightest]::integer, 'remaining', least_left,
        'reset_seconds', ceil(greatest(0, full_in[tightest] - 1e-6))::integer) end,
      'retry_after_seconds', case when retry > 0 then ceil(retry)::integer end);
  end loop;
  if full_in[1] > 0 or full_in[2] > 0 then
    put := put || row(line, seconds + full_in[1], seconds + full_in[2])::meters;
  end if;
  if limits[3] is not null or limits[4] is not null then
    put := put || row(owner, seconds + full_in[3], seconds + full_in[4])::meters;
  end if;
  if quota > 0 and used >= (quota * 80 + 99) / 100 then
    perform notice_quota(owner, this_month, used, quota, hard);
  end if;
  if put <> '{}' then
    insert into meters select * from unnest(put)
    on conflict (id) do update set
      second_full_at = excluded.second_full_at, minute_full_at = excluded.minute_full_at;
  end if;
  if counted <> '{}' then
    insert into usage select * from unnest(counted);
  end if;
  if rested <> '{}' then
    perform note_key_use(rested);
  end if;
  return array_to_json(answers);
end $$;

-- What an id of a call begins with: version 7, and its moment to the microsecond, so that the call is
-- found again by its id (metering/outcomes.py reads it). After the milliseconds come twelve bits.
create or replace function time_of_id(moment timestamptz) returns text
language sql immutable parallel safe
return (
  select lpad(to_hex(micros / 1000), 12, '0') || '7'
    || lpad(to_hex((micros % 1000 * 4096 + 999) / 1000), 3, '0')
  from (select (extract(epoch from moment) * 1000000)::bigint as micros) as since_1970
);

-- All that is needed, in one order: two statements never wait in a circle.
create or replace function lock_meters(ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into meters (id) select distinct id from unnest(ids) as id where id is not null order by id
  on conflict do nothing;
  perform from meters where id = any (ids) order by id for update;
end $$;

revoke execute on function verify_keys(json, jsonb, timestamptz), lock_meters(uuid[]) from public;
grant execute on function verify_keys(json, jsonb, timestamptz) to worker_user;
