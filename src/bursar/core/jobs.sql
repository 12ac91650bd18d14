-- The queue: jobs come in through enqueue_job alone, the worker does everything else.

call lock_down('pgqueuer');
call let_worker('pgqueuer', 'select, update, delete');

call lock_down('pgqueuer_log');
call let_worker('pgqueuer_log', 'select, insert, delete');

call lock_down('pgqueuer_schedules');
call let_worker('pgqueuer_schedules', 'select, insert, update, delete');

call lock_down('pgqueuer_statistics');

revoke all on sequence pgqueuer_id_seq, pgqueuer_schedules_id_seq, pgqueuer_log_id_seq
  from public, app_user, auth_user, staff_user, worker_user;
grant usage on sequence pgqueuer_schedules_id_seq to worker_user;

-- The one way onto the queue, with what PgQueuer's own adding does: row, log row, unique key; its
-- trigger notifies. Who may add which job is for the worker to say, which knows the jobs
-- (`added_by`, core/jobs.py); it goes by what is written here and cannot be forged: the login role.
-- A cron job is the worker's alone also here, or its next time could be taken by somebody else.
create or replace function enqueue_job(
  name text, payload json, unique_key text default null, run_at timestamptz default null
) returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  added bigint;
begin
  if not coalesce(is_qualified_name(name), false) then
    raise exception 'this is no name of a job' using errcode = 'invalid_parameter_value';
  end if;
  if session_user <> 'worker_user'
    and exists (select from pgqueuer_schedules as schedule where schedule.entrypoint = name) then
    raise exception 'permission denied: % is added by its schedule', name
      using errcode = 'insufficient_privilege';
  end if;
  if not coalesce(json_typeof(payload) = 'object' and octet_length(payload::text) <= 65536, false)
  then
    raise exception 'a payload is an object of at most 65536 bytes'
      using errcode = 'invalid_parameter_value';
  end if;
  if length(unique_key) not between 1 and 200 then
    raise exception 'a unique key has 1 to 200 characters'
      using errcode = 'invalid_parameter_value';
  end if;
  if run_at > now() + interval '366 days' then
    raise exception 'a job waits for a year at most' using errcode = 'invalid_parameter_value';
  end if;
  insert into pgqueuer
    (priority, status, entrypoint, payload, execute_after, dedupe_key, headers)
  values (
    0, 'queued', name, convert_to(payload::text, 'UTF8'), greatest(run_at, now()),
    name || ':' || unique_key,
    jsonb_build_object('added_by', session_user, 'actor', current_subject())
  )
  on conflict (dedupe_key) where status in ('queued', 'picked') and dedupe_key is not null
  do nothing
  returning id into added;
  if added is not null then
    insert into pgqueuer_log (job_id, status, entrypoint, priority)
    values (added, 'queued', name, 0);
  end if;
  return added;
end $$;
revoke execute on function enqueue_job(text, json, text, timestamptz) from public;
grant execute on function enqueue_job(text, json, text, timestamptz)
  to app_user, auth_user, staff_user, worker_user;

-- Whether a worker lives is for everybody: /ready asks before anyone has signed in.
call lock_down('workers');
grant select on workers to app_user, auth_user, staff_user;
create policy reading on workers for select to app_user, auth_user, staff_user using (true);
call let_worker('workers', 'select, insert, update, delete');
