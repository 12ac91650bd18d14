-- API keys: customers have their own, staff see and end all, the door knows them by their hash.

call lock_down('api_keys');

grant select (id, user_id, name, start, last_four, scopes, allowed_addresses, per_second, per_minute,
  per_month, expires_at, grace_until, rotated_from, line_id, status, revoked_at, revoke_reason,
  last_used_at, created_by, version, created_at, updated_at, searched)
  on api_keys to app_user, staff_user;
grant insert (user_id, name, key_hash, start, last_four, scopes, allowed_addresses, per_second,
  per_minute, per_month, expires_at, rotated_from)
  on api_keys to app_user, staff_user;
call let_owner('api_keys', 'select (id), insert (user_id), update (name, scopes, allowed_addresses, per_second, per_minute,
  per_month, expires_at, grace_until, status, revoke_reason)');
call let_staff('api_keys', 'select (id), insert (user_id), update (name, scopes, allowed_addresses, per_second, per_minute,
  per_month, expires_at, grace_until, status, revoke_reason)');
-- For the same reason as in accounts/database.sql: behind the policy the index would not be used.
create or replace function keys_like(pattern text) returns setof uuid
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select id from api_keys where searched like pattern and current_subject() is not null
$$;
revoke execute on function keys_like(text) from public;
grant execute on function keys_like(text) to staff_user;

call let_door('api_keys', 'select, update (last_used_at, status, revoke_reason)');
call let_worker('api_keys', 'select (id, user_id, line_id, name, start, last_four, scopes, expires_at,
  grace_until, status, created_at)');

-- Not for the time of the last use: who calls must not spoil an edit.
create or replace trigger touch before update of name, scopes, allowed_addresses, per_second,
  per_minute, per_month, expires_at, grace_until, status on api_keys
  for each row execute function touch();

-- Who makes a key is who asks, and it continues the line of the key it replaces. An end is for ever,
-- and its moment is PostgreSQL's. A key that was replaced goes at the end of its grace, and no edit
-- makes that later.
create or replace function settle_key() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    new.created_by := coalesce(current_subject(), new.created_by);
    new.line_id := coalesce((select line_id from api_keys
      where id = new.rotated_from and user_id is not distinct from new.user_id), new.id);
    return new;
  end if;
  if old.status = 'revoked' and (new.status, new.revoked_at, new.revoke_reason)
    is distinct from (old.status, old.revoked_at, old.revoke_reason)
  then
    raise exception 'a key that was revoked stays so' using errcode = 'restrict_violation';
  end if;
  if old.status <> 'revoked' and new.status = 'revoked' then
    new.revoked_at := clock_timestamp();
  end if;
  if old.grace_until is not null and coalesce(new.grace_until, 'infinity') > old.grace_until then
    raise exception 'a key that was replaced lives no longer than was said'
      using errcode = 'restrict_violation';
  end if;
  return new;
end $$;
create or replace trigger settle before insert or update on api_keys
  for each row execute function settle_key();

-- The limits of a key are those of its line: a change of one holds for all that are still good.
create or replace function share_limits() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  update api_keys
  set per_second = new.per_second, per_minute = new.per_minute, per_month = new.per_month
  where line_id = new.line_id and id <> new.id and status = 'active'
    and (per_second, per_minute, per_month)
      is distinct from (new.per_second, new.per_minute, new.per_month);
  return null;
end $$;
create or replace trigger share_limits after insert or update of per_second, per_minute, per_month
  on api_keys for each row execute function share_limits();

-- Every API process knows keys by heart (keys/keyring.py) and forgets what is named here: a key, or
-- a customer whose keys all stand or fall with the account.
create or replace function announce_key() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  perform pg_notify('bursar_keys_changed', old.id::text);
  return null;
end $$;
create or replace trigger announce after update of scopes, allowed_addresses, per_second, per_minute,
  per_month, expires_at, grace_until, status on api_keys
  for each row execute function announce_key();
create or replace trigger announce_removal after delete on api_keys
  for each row execute function announce_key();
create or replace trigger announce_keys after update of status on users
  for each row when (old.status is distinct from new.status) execute function announce_key();

-- A key that is good, for the door, which decides whether it may come from there (keys/keyring.py).
create or replace function find_key(its_hash bytea) returns table (
  id uuid, line_id uuid, user_id uuid, scopes varchar[], allowed_addresses cidr[], ends_at timestamptz,
  is_limited boolean
)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  found_key api_keys;
begin
  select api_keys.* into found_key
  from api_keys left join users on users.id = api_keys.user_id
  where key_hash = its_hash and api_keys.status = 'active'
    and (api_keys.user_id is null or users.status = 'active')
    and coalesce(least(expires_at, grace_until) > now(), true);
  if not found then
    return;
  end if;
  return query select found_key.id, found_key.line_id, found_key.user_id, found_key.scopes,
    found_key.allowed_addresses, least(found_key.expires_at, found_key.grace_until),
    coalesce(found_key.per_second, found_key.per_minute) is not null;
end $$;

-- Once a minute for each key, and never waiting for whoever does the same.
create or replace function note_key_use(keys uuid[]) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  update api_keys set last_used_at = now() where id in (
    select id from api_keys
    where id = any (keys) and coalesce(last_used_at < now() - interval '1 minute', true)
    for no key update skip locked
  );
end $$;
revoke execute on function find_key(bytea), note_key_use(uuid[]) from public;
grant execute on function find_key(bytea), note_key_use(uuid[]) to auth_user;
