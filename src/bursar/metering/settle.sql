-- What became of calls that were counted before they were made: filled in once, nothing counted again.

-- What becomes of each, by its number: 'recorded', 'duplicate' (the call has this very outcome) or 'known'
-- (it has another one, which stands). Left out is what names no call that is kept. Of several outcomes
-- of one call the first counts, though each of them is answered as if it were alone. Whoever counts for
-- a customer waits meanwhile, as for each other.
create or replace function settle_usage(outcomes json) returns jsonb
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set jit = off set plan_cache_mode = force_generic_plan
-- One by one by their key, however few calls there were when it was planned.
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  told jsonb;
begin
  perform lock_meters(array(
    select id from users where id in (
      select user_id from json_to_recordset(outcomes) as said (user_id uuid))));
  with said as materialized (
    select * from json_to_recordset(outcomes) as said (n integer, id uuid, user_id uuid,
      timestamp timestamptz, status_code smallint, response_time_ms integer, error_message text)
  ), earliest as materialized (
    select distinct on (user_id, id) * from said order by user_id, id, n
  ), settled as (
    update usage set status_code = earliest.status_code,
      response_time_ms = earliest.response_time_ms, error_message = earliest.error_message
    from earliest where usage.user_id = earliest.user_id
      and usage.timestamp = earliest.timestamp and usage.id = earliest.id
      and usage.status_code is null and usage.response_time_ms is null
  )
  select jsonb_object_agg(said.n, case
      when usage.status_code is null and usage.response_time_ms is null then 'recorded'
      when (said.status_code, said.response_time_ms, said.error_message) is not distinct from
        (usage.status_code, usage.response_time_ms, usage.error_message::text) then 'duplicate'
      else 'known'
    end)
  into told
  from said join usage on usage.user_id = said.user_id and usage.timestamp = said.timestamp
    and usage.id = said.id;
  return coalesce(told, '{}');
end $$;
revoke execute on function settle_usage(json) from public;
grant execute on function settle_usage(json) to worker_user;

-- Of a call that was counted nothing is ever changed; one without an outcome may get it.
create or replace function keep_usage() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if old.status_code is not null or old.response_time_ms is not null or new.status_code is null
    or (new.user_id, new.timestamp, new.id, new.api_key_id, new.event_id, new.endpoint, new.location,
      new.state, new.date_from, new.date_to, new.ip_address, new.user_agent, new.units,
      new.recorded_at)
    is distinct from (old.user_id, old.timestamp, old.id, old.api_key_id, old.event_id, old.endpoint,
      old.location, old.state, old.date_from, old.date_to, old.ip_address, old.user_agent, old.units,
      old.recorded_at)
  then
    raise exception 'a call that was counted is not changed, it may only get its outcome'
      using errcode = 'restrict_violation';
  end if;
  return new;
end $$;
create or replace trigger keep before update on usage
  for each row execute function keep_usage();

-- The sums follow in the same statement, whoever that is: the call leaves those without a status, and
-- sum_up_usage() adds it to those with its own. What is empty then is not kept.
create or replace function leave_unsettled() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  with sums as materialized (
    select user_id, hour, day, endpoint, api_key_id, grouping(hour) = 1 as of_day,
      count(*) as requests, sum(units)::bigint as units
    from (
      select user_id, endpoint, units, date_trunc('hour', timestamp, 'UTC') as hour,
        (timestamp at time zone 'UTC')::date as day,
        coalesce(api_key_id, '00000000-0000-0000-0000-000000000000') as api_key_id
      from settled
    ) as event
    group by user_id, day, endpoint, api_key_id, grouping sets ((hour), ())
  ), emptied_hours as (
    delete from usage_hours as here using sums as gone
    where not of_day and here.user_id = gone.user_id and here.hour = gone.hour
      and here.endpoint = gone.endpoint and here.api_key_id = gone.api_key_id
      and here.status_code = 0 and here.requests = gone.requests
  ), left_hours as (
    update usage_hours as here set requests = here.requests - gone.requests,
      units = here.units - gone.units
    from sums as gone
    where not of_day and here.user_id = gone.user_id and here.hour = gone.hour
      and here.endpoint = gone.endpoint and here.api_key_id = gone.api_key_id
      and here.status_code = 0 and here.requests > gone.requests
  ), emptied_days as (
    delete from usage_days as here using sums as gone
    where of_day and here.user_id = gone.user_id and here.day = gone.day
      and here.endpoint = gone.endpoint and here.api_key_id = gone.api_key_id
      and here.status_code = 0 and here.requests = gone.requests
  )
  update usage_days as here set requests = here.requests - gone.requests,
    units = here.units - gone.units
  from sums as gone
  where of_day and here.user_id = gone.user_id and here.day = gone.day
    and here.endpoint = gone.endpoint and here.api_key_id = gone.api_key_id
    and here.status_code = 0 and here.requests > gone.requests;
  return null;
end $$;
revoke execute on function leave_unsettled() from public;
create or replace trigger leave_unsettled after update on usage referencing new table as settled
  for each statement execute function leave_unsettled();
create or replace trigger sum_up_outcomes after update on usage referencing new table as added
  for each statement execute function sum_up_usage();
