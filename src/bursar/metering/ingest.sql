-- Counts events that were reported, up to a thousand in one statement: each once, whatever is sent again.

-- `people` and `months` are all that the events name. What becomes of each, in their order: 'counted',
-- 'duplicate' (it was counted before, word for word) or 'conflict' (its id was, with other words, or
-- with a key of another line; what names none agrees with whichever it came with first).
create or replace function ingest_usage(
  events json, people uuid[], months char(7)[], defaults jsonb
) returns text[]
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  terms jsonb := metering_terms(defaults);
  pattern constant text := uuid7()::text;
  today constant date := clock_timestamp() at time zone 'UTC';
  outcomes text[];
begin
  perform lock_meters(people);
  -- Before usage is locked: while a partition is being made, this waits behind whoever makes it.
  perform make_usage_partition(month) from unnest(months) as month;
  lock table only usage in row exclusive mode;  -- as the insert does; no month is dropped meanwhile
  if exists (select from usage_kept where since > any (months)) then
    raise exception 'a month was dropped since the events were looked at'
      using errcode = 'serialization_failure';  -- and a partition that was made for it never was
  end if;
  with incoming as materialized (
    select * from json_to_recordset(events) as reported (
      n integer, user_id uuid, api_key_id uuid, line_id uuid, event text, content text, event_id text,
      endpoint text, location text, state text, date_from text, date_to text,
      response_time_ms integer, status_code smallint, error_message text, ip_address inet,
      user_agent text, units bigint, timestamp timestamptz)
  ), named as materialized (
    select distinct on (user_id, event) n, user_id, decode(event, 'hex') as event,
      decode(content, 'hex') as content, (timestamp at time zone 'UTC')::date as day,
      coalesce(line_id, '00000000-0000-0000-0000-000000000000') as line_id
    from incoming where event is not null order by user_id, event, n
  ), before as materialized (  -- one by one by their key, however few they were when it was planned
    select named.user_id, named.event, kept.content, kept.line_id
    from named cross join lateral (
      select content, line_id from usage_event_ids
      where user_id = named.user_id and event = named.event offset 0
    ) as kept
  ), fresh as materialized (
    select n from named where not exists (
      select from before where (before.user_id, before.event) = (named.user_id, named.event))
    union all select n from incoming where event is null
  ), kept as (  -- an event may be stamped ahead; no id is forgotten before its event is
    insert into usage_event_ids (user_id, event, content, seen_on, line_id)
    select user_id, event, content, greatest(today, day), line_id
    from named where n in (select n from fresh)
  ), added as (
    insert into usage (id, user_id, api_key_id, event_id, endpoint, location, state, date_from,
      date_to, response_time_ms, status_code, error_message, ip_address, user_agent, units, timestamp)
    select nth_id(pattern, n), user_id, api_key_id, event_id, endpoint, location, state, date_from,
      date_to, response_time_ms, status_code, error_message, ip_address, user_agent, units, timestamp
    from incoming where n in (select n from fresh)
  )
  select array_agg(case
      when fresh.n is not null then 'counted'
      when coalesce(before.content, named.content) = decode(incoming.content, 'hex') and coalesce(
        case when before.event is null then named.line_id else before.line_id end = incoming.line_id,
        true) then 'duplicate'
      else 'conflict'
    end order by incoming.n)
  into outcomes
  from incoming
  left join fresh on fresh.n = incoming.n
  left join named on named.user_id = incoming.user_id and named.event = decode(incoming.event, 'hex')
  left join before on before.user_id = named.user_id and before.event = named.event;
  perform notice_quota(used.user_id, used.month, used.units,
    quota_of(used.user_id, tier, used.month, terms), (terms ->> ('quota_hard_' || tier))::boolean)
  from monthly_usage as used join users on users.id = used.user_id
  where used.user_id = any (people) and used.month = any (months);
  return outcomes;
end $$;
revoke execute on function ingest_usage(json, uuid[], char[], jsonb) from public;
grant execute on function ingest_usage(json, uuid[], char[], jsonb) to worker_user;
