-- The outbox: events come in through publish_event alone; only the worker reads them.

call lock_down('events');
call let_worker('events', 'select, delete');

call lock_down('event_positions');
call let_worker('event_positions', 'select, insert, update, delete');

-- Who published it is written by PostgreSQL: the login role, which cannot be forged. The relay hands
-- on only what was published by a role that the event's declaration trusts (`published_by`).
create or replace function publish_event(name text, payload json) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if not coalesce(is_qualified_name(name), false) then
    raise exception 'this is no name of an event' using errcode = 'invalid_parameter_value';
  end if;
  if not coalesce(json_typeof(payload) = 'object' and octet_length(payload::text) <= 65536, false)
    or octet_length(payload::jsonb::text) > 131072  -- spaces, and 1e9999 is written out
  then
    raise exception 'a payload is an object of at most 65536 bytes'
      using errcode = 'invalid_parameter_value';
  end if;
  insert into events (name, payload, published_by) values (name, payload::jsonb, session_user);
end $$;
revoke execute on function publish_event(text, json) from public;
grant execute on function publish_event(text, json) to app_user, auth_user, staff_user, worker_user;

-- Wakes the relay when the transaction commits; many events of one transaction wake it once.
create or replace function announce_events() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  perform pg_notify('bursar_events', '');
  return null;
end $$;
create or replace trigger announce after insert on events
  for each statement execute function announce_events();

-- A dump restored into a younger server has transaction ids from the future, behind which the
-- relay would wait for years. Nothing in a dump is unfinished, so only the order matters, and who
-- had passed what: every event gets the number of positions before it as its transaction id.
create or replace function settle_restored_events() returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('bursar restored events', 0));
  if not exists (
    select from events where xid >= pg_snapshot_xmax(pg_current_snapshot())
    union all
    select from event_positions where xid > pg_snapshot_xmax(pg_current_snapshot())
  ) then
    return false;
  end if;
  lock table events, event_positions in share row exclusive mode;
  with marks as (
    select xid, event_id, row_number() over (order by xid, event_id) as place
    from (select distinct xid, event_id from event_positions) as distinct_positions
  ), moved as (
    update events as event set xid = (3 + (
      select count(*) from marks where (marks.xid, marks.event_id) < (event.xid, event.id)
    ))::text::xid8
  )
  update event_positions as position
  set xid = (2 + marks.place)::text::xid8, event_id = 9223372036854775807
  from marks where (marks.xid, marks.event_id) = (position.xid, position.event_id);
  return true;
end $$;
revoke execute on function settle_restored_events() from public;
grant execute on function settle_restored_events() to worker_user;
