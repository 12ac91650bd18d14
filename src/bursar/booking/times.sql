-- When a provider can be booked: hours by their own clock, less what is closed, less what is taken.

-- What staff have set (booking/rules.py), or the default; a test compares the two lists.
create or replace function booking_rule(name text) returns integer
language sql stable set search_path = pg_catalog, public, pg_temp
return coalesce(
  (select (value #>> '{}')::numeric::integer from public.settings where key = name),
  case name
    when 'booking_lead_minutes' then 60
    when 'booking_horizon_days' then 90
    when 'booking_step_minutes' then 15
    when 'booking_open_unpaid_at_most' then 3
    when 'booking_pay_within_minutes' then 60
    when 'booking_moved_up_pay_within_hours' then 24
    when 'booking_waiting_at_most' then 500
    when 'cancel_free_hours' then 24
    when 'cancel_late_refund_percent' then 50
  end
);

-- The moment of a time on the wall. Hours are open from the first moment that the clock shows their
-- beginning or more, until the last that it shows less than their end. So an hour that comes twice is
-- open both times, and one that is left out is not there at all.
create or replace function moment_of(wall timestamp, zone text, closing boolean)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
declare
  about timestamptz := wall at time zone zone;
  before interval := utc_offset(about - interval '36 hours', zone);
  after interval := utc_offset(about + interval '36 hours', zone);
  by_before timestamptz := (wall - before) at time zone 'UTC';
  by_after timestamptz := (wall - after) at time zone 'UTC';
  is_before boolean := by_before at time zone zone = wall;
  is_after boolean := by_after at time zone zone = wall;
begin
  if before = after then
    return by_before;
  end if;
  if closing and is_after
    and (not is_before or (by_after - interval '1 microsecond') at time zone zone < wall)
  then
    return by_after;
  end if;
  if is_before then
    return by_before;
  elsif is_after then
    return by_after;
  end if;
  return turn_between(by_after, by_before, zone);
end $$;

create or replace function utc_offset(moment timestamptz, zone text) returns interval
language sql stable set search_path = pg_catalog, public, pg_temp
return (moment at time zone zone) - (moment at time zone 'UTC');

-- When the clock was put forward, to the second, found by halving.
create or replace function turn_between(earlier timestamptz, later timestamptz, zone text)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
declare
  low timestamptz := earlier;
  high timestamptz := later;
  middle timestamptz;
  after interval := utc_offset(later, zone);
begin
  while high - low > interval '1 second' loop
    middle := date_trunc('second', low + (high - low) / 2);
    if utc_offset(middle, zone) = after then
      high := middle;
    else
      low := middle;
    end if;
  end loop;
  return high;
end $$;

-- Each stretch of working or extra hours that touches the time asked for, whole, without what is
-- closed of it. Not for customers: what their login role may know, free_slots() says.
create or replace function openings(its_provider uuid, from_at timestamptz, to_at timestamptz)
returns setof tstzrange
language sql stable set search_path = pg_catalog, public, pg_temp as $$
  with stretches as (
    select tstzrange(
      moment_of(day + make_interval(mins => starts_minute), time_zone, false),
      moment_of(day + make_interval(mins => ends_minute), time_zone, true)
    ) as during
    from providers
    cross join lateral generate_series(
      date_trunc('day', (from_at at time zone time_zone) - interval '1 day'),
      date_trunc('day', (to_at at time zone time_zone) + interval '1 day'),
      interval '1 day'
    ) as day
    join working_hours on working_hours.provider_id = providers.id
      and weekday = extract(isodow from day)
    where providers.id = its_provider
    union all
    select tstzrange(starts_at, ends_at) from availability_exceptions
    where provider_id = its_provider and kind = 'extra'
      and tstzrange(starts_at, ends_at) && tstzrange(from_at, to_at)
  ),
  closed as (
    select coalesce(range_agg(tstzrange(starts_at, ends_at)), '{}') as during
    from availability_exceptions
    where provider_id = its_provider and kind = 'closed' and tstzrange(starts_at, ends_at)
      && tstzrange(from_at - interval '32 days', to_at + interval '32 days')
  )
  select piece
  from stretches cross join closed
  cross join lateral unnest(tstzmultirange(stretches.during) - closed.during) as piece
  where not isempty(piece)
$$;

-- When something of this length may begin, by hours, lead time and horizon: every so many minutes
-- from each opening on, taken or not.
create or replace function offered(
  its_provider uuid, length interval, from_at timestamptz, to_at timestamptz
) returns setof timestamptz
language sql stable set search_path = pg_catalog, public, pg_temp as $$
  with pieces as materialized (
    select piece from openings(its_provider, from_at, to_at + length) as piece
  ),
  whole as (select range_agg(piece) as open from pieces),
  rule as (
    select make_interval(mins => booking_rule('booking_step_minutes')) as step,
      greatest(from_at, now() + make_interval(mins => booking_rule('booking_lead_minutes'))) as first,
      least(to_at, now() + make_interval(days => booking_rule('booking_horizon_days'))) as last
  )
  select distinct start
  from pieces cross join whole cross join rule
  cross join lateral generate_series(
    lower(piece) + step * greatest(
      0, ceil(extract(epoch from first - lower(piece)) / extract(epoch from step))::integer
    ),
    least(upper(piece), last),
    step
  ) as start
  where piece @> start and start >= first and start < last
    and open @> tstzrange(start, start + length)
$$;

-- What can be booked. Definer's rights: it reads whose time is taken, and tells only what is free.
create or replace function free_slots(
  its_service uuid, from_at timestamptz, to_at timestamptz, its_provider uuid, most integer
) returns table (provider_id uuid, starts_at timestamptz, ends_at timestamptz)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select provider.id, start, start + length
  from services as service
  join service_providers as gives on gives.service_id = service.id
  join providers as provider on provider.id = gives.provider_id
  cross join lateral (
    select make_interval(mins => duration_minutes) as length,
      make_interval(mins => buffer_before_minutes) as before,
      make_interval(mins => buffer_after_minutes) as after
  ) as lengths
  cross join lateral (
    select coalesce(range_agg(during), '{}') as taken from provider_times as times
    where times.provider_id = provider.id
      and during && tstzrange(from_at - interval '2 days', to_at + interval '3 days')
  ) as busy
  cross join lateral offered(provider.id, length, from_at, to_at) as start
  where service.id = its_service and service.active and provider.active
    and (its_provider is null or provider.id = its_provider)
    and not taken && tstzrange(start - before, start + length + after)
  order by start, provider.name, provider.id
  limit most
$$;

revoke execute on function openings(uuid, timestamptz, timestamptz),
  offered(uuid, interval, timestamptz, timestamptz),
  free_slots(uuid, timestamptz, timestamptz, uuid, integer) from public;
grant execute on function free_slots(uuid, timestamptz, timestamptz, uuid, integer)
  to app_user, staff_user, worker_user;
