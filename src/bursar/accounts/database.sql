-- Customers and staff. Hashes and second factors are for the door (auth_user) alone.

-- The full name and its two parts, whichever of them somebody writes.
create or replace function keep_names_in_step() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  parts_given boolean;
begin
  if tg_op = 'INSERT' then
    parts_given := new.first_name <> '' or new.last_name <> '';
  else
    parts_given := (new.first_name, new.last_name)
      is distinct from (old.first_name, old.last_name);
  end if;
  if parts_given then
    new.name := trim(new.first_name || ' ' || new.last_name);
  elsif tg_op = 'INSERT' or new.name is distinct from old.name then
    new.name := trim(new.name);
    new.first_name := split_part(new.name, ' ', 1);
    new.last_name := trim(substr(new.name, length(new.first_name) + 1));
  end if;
  return new;
end $$;

-- A deleted account has a date: the job that erases it counts from there.
create or replace function date_deletion() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  new.deleted_at := case when new.status = 'deleted' then coalesce(new.deleted_at, now()) end;
  return new;
end $$;

call lock_down('users');
create or replace trigger names before insert or update of name, first_name, last_name on users
  for each row execute function keep_names_in_step();
create or replace trigger deletion before insert or update of status on users
  for each row execute function date_deletion();
-- Not for what sign-in writes: a customer who comes in must not spoil an edit by staff.
create or replace trigger touch before update of
  email, email_verified, username, name, first_name, last_name, user_type, role, tier, status on users
  for each row execute function touch();

grant select (id, email, email_verified, username, name, first_name, last_name, user_type, role,
  tier, status, is_active, last_login, deleted_at, erased_at, version, created_at, updated_at)
  on users to app_user, staff_user;
call let_owner('users', 'select (id), update (username, name, first_name, last_name)', its => 'id');
call let_staff('users', 'select (searched, login_attempts, locked_until),
  insert (email, email_verified, username, name, first_name, last_name, user_type, role, tier, status),
  update (email, email_verified, username, name, first_name, last_name, user_type, role, tier, status)');
call let_door('users', 'select, insert, update');
-- The worker erases: it may take a hash away, and not read one.
call let_worker('users',
  'select (id, email, email_verified, username, name, first_name, last_name, user_type, role, tier,
    status, is_active, last_login, deleted_at, erased_at, version, created_at, updated_at),
  update (email, email_verified, username, name, first_name, last_name, password_hash,
    login_attempts, locked_until, last_login, erased_at)');

-- Before the condition of a policy PostgreSQL uses no index whose operators are not leakproof, and
-- those on words and on lower() are not. So these three look for themselves, and see what the policies
-- would let the caller see.
create or replace function may_find(customer uuid) returns boolean
language sql stable set search_path = pg_catalog, public, pg_temp
return case session_user
  when 'app_user' then customer is not distinct from current_subject()
  when 'staff_user' then current_subject() is not null
  else true
end;

create or replace function customer_with_email(address text) returns uuid
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select id from users where lower(email) = lower(address) and may_find(id)
$$;

create or replace function customer_with_username(its_username text) returns uuid
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select id from users where lower(username) = lower(its_username) and may_find(id)
$$;

-- All of the patterns fit; without a status, anybody who is not deleted. As text, so that PostgreSQL
-- sees what is looked for when it plans.
create or replace function customers_like(
  patterns text[], its_status text, its_tier text, its_role text, most integer
) returns setof uuid
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if may_find(null) then
    return query execute (
      select 'select id from users where ' || string_agg(format('searched like %L', pattern), ' and ')
      from unnest(patterns) as pattern
    ) || case when its_status is null then ' and status <> ''deleted'''
        else format(' and status = %L', its_status) end
      || case when its_tier is null then '' else format(' and tier = %L', its_tier) end
      || case when its_role is null then '' else format(' and role = %L', its_role) end
      || format(' limit %s', most);
  end if;
end $$;

revoke execute on function may_find(uuid), customer_with_email(text), customer_with_username(text),
  customers_like(text[], text, text, text, integer) from public;
grant execute on function customer_with_email(text), customer_with_username(text)
  to app_user, auth_user, staff_user, worker_user;
grant execute on function customers_like(text[], text, text, text, integer) to staff_user;

call lock_down('user_preferences');
create or replace trigger touch before update on user_preferences
  for each row execute function touch();
call let_owner('user_preferences', 'select, insert, update');
call let_staff('user_preferences');
call let_worker('user_preferences', 'select, delete');

call lock_down('admin_users');
create or replace trigger touch before update of email, name, role, status, totp_confirmed_at
  on admin_users
  for each row execute function touch();

-- However it is tried, also by two owners at once and also as the database's owner: one stays.
create or replace function keep_an_owner() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if old.role <> 'owner' or old.status <> 'active' then
    return coalesce(new, old);
  end if;
  if tg_op = 'UPDATE' then
    if new.role = 'owner' and new.status = 'active' then
      return new;
    end if;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('the last owner', 0));
  if not exists (
    select from admin_users where role = 'owner' and status = 'active' and id <> old.id
  ) then
    raise exception 'the last owner stays' using errcode = 'restrict_violation';
  end if;
  return coalesce(new, old);
end $$;
create or replace trigger keep_an_owner before update or delete on admin_users
  for each row execute function keep_an_owner();
create or replace trigger refuse_truncate before truncate on admin_users
  for each statement execute function refuse_change();

call let_staff('admin_users',
  'select (id, email, name, role, status, login_attempts, locked_until, totp_confirmed_at, last_login,
    invited_by, version, created_at, updated_at),
  insert (email, name, role, status, invited_by), update (email, name, role, status)');
call let_door('admin_users', 'select, insert, update');
call let_worker('admin_users', 'select (id, email, name, role, status, totp_confirmed_at, last_login,
  invited_by, version, created_at, updated_at)');

-- Who of the staff is at work in this transaction: somebody who is active, or the operator of the
-- machine (auth/actor.py). For functions that do what no login role may do by itself. Whoever was
-- suspended since they came through the door is told what the next request will tell them.
create or replace function staff_at_work() returns uuid
language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  who uuid := current_subject();
begin
  if who = '00000000-0000-7000-8000-000000000001'
    or exists (select from admin_users where id = who and status = 'active')
  then
    return who;
  end if;
  raise exception 'You are not at work here any more; sign in again.'
    using errcode = 'AU401';  -- auth.bad_token
end $$;
revoke execute on function staff_at_work() from public;

call lock_down('recovery_codes');
call let_door('recovery_codes', 'select, insert, update, delete');

call lock_down('identities');
call let_door('identities', 'select, insert, delete');
call let_owner('identities');
call let_worker('identities', 'select, delete');

-- The end of every sign-in, in one round trip: counts start again, a session opens, the audit has its
-- row. A sign-in by password says what it has seen; if any of that has changed since, nobody comes in
-- and the caller looks why. Who has proved themselves otherwise, and holds the row, says nothing.
create or replace function let_in(
  seen_version integer, seen_hash text, new_hash text, request_id text, forgiven bytea[],
  its_kind text, person uuid, its_scope text, its_method text, its_impersonator uuid,
  its_address text, its_user_agent text, its_idle_seconds integer, first interval, absolute interval,
  its_refresh_hash bytea, most integer
) returns setof sessions
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if its_kind = 'customer' then
    update users set login_attempts = 0, locked_until = null, last_login = now(),
      password_hash = coalesce(new_hash, password_hash)
    where id = person and status in ('active', 'pending')
      and (seen_hash is null or (version = seen_version and password_hash = seen_hash
        and coalesce(locked_until <= now(), true)));
  else
    update admin_users set login_attempts = 0, locked_until = null, last_login = now(),
      password_hash = coalesce(new_hash, password_hash)
    where id = person and status = 'active'
      and (seen_hash is null or (version = seen_version and password_hash = seen_hash
        and coalesce(locked_until <= now(), true)));
  end if;
  if not found then
    return;
  end if;
  perform clear_attempts(forgiven);
  perform record_audit(
    case its_kind when 'customer' then 'users.signed_in' else 'staff.signed_in' end,
    case its_kind when 'customer' then 'user' else 'staff' end, person::text,
    null, json_build_object('method', its_method),
    its_kind, person, null, null, its_address, request_id);
  return query select * from open_session(its_kind, person, its_scope, its_method, its_impersonator,
    its_address, its_user_agent, its_idle_seconds, first, absolute, its_refresh_hash, most);
end $$;
revoke execute on function let_in(integer, text, text, text, bytea[], text, uuid, text, text, uuid, text, text,
  integer, interval, interval, bytea, integer) from public;
grant execute on function let_in(integer, text, text, text, bytea[], text, uuid, text, text, uuid, text, text,
  integer, interval, interval, bytea, integer) to auth_user;
