-- Throttles: nobody reads or writes a counter but through these functions, which only sign-in and
-- the worker may call. All of them lock rows in the order of their keys, so none waits in a circle.

call lock_down('attempts');

-- Counts one attempt on each key and answers 0, or counts nothing and answers for how many seconds
-- there is nothing to try. What is refused leaves every counter as it was: an attempt that one
-- address may not make does not use up what the account has left.
create or replace function count_attempts(
  asked_keys bytea[], asked_times integer[], asked_seconds integer[]
) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  moment constant timestamptz := clock_timestamp();
  ends timestamptz;
begin
  -- Under a flood nearly all end here: they read, and wait for nobody.
  select max(attempts.window_ends) into ends
  from unnest(asked_keys, asked_times) as asked (key, times)
  join attempts on attempts.key = asked.key
  where attempts.window_ends > moment and attempts.count >= asked.times;

  if ends is null then
    -- A row stays locked until the commit. Losing the last moments of counting in a crash of the
    -- server is nothing; waiting for its disk with a lock that everybody needs is much.
    perform set_config('synchronous_commit', 'off', true);
    with counted as (
      insert into attempts as kept (key, count, window_ends)
      select asked.key, 1, moment + make_interval(secs => asked.seconds)
      from unnest(asked_keys, asked_seconds) as asked (key, seconds)
      order by asked.key
      on conflict (key) do update set
        count = case when kept.window_ends <= moment then 1 else kept.count + 1 end,
        window_ends =
          case when kept.window_ends <= moment then excluded.window_ends else kept.window_ends end
      returning kept.key, kept.count, kept.window_ends
    )
    select max(counted.window_ends) into ends
    from counted
    join unnest(asked_keys, asked_times) as asked (key, times) on asked.key = counted.key
    where counted.count > asked.times;

    if ends is null then
      return 0;
    end if;
    -- Somebody else took the last one between looking and counting. The rows are still ours.
    update attempts set count = count - 1 where key = any (asked_keys);
  end if;

  return greatest(1, ceil(extract(epoch from ends - moment)));
end $$;

create or replace function clear_attempts(asked_keys bytea[]) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  delete from attempts where key in (
    select key from attempts where key = any (asked_keys) order by key for update);
$$;

create or replace function forget_attempts(asked_keys bytea[]) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  select set_config('synchronous_commit', 'off', true);
  select clear_attempts(asked_keys);
$$;

-- What somebody is counting on right now is left for the next time.
create or replace function prune_attempts() returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  delete from attempts where key in (
    select key from attempts where window_ends <= now() for update skip locked);
$$;

revoke execute on function count_attempts(bytea[], integer[], integer[]) from public;
revoke execute on function clear_attempts(bytea[]) from public;
revoke execute on function forget_attempts(bytea[]) from public;
revoke execute on function prune_attempts() from public;
grant execute on function count_attempts(bytea[], integer[], integer[]) to auth_user;
grant execute on function clear_attempts(bytea[]) to auth_user;
grant execute on function forget_attempts(bytea[]) to auth_user;
grant execute on function prune_attempts() to worker_user;
