-- Where an account stood at a moment, in time that hardly grows with its entries. `posted_at` never goes
-- backwards along the numbers of an account (guards.sql sees to it), so the newest entry of a moment
-- is found by halving.

-- Whether the login role at work may know about an account: a customer's about its own, staff's about
-- all as soon as it says for whom it asks.
create or replace function may_see(account uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, public, pg_temp
return case session_user
  when 'app_user' then exists (
    select from accounts where id = account and owner_id = current_subject())
  when 'staff_user' then current_subject() is not null
  else true
end;

-- The number of the newest entry posted by then; 0 if there is none.
create or replace function seq_at(account uuid, moment timestamptz) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  low bigint := 0;  -- posted by then, or before the first
  high bigint;      -- posted later, or behind the last
  middle bigint;
  newest timestamptz;
  happened timestamptz;
begin
  select accounts.seq + 1, moved_at into high, newest
  from accounts
  where id = account and may_see(account);
  if newest is null or moment is null then
    return 0;
  elsif newest <= moment then
    return high - 1;
  end if;
  while high - low > 1 loop
    middle := (low + high) / 2;
    select posted_at into happened from transfers where debit_id = account and debit_seq = middle;
    if not found then
      select posted_at into happened from transfers where credit_id = account and credit_seq = middle;
    end if;
    if happened <= moment then
      low := middle;
    else
      high := middle;
    end if;
  end loop;
  return low;
end $$;

-- The balance by what was posted by then, or by what had taken effect: that is the same, but for the
-- few entries of which the moment lies between the two. An index on that span finds them, and only
-- them, however many others took effect at another time than they were posted. Null if there is no
-- such account.
create or replace function balance_at(
  account uuid, moment timestamptz, effective boolean default false
) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  balance numeric;
begin
  perform from accounts where id = account and may_see(account);
  if not found or moment is null then
    return null;
  end if;
  select coalesce(min(entry.balance), 0) into balance
  from entry_at(account, seq_at(account, moment)) as entry;
  if effective then  -- early ones not yet, late ones already
    select balance + coalesce(sum(case when effective_at > moment then -delta else delta end), 0)
    into balance from (
      select effective_at, -amount as delta from transfers
      where debit_id = account and effective_at is not null and tstzrange(
        least(effective_at, posted_at), greatest(effective_at, posted_at)) @> moment
      union all
      select effective_at, amount from transfers
      where credit_id = account and effective_at is not null and tstzrange(
        least(effective_at, posted_at), greatest(effective_at, posted_at)) @> moment
    ) as between_the_two;
  end if;
  return balance::bigint;
end $$;

revoke execute on function seq_at(uuid, timestamptz), balance_at(uuid, timestamptz, boolean)
  from public;
grant execute on function seq_at(uuid, timestamptz), balance_at(uuid, timestamptz, boolean)
  to app_user, staff_user, worker_user;
