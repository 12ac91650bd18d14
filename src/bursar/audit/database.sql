-- The audit trail: rows come in through record_audit alone, staff read them, the worker seals them,
-- and nobody changes or deletes one, the owner included.

call lock_down('audit_logs');
call let_staff('audit_logs');
call let_worker('audit_logs');

call lock_down('audit_unsealed');
call let_worker('audit_unsealed', 'select, delete');

call lock_down('audit_seals');
call let_staff('audit_seals');
call let_worker('audit_seals', 'select, insert (seq, log_id, digest, hash)');

call lock_down('audit_checkpoints');
call let_worker('audit_checkpoints', 'select, insert (seq, document)');

call lock_down('audit_shipments');
call let_worker('audit_shipments', 'select, insert (seq, place)');

call lock_down('audit_chains');
-- Not to change it, which the trigger refuses, but to lock it: of several sealers one has the row.
-- Nobody else may, while any login role could sit on an advisory lock.
call let_worker('audit_chains', 'select, update (started_at)');

-- What a caller must not forge is filled in here: login role, subject, time, transaction. Definer's
-- rights, and session_user is still whoever signed in. A customer's login role speaks for the subject
-- of the transaction, as themselves or by a key, and names staff only who act as this customer just
-- now: a request that goes on for a moment after the session's end still counts.
create or replace function record_audit(
  event_type text, target_type text, target_id text, before json, after json,
  actor_kind text, actor_id uuid, on_behalf_of uuid, impersonator_id uuid,
  address text, request_id text
) returns uuid
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  recorded uuid := uuid7();
  xact bigint := pg_current_xact_id()::text::bigint;
begin
  if not coalesce(is_qualified_name(event_type), false) then
    raise exception 'this is no name of an action' using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(actor_kind, '') not in ('customer', 'staff', 'key', 'system', 'nobody')
    or (session_user = 'app_user' and not coalesce(case actor_kind
      when 'customer' then actor_id = current_subject() and on_behalf_of is null
      when 'key' then on_behalf_of = current_subject()
    end, false))
    or (session_user = 'app_user' and record_audit.impersonator_id is not null and not exists (
      select from sessions
      where kind = 'customer' and sessions.subject = current_subject()
        and impersonator = record_audit.impersonator_id
        and expires_at > now() - interval '1 minute'
    ))
  then
    raise exception 'this is no actor that % may name', session_user
      using errcode = 'invalid_parameter_value';
  end if;
  if coalesce(json_typeof(before), 'object') <> 'object'
    or coalesce(json_typeof(after), 'object') <> 'object'
    or coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0) > 32768
  then
    raise exception 'before and after are objects of at most 32768 bytes together'
      using errcode = 'invalid_parameter_value';
  end if;
  if greatest(length(target_type), length(address)) > 100
    or greatest(length(target_id), length(request_id)) > 300
  then
    raise exception 'target, address or request id is too long'
      using errcode = 'invalid_parameter_value';
  end if;
  insert into audit_logs values (
    recorded, event_type, actor_kind, actor_id, on_behalf_of, impersonator_id,
    target_type, target_id, before, after, address, request_id,
    clock_timestamp(), session_user, current_subject(), xact
  );
  insert into audit_unsealed values (xact, recorded);
  return recorded;
end $$;
revoke execute on function record_audit(
  text, text, text, json, json, text, uuid, uuid, uuid, text, text) from public;
grant execute on function record_audit(
  text, text, text, json, json, text, uuid, uuid, uuid, text, text)
  to app_user, auth_user, staff_user, worker_user;

call write_once('audit_logs');
call write_once('audit_seals');
call write_once('audit_checkpoints');
call write_once('audit_shipments');
call write_once('audit_chains');

-- What waits leaves only when it is sealed, in the same transaction.
create or replace function refuse_unsealed() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if exists (
    select from removed where not exists (
      select from audit_seals where audit_seals.log_id = removed.log_id
    )
  ) then
    raise exception 'a row of the audit trail waits until it is sealed'
      using errcode = 'restrict_violation';
  end if;
  return null;
end $$;
create or replace trigger refuse_unsealed after delete on audit_unsealed
  referencing old table as removed
  for each statement execute function refuse_unsealed();
create or replace trigger refuse_change before update on audit_unsealed
  for each row execute function refuse_change();
create or replace trigger refuse_truncate before truncate on audit_unsealed
  for each statement execute function refuse_change();
