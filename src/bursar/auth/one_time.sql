-- Tokens that work once: sign-in has them, the worker and staff may make and take back.

call lock_down('one_time_tokens');
call let_door('one_time_tokens', 'select, delete');

-- One at a time for each purpose and subject: a new one takes the place of the one before. Each login
-- role makes what its work needs, so that who has got hold of one opens no other door with it.
create or replace function keep_one_time_token(
  new_hash bytea, for_purpose text, for_subject uuid, with_payload jsonb, lifetime interval
) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if not coalesce(case session_user
    when 'staff_user' then for_purpose in ('invitation', 'verify_email')
    when 'worker_user' then for_purpose in ('reset', 'staff_reset', 'verify_email')
    else true
  end, false) then
    raise exception '% makes no token for this purpose', session_user
      using errcode = 'insufficient_privilege';
  end if;
  if not coalesce(now() + lifetime between now() and now() + interval '8 days', false) then
    raise exception 'a token lives for 8 days at most' using errcode = 'invalid_parameter_value';
  end if;
  insert into one_time_tokens (hash, purpose, subject, payload, expires_at)
  values (new_hash, for_purpose, for_subject, with_payload, now() + lifetime)
  on conflict on constraint pk_one_time_tokens do update set
    hash = excluded.hash,
    payload = excluded.payload,
    created_at = now(),
    expires_at = excluded.expires_at;
end $$;

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
