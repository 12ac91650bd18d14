-- Usage: who may read it, its months, and the sums that are written with every event.

call lock_down('usage');
call lock_down('usage_event_ids');
call lock_down('usage_kept');
call lock_down('monthly_usage');
call lock_down('api_key_months');
call lock_down('usage_hours');
call lock_down('usage_days');
call lock_down('usage_grants');
call lock_down('quota_warnings');
call lock_down('meters');
call lock_down('usage_stops');

-- Only the functions of this room write usage; customers read theirs, staff everybody's.
call let_owner('usage');
call let_staff('usage');
call let_worker('usage');
call let_owner('monthly_usage');
call let_staff('monthly_usage');
call let_worker('monthly_usage');
call let_owner('usage_days');
call let_staff('usage_days');
call let_worker('usage_days');
call let_analytics('monthly_usage');
call let_analytics('usage_days');

call let_owner('usage_stops');
call let_staff('usage_stops');
call let_worker('usage_stops', 'select, insert, delete');

call let_owner('usage_grants');
call let_staff('usage_grants', 'select, insert (user_id, month, units, reason)');
call let_worker('usage_grants');
create or replace function sign_usage_grant() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  new.granted_by := current_subject();
  return new;
end $$;
create or replace trigger sign before insert on usage_grants
  for each row execute function sign_usage_grant();

call let_worker('quota_warnings', 'select, update (mailed_at)');
call let_worker('usage_kept');
call never_removed('usage_kept');
call let_worker('usage_event_ids', 'select, delete');
call let_owner('usage_hours');
call let_staff('usage_hours');
call let_worker('usage_hours');
grant delete on usage_hours to worker_user;
create policy pruning on usage_hours for delete to worker_user
  using (hour < now() - interval '1 month');

-- Ids that differ by their number alone: to draw each would cost a call of the system each.
create or replace function nth_id(pattern text, n integer) returns uuid
language sql immutable parallel safe
return (left(pattern, -4) || lpad(to_hex(n), 4, '0'))::uuid;

-- The name of a month, as monthly_usage has it, and its first moment.
create or replace function month_of(moment timestamptz) returns text
language sql stable parallel safe
return to_char(moment at time zone 'UTC', 'YYYY-MM');

create or replace function usage_partition(month text) returns text
language sql immutable parallel safe
return 'usage_' || replace(month, '-', '_');

-- Makes the partition of a month, if nobody has. Attaching takes a weaker lock than making it in its
-- place would: who writes usage meanwhile goes on. But nobody writes users or api_keys, to which
-- usage refers, until the transaction ends: whoever calls this does nothing long after it. And no
-- request or job has a lock on usage in hand then: who holds the one below may be waiting for usage.
create or replace function make_usage_partition(month text) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set timezone = 'UTC' as $$
declare
  its_name text := usage_partition(month);
  first timestamptz := (month || '-01')::timestamptz;
begin
  if to_regclass(its_name) is not null then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('usage partitions', 0));
  if to_regclass(its_name) is not null then
    return;
  end if;
  execute format('create table public.%I (like usage including defaults including constraints)',
    its_name);
  execute format('call lock_down(%L)', its_name);
  execute format('alter table usage attach partition %I for values from (%L) to (%L)',
    its_name, first, first + interval '1 month');
end $$;

-- Drops the months that lie before `oldest`, and says how many that were. The ids of their events go
-- after that (tasks.py), so nothing of these months is ever accepted again, however long staff then
-- keep usage: their sums have it already.
create or replace function drop_usage_partitions(oldest text) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  its_name text;
  dropped integer := 0;
begin
  if oldest > month_of(now()) then
    raise exception 'this month is still at work' using errcode = 'invalid_parameter_value';
  end if;
  for its_name in
    select inhrelid::regclass::text from pg_inherits
    where inhparent = 'usage'::regclass and inhrelid::regclass::text < usage_partition(oldest)
  loop
    execute format('drop table %s', its_name);
    dropped := dropped + 1;
  end loop;
  if dropped > 0 then
    update usage_kept set since = greatest(since, oldest);
  end if;
  return dropped;
end $$;
revoke execute on function make_usage_partition(text), drop_usage_partitions(text) from public;
grant execute on function make_usage_partition(text), drop_usage_partitions(text) to worker_user;

select make_usage_partition(month_of(date_trunc('month', now()) + month * interval '1 month'))
from generate_series(-1, 2) as month;

-- The upper bounds, in milliseconds, of the parts in which response times are counted; the last part
-- has none. metering/latency.py reads them.
create or replace function latency_bounds() returns integer[]
language sql immutable parallel safe
return array[1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000,
  3000, 5000, 10000, 30000];

-- Written out: it is worked out for every row that is summed up, and a loop takes ten times as long.
create or replace function add_latencies(one bigint[], other bigint[]) returns bigint[]
language sql immutable parallel safe
return array[
  coalesce(one[1], 0) + coalesce(other[1], 0), coalesce(one[2], 0) + coalesce(other[2], 0),
  coalesce(one[3], 0) + coalesce(other[3], 0), coalesce(one[4], 0) + coalesce(other[4], 0),
  coalesce(one[5], 0) + coalesce(other[5], 0), coalesce(one[6], 0) + coalesce(other[6], 0),
  coalesce(one[7], 0) + coalesce(other[7], 0), coalesce(one[8], 0) + coalesce(other[8], 0),
  coalesce(one[9], 0) + coalesce(other[9], 0), coalesce(one[10], 0) + coalesce(other[10], 0),
  coalesce(one[11], 0) + coalesce(other[11], 0), coalesce(one[12], 0) + coalesce(other[12], 0),
  coalesce(one[13], 0) + coalesce(other[13], 0), coalesce(one[14], 0) + coalesce(other[14], 0),
  coalesce(one[15], 0) + coalesce(other[15], 0), coalesce(one[16], 0) + coalesce(other[16], 0),
  coalesce(one[17], 0) + coalesce(other[17], 0), coalesce(one[18], 0) + coalesce(other[18], 0),
  coalesce(one[19], 0) + coalesce(other[19], 0), coalesce(one[20], 0) + coalesce(other[20], 0),
  coalesce(one[21], 0) + coalesce(other[21], 0), coalesce(one[22], 0) + coalesce(other[22], 0),
  coalesce(one[23], 0) + coalesce(other[23], 0), coalesce(one[24], 0) + coalesce(other[24], 0),
  coalesce(one[25], 0) + coalesce(other[25], 0)
];
create or replace aggregate sum_latencies (bigint[]) (
  sfunc = add_latencies, stype = bigint[], initcond = '{}'
);

-- How many response times fall in which part; unknown ones in none.
create or replace function latencies_of(times integer[]) returns bigint[]
language plpgsql immutable parallel safe as $$
declare
  counts bigint[] := array_fill(0, array[cardinality(latency_bounds()) + 1]);
  part integer;
  ms integer;
begin
  foreach ms in array coalesce(times, '{}') loop
    continue when ms is null;
    part := width_bucket(ms, latency_bounds()) + 1;
    counts[part] := counts[part] + 1;
  end loop;
  return counts;
end $$;
create or replace aggregate count_latencies (integer) (
  sfunc = array_append, stype = integer[], finalfunc = latencies_of
);

-- Everything that usage adds up to, in the statement that writes it, whoever that is. What is counted
-- here and what a recount of the events finds cannot differ. A call that only gets its outcome
-- (settle.sql) is in the totals of its month and of its key already.
create or replace function sum_up_usage() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  with sums as materialized (
    select user_id, hour, day, endpoint, api_key_id, status_code, grouping(hour) = 1 as of_day,
      count(*) as requests, sum(units)::bigint as units, count(response_time_ms) as timed,
      coalesce(sum(response_time_ms), 0)::bigint as total_response_time_ms,
      count_latencies(response_time_ms) as latencies
    from (
      select user_id, endpoint, units, response_time_ms,
        date_trunc('hour', timestamp, 'UTC') as hour, (timestamp at time zone 'UTC')::date as day,
        coalesce(api_key_id, '00000000-0000-0000-0000-000000000000') as api_key_id,
        coalesce(status_code, 0)::smallint as status_code
      from added
    ) as event
    group by user_id, day, endpoint, api_key_id, status_code, grouping sets ((hour), ())
  ), by_hour as (
    insert into usage_hours as here (user_id, hour, endpoint, api_key_id, status_code,
      requests, units, timed, total_response_time_ms, latencies)
    select user_id, hour, endpoint, api_key_id, status_code,
      requests, units, timed, total_response_time_ms, latencies
    from sums where not of_day order by 1, 2, 3, 4, 5
    on conflict on constraint pk_usage_hours do update set
      requests = here.requests + excluded.requests,
      units = here.units + excluded.units,
      timed = here.timed + excluded.timed,
      total_response_time_ms = here.total_response_time_ms + excluded.total_response_time_ms,
      latencies = case when excluded.timed = 0 then here.latencies
        else add_latencies(here.latencies, excluded.latencies) end
  ), by_day as (
    insert into usage_days as here (user_id, day, endpoint, api_key_id, status_code,
      requests, units, timed, total_response_time_ms, latencies)
    select user_id, day, endpoint, api_key_id, status_code,
      requests, units, timed, total_response_time_ms, latencies
    from sums where of_day order by 1, 2, 3, 4, 5
    on conflict on constraint pk_usage_days do update set
      requests = here.requests + excluded.requests,
      units = here.units + excluded.units,
      timed = here.timed + excluded.timed,
      total_response_time_ms = here.total_response_time_ms + excluded.total_response_time_ms,
      latencies = case when excluded.timed = 0 then here.latencies
        else add_latencies(here.latencies, excluded.latencies) end
  ), by_key as (
    insert into api_key_months as here (line_id, month, requests, units)
    select (select line_id from api_keys where id = sums.api_key_id), to_char(day, 'YYYY-MM'),
      sum(requests)::bigint, sum(units)::bigint
    from sums where of_day and tg_op = 'INSERT'
      and api_key_id <> '00000000-0000-0000-0000-000000000000'
    group by 1, 2 order by 1, 2
    on conflict on constraint pk_api_key_months do update set
      requests = here.requests + excluded.requests, units = here.units + excluded.units
  )
  insert into monthly_usage as here (user_id, month, total_requests, successful_requests,
    failed_requests, total_response_time_ms, units)
  select user_id, to_char(day, 'YYYY-MM'),
    case tg_op when 'INSERT' then sum(requests)::bigint else 0 end,
    coalesce(sum(requests) filter (where status_code between 1 and 399), 0)::bigint,
    coalesce(sum(requests) filter (where status_code >= 400), 0)::bigint,
    sum(total_response_time_ms)::bigint,
    case tg_op when 'INSERT' then sum(units)::bigint else 0 end
  from sums where of_day group by 1, 2 order by 1, 2
  on conflict on constraint pk_monthly_usage do update set
    total_requests = here.total_requests + excluded.total_requests,
    successful_requests = here.successful_requests + excluded.successful_requests,
    failed_requests = here.failed_requests + excluded.failed_requests,
    total_response_time_ms = here.total_response_time_ms + excluded.total_response_time_ms,
    units = here.units + excluded.units,
    last_updated = clock_timestamp();
  return null;
end $$;
revoke execute on function sum_up_usage() from public;
create or replace trigger sum_up after insert on usage referencing new table as added
  for each statement execute function sum_up_usage();

-- What each tier may use: as declared in metering/rules.py, or as staff have set it.
create or replace function metering_terms(defaults jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
begin
  return defaults || coalesce(
    (select jsonb_object_agg(key, value) from settings where defaults ? key and value is not null), '{}');
end $$;

-- Meters have no foreign key: they are of customers and of lines of keys, which begin with a key.
create or replace function forget_meters() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  delete from meters where id in (select id from gone);
  return null;
end $$;
revoke execute on function forget_meters() from public;
create or replace trigger forget_meters after delete on users referencing old table as gone
  for each statement execute function forget_meters();
create or replace trigger forget_meters after delete on api_keys referencing old table as gone
  for each statement execute function forget_meters();

-- What one customer has in one month; 0: without end, grants or not.
create or replace function quota_of(its_user uuid, its_tier text, its_month text, terms jsonb)
returns bigint
language sql stable set search_path = pg_catalog, public, pg_temp as $$
  select case when tier_has = 0 then 0 else tier_has + coalesce((
    select sum(units) from usage_grants where user_id = its_user and month = its_month::char(7)), 0) end::bigint
  from (select coalesce(terms ->> ('quota_' || its_tier), '0')::bigint as tier_has) as tier
$$;

-- Once for each step of a quota in its month: a job mails it (metering/tasks.py). At the time of the
-- clock, under the customer's lock: now() is when the transaction began to wait for it.
create or replace function notice_quota(
  its_user uuid, its_month text, its_used bigint, its_quota bigint, hard boolean
) returns void
language sql set search_path = pg_catalog, public, pg_temp as $$
  insert into quota_warnings (user_id, month, percent, used, quota, is_hard, noticed_at)
  select its_user, its_month, percent, its_used, its_quota, hard, clock_timestamp()
  from unnest(array[80, 100]) as percent
  where its_quota > 0 and its_used >= (its_quota * percent + 99) / 100
  on conflict do nothing
$$;
revoke execute on function notice_quota(uuid, text, bigint, bigint, boolean) from public;

-- What names a person in raw usage goes with an erased account: its keys, and with them their calls.
create or replace function forget_usage(its_user uuid) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  delete from api_keys where user_id = its_user
    and exists (select from users where id = its_user and erased_at is not null);
  delete from usage where user_id = its_user
    and exists (select from users where id = its_user and erased_at is not null);
$$;
revoke execute on function forget_usage(uuid) from public;
grant execute on function forget_usage(uuid) to worker_user;
