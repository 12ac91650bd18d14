-- Tokens that work once: sign-in has them, the worker and staff may make and take back.

call lock_down('one_time_tokens');
grant select, delete on one_time_tokens to auth_user;
create policy door on one_time_tokens to auth_user using (true) with check (true);

-- One at a time for each purpose and subject: a new one takes the place of the one before.
create or replace function keep_one_time_token(
  new_hash bytea, for_purpose text, for_subject uuid, with_payload jsonb, lifetime interval
) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  insert into one_time_tokens (hash, purpose, subject, payload, expires_at)
  values (new_hash, for_purpose, for_subject, with_payload, now() + lifetime)
  on conflict (subject, purpose) do update set
    hash = excluded.hash,
    payload = excluded.payload,
    created_at = now(),
    expires_at = excluded.expires_at;
$$;

-- A customer takes back their own, such as by leaving.
create or replace function forget_one_time_tokens(of_subject uuid, of_purpose text) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  delete from one_time_tokens
  where subject = of_subject
    and (of_purpose is null or purpose = of_purpose)
    and (session_user <> 'app_user' or of_subject = current_subject());
$$;

create or replace function prune_one_time_tokens() returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
  delete from one_time_tokens where hash in (
    select hash from one_time_tokens where expires_at <= now() for update skip locked);
$$;

revoke execute on function keep_one_time_token(bytea, text, uuid, jsonb, interval) from public;
revoke execute on function forget_one_time_tokens(uuid, text) from public;
revoke execute on function prune_one_time_tokens() from public;
grant execute on function keep_one_time_token(bytea, text, uuid, jsonb, interval)
  to auth_user, staff_user, worker_user;
grant execute on function forget_one_time_tokens(uuid, text)
  to auth_user, staff_user, worker_user, app_user;
grant execute on function prune_one_time_tokens() to worker_user;
