-- What every table stands on. Applied again by `bursar migrate` whenever this file has changed.

-- Who asks, for triggers and defaults; policies read the setting themselves (HOUSE, "Actor").
create or replace function current_subject() returns uuid
language sql stable parallel safe
return nullif(current_setting('request.jwt.claim.sub', true), '')::uuid;

-- From PostgreSQL 18 on its own function makes time-ordered ids, four times as fast.
do $$ begin
  if current_setting('server_version_num')::integer >= 180000 then
    execute 'create or replace function uuid7() returns uuid
      language sql volatile parallel safe return uuidv7()';
  end if;
end $$;

-- Keeps updated_at and version; a row's version is its ETag.
create or replace function touch() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  new.updated_at := now();
  new.version := old.version + 1;
  return new;
end $$;

-- How jobs and events are named: by their domain, then by what they are.
create or replace function is_qualified_name(name text) returns boolean
language sql immutable parallel safe
return name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' and length(name) <= 100;

-- For tables that are written once and then only read.
create or replace function refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  raise exception 'rows of % are never changed or deleted', tg_table_name
    using errcode = 'restrict_violation';
end $$;

-- Makes a table one that is written once: no row is changed, deleted or truncated, by anybody.
create or replace procedure write_once(target regclass)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  execute format('create or replace trigger refuse_change before update or delete on %s
    for each row execute function refuse_change()', target);
  execute format('create or replace trigger refuse_truncate before truncate on %s
    for each statement execute function refuse_change()', target);
end $$;

revoke execute on procedure write_once(regclass) from public;

-- The same for a table whose rows go on changing: none is ever deleted, and all of them at once
-- neither.
create or replace procedure never_removed(target regclass)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  execute format('create or replace trigger refuse_removal before delete on %s
    for each row execute function refuse_change()', target);
  execute format('create or replace trigger refuse_truncate before truncate on %s
    for each statement execute function refuse_change()', target);
end $$;

revoke execute on procedure never_removed(regclass) from public;

-- Locks a table for everybody but its owner and forgets what an earlier version of its file
-- allowed: what stands in the file after this call is all there is.
create or replace procedure lock_down(target regclass)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  existing name;
begin
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format(
    'revoke all on %s from public, app_user, auth_user, staff_user, worker_user, analytics_user', target);
  for existing in select polname from pg_policy where polrelid = target loop
    execute format('drop policy %I on %s', existing, target);
  end loop;
  execute format(
    'create policy owner on %s to %I using (true) with check (true)', target, current_user);
end $$;

revoke execute on procedure lock_down(regclass) from public;

-- What a login role may do with a table that is locked down, and with which of its rows: the procedures
-- below say it in one call for each of them. There is a policy for each command that is named, and for
-- no other, so that a privilege from elsewhere opens nothing.
-- The claim is always a (select …): it is read once, and not for each row.
create or replace procedure let_role(
  login_role name, target regclass, privileges text, policy name, which text)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  command text;
begin
  execute format('grant %s on %s to %I', privileges, target, login_role);
  foreach command in array  -- their names, without columns
    regexp_split_to_array(regexp_replace(privileges, '\s|\([^)]*\)', '', 'g'), ',')
  loop
    execute format('create policy %I on %s for %s to %I', policy || '_' || command, target, command,
        login_role)
      || case command
        when 'select' then format(' using (%s)', which)
        when 'insert' then format(' with check (%s)', which)
        when 'update' then format(' using (%1$s) with check (%1$s)', which)
        when 'delete' then format(' using (%s)', which)
      end;
  end loop;
end $$;

-- Customers, their own rows: the column `its` says whose a row is or, with `through`, points at a row of
-- that table, of which they see their own.
create or replace procedure let_owner(
  target regclass, privileges text default 'select', its name default 'user_id',
  through regclass default null)
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('app_user', target, privileges, 'own', case when through is null
    then format('%I = (select nullif(current_setting(''request.jwt.claim.sub'', true), ''''))::uuid', its)
    else format('%I in (select id from %s)', its, through) end)
$$;

-- Customers, whoever is signed in: every row, or those `which` says.
create or replace procedure let_customers(
  target regclass, privileges text default 'select', which text default null)
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('app_user', target, privileges, 'customers', concat_ws(' and ', '(' || which || ')',
    '(select nullif(current_setting(''request.jwt.claim.sub'', true), '''')) is not null'))
$$;

-- Staff, whoever is signed in: every row.
create or replace procedure let_staff(target regclass, privileges text default 'select')
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('staff_user', target, privileges, 'staff',
    '(select nullif(current_setting(''request.jwt.claim.sub'', true), '''')) is not null')
$$;

-- The door, the worker and analysts: every row, whatever the claim says.
create or replace procedure let_door(target regclass, privileges text default 'select')
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('auth_user', target, privileges, 'door', 'true')
$$;
create or replace procedure let_worker(target regclass, privileges text default 'select')
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('worker_user', target, privileges, 'worker', 'true')
$$;
create or replace procedure let_analytics(target regclass, privileges text default 'select')
language sql set search_path = pg_catalog, public, pg_temp as $$
  call let_role('analytics_user', target, privileges, 'analytics', 'true')
$$;

revoke execute on procedure let_role(name, regclass, text, name, text),
  let_owner(regclass, text, name, regclass), let_customers(regclass, text, text),
  let_staff(regclass, text), let_door(regclass, text), let_worker(regclass, text),
  let_analytics(regclass, text) from public;

-- For tables whose rows have a number without a gap in each year: given in the transaction that writes
-- the row, so a rolled back one leaves none, and nobody chooses one. Where a table has a column
-- `series`, each of them is counted apart.
create or replace function number_in_series() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  new.issued_at := now();
  new.year := extract(year from new.issued_at at time zone 'UTC');
  insert into series_numbers as counted (series, year, last)
  values (concat_ws('.', tg_table_name, to_jsonb(new) ->> 'series'), new.year, 1)
  on conflict (series, year) do update set last = counted.last + 1
  returning last into new.number;
  return new;
end $$;
revoke execute on function number_in_series() from public;
call lock_down('series_numbers');

-- Idempotency keys: everybody sees and makes their own, nobody changes one.
call lock_down('idempotency_keys');
-- Until the end of the transaction, unless another one is at work with the key. It never waits; what
-- that one has kept shows to the next statement.
create or replace function claim_idempotency_key(subject text, key text) returns boolean
language sql
return pg_try_advisory_xact_lock(hashtextextended('idempotency ' || subject || ' ' || key, 0));
call let_role('app_user', 'idempotency_keys', 'select, insert', 'own',
  $$subject = (select nullif(current_setting('request.jwt.claim.sub', true), ''))$$);
call let_role('staff_user', 'idempotency_keys', 'select, insert', 'staff',
  $$subject = (select nullif(current_setting('request.jwt.claim.sub', true), ''))$$);
-- The door also keeps those of people who are not signed in yet: signing up is a POST too.
call let_role('auth_user', 'idempotency_keys', 'select, insert', 'door',
  $$subject = (select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), 'nobody'))$$);
-- The worker writes what is counted for others, with the answer beside it, and prunes.
call let_worker('idempotency_keys', 'select, insert, delete');
