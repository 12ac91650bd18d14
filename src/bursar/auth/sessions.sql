-- Sessions: the door opens and renews them, people see and end their own, staff see and end all.

call lock_down('sessions');
call let_door('sessions', 'select, insert, update');

-- Nobody else reads a hash of a refresh token. lock_down has also taken away what columns had. Where
-- `select (id)` is said below, these columns are meant.
grant select (
  id, kind, subject, scope, method, impersonator, address, user_agent, created_at, last_used_at,
  idle_seconds, expires_at, renewable_until, generation, ended_at, end_reason
) on sessions to app_user, staff_user, worker_user;
grant update (ended_at, end_reason) on sessions to app_user;
create policy own on sessions for select to app_user
  using (kind = 'customer'
    and subject = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid);
create policy own_ending on sessions for update to app_user
  using (kind = 'customer'
    and subject = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid);
call let_staff('sessions', 'select (id), update (ended_at, end_reason)');

-- The worker forgets where people were, and what is over, but nothing that a process may still have to hear of: an access
-- token is good for an hour at most (auth/endings.py).
call let_worker('sessions', 'select (id), update (ended_at, end_reason, address, user_agent)');
grant delete on sessions to worker_user;
create policy pruning on sessions for delete to worker_user
  using (expires_at < now() - interval '1 day');

-- An end is for ever, and its time is PostgreSQL's: one that lay in the past would be looked for in
-- vain by the processes that have to hear of it. Not now(): that is when the transaction began.
create or replace function settle_session_end() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if old.ended_at is not null then
    if (new.ended_at, new.end_reason, new.expires_at)
      is distinct from (old.ended_at, old.end_reason, old.expires_at) then
      raise exception 'a session that has ended stays as it is'
        using errcode = 'restrict_violation';
    end if;
  elsif new.ended_at is not null then
    new.ended_at := clock_timestamp();
    new.expires_at := least(new.expires_at, new.ended_at);
    new.refresh_hash := null;
  end if;
  return new;
end $$;
create or replace trigger settle_end before update on sessions
  for each row execute function settle_session_end();

-- Every API process listens (auth/endings.py), for it takes access tokens without a look in here.
create or replace function announce_session_end() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  perform pg_notify('bursar_sessions_ended', new.id::text);
  return null;
end $$;
create or replace trigger announce_end after update on sessions
  for each row when (old.ended_at is null and new.ended_at is not null)
  execute function announce_session_end();

-- Opens a session, and ends the one that rested longest where a person has too many. It skips what
-- another sign-in of the same person is just ending: two of them never wait in a circle.
create or replace function open_session(
  its_kind text, its_subject uuid, its_scope text, its_method text, its_impersonator uuid,
  its_address text, its_user_agent text, its_idle_seconds integer, first interval, absolute interval,
  its_refresh_hash bytea, most integer
) returns setof sessions
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  opened sessions;
begin
  insert into sessions (
    kind, subject, scope, method, impersonator, address, user_agent, idle_seconds, expires_at,
    renewable_until, refresh_hash
  ) values (
    its_kind, its_subject, its_scope, its_method, its_impersonator, its_address, its_user_agent,
    its_idle_seconds, now() + first, now() + absolute, its_refresh_hash
  ) returning * into opened;
  update sessions set ended_at = now(), end_reason = 'too_many' where id in (
    select id from sessions
    where kind = its_kind and subject = its_subject and impersonator is null
      and ended_at is null and expires_at > now()
    order by last_used_at desc, id desc offset most for update skip locked
  );
  return next opened;
end $$;
revoke execute on function open_session(text, uuid, text, text, uuid, text, text, integer, interval,
  interval, bytea, integer) from public;
grant execute on function open_session(text, uuid, text, text, uuid, text, text, integer, interval,
  interval, bytea, integer) to auth_user;
