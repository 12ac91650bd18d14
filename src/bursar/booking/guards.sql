-- What the database refuses, whoever asks: overlaps, overbooking, what has no way back.

-- With the code of the error that the API answers (booking/refusals.py).
create or replace function refuse_booking(code text) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  raise exception '%', code using errcode = 'BK000';
end $$;

create or replace function is_customer() returns boolean
language sql stable
return session_user = 'app_user';

-- The share that goes back to who cancels now.
create or replace function refund_share(starts_at timestamptz) returns integer
language sql stable set search_path = pg_catalog, public, pg_temp
return case
  when now() <= starts_at - make_interval(hours => booking_rule('cancel_free_hours')) then 100
  when now() < starts_at then booking_rule('cancel_late_refund_percent')
  else 0
end;

create or replace function check_time_zone() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  perform now() at time zone new.time_zone;
  return new;
exception when invalid_parameter_value then
  perform refuse_booking('booking.unknown_time_zone');
end $$;
create or replace trigger check_time_zone before insert or update of time_zone on providers
  for each row execute function check_time_zone();

-- The times of a provider are written by appointments and trainings alone. Who asks for one waits for
-- whoever asks for another: two that insert first and compare then would wait for each other.
create or replace function guard_provider_time() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if pg_trigger_depth() < 2 then
    raise exception 'appointments and trainings write their times themselves'
      using errcode = 'restrict_violation';
  end if;
  return coalesce(new, old);
end $$;
create or replace trigger guard before insert or update or delete on provider_times
  for each row execute function guard_provider_time();
create or replace trigger refuse_truncate before truncate on provider_times
  for each statement execute function refuse_change();

create or replace function keep_appointment_time() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if new.status = 'cancelled' then
    delete from provider_times where id = new.id;
    return null;
  end if;
  perform from providers where id = new.provider_id for no key update;
  insert into provider_times as held (provider_id, appointment_id, during)
  values (new.provider_id, new.id, tstzrange(
    new.starts_at - make_interval(mins => new.buffer_before_minutes),
    new.ends_at + make_interval(mins => new.buffer_after_minutes)
  ))
  on conflict (id) do update set provider_id = excluded.provider_id, during = excluded.during
    where (held.provider_id, held.during) is distinct from (excluded.provider_id, excluded.during);
  return null;
end $$;

create or replace function keep_training_time() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if new.status = 'cancelled' then
    delete from provider_times where id = new.id;
    return null;
  end if;
  perform from providers where id = new.provider_id for no key update;
  insert into provider_times as held (provider_id, training_id, during)
  values (new.provider_id, new.id, tstzrange(new.starts_at, new.ends_at))
  on conflict (id) do update set provider_id = excluded.provider_id, during = excluded.during
    where (held.provider_id, held.during) is distinct from (excluded.provider_id, excluded.during);
  return null;
end $$;

create or replace function check_gives(its_service uuid, its_provider uuid) returns void
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
begin
  if not exists (
    select from service_providers join providers on providers.id = provider_id
    where service_id = its_service and provider_id = its_provider and active
  ) then
    perform refuse_booking('booking.unknown_provider');
  end if;
end $$;

-- Nobody books what has begun; customers book what is offered.
create or replace function check_start(its_provider uuid, start timestamptz, length interval)
returns void
language plpgsql stable set search_path = pg_catalog, public, pg_temp as $$
begin
  if session_user in ('app_user', 'staff_user') and start <= now() then
    perform refuse_booking('booking.past');
  elsif not is_customer() then
    return;
  elsif start < now() + make_interval(mins => booking_rule('booking_lead_minutes')) then
    perform refuse_booking('booking.too_soon');
  elsif start >= now() + make_interval(days => booking_rule('booking_horizon_days')) then
    perform refuse_booking('booking.too_far');
  elsif not exists (
    select from offered(its_provider, length, start, start + interval '1 microsecond')
  ) then
    perform refuse_booking('booking.outside_hours');
  end if;
end $$;

-- Locks the customer, so that of one two bookings never count at once.
create or replace function check_open_unpaid(its_user uuid) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  perform from users where id = its_user for no key update;
  if (
    select count(*) from appointments
    where user_id = its_user and status in ('booked', 'confirmed') and starts_at > now()
      and payment_status = 'unpaid' and price > 0
  ) >= booking_rule('booking_open_unpaid_at_most') then
    perform refuse_booking('booking.too_many_open');
  end if;
end $$;

-- Whoever inserts an appointment says what, with whom and when; the rest is the service's.
create or replace function begin_appointment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  service services;
begin
  select * into service from services where id = new.service_id;
  if not found or not service.active then
    perform refuse_booking('booking.unknown_service');
  end if;
  if new.user_id is null or new.status <> 'booked' or new.payment_status <> 'unpaid' then
    raise exception 'an appointment is somebody''s, and begins booked and unpaid'
      using errcode = 'integrity_constraint_violation';
  end if;
  perform check_gives(new.service_id, new.provider_id);
  new.service_name := service.name;
  new.price := service.price;
  new.currency := service.currency;
  new.buffer_before_minutes := service.buffer_before_minutes;
  new.buffer_after_minutes := service.buffer_after_minutes;
  new.ends_at := new.starts_at + make_interval(mins => service.duration_minutes);
  new.letter := 'booked';
  perform check_start(new.provider_id, new.starts_at, new.ends_at - new.starts_at);
  if is_customer() then
    if service.price > 0 then
      perform check_open_unpaid(new.user_id);
    end if;
    if service.payment_in_advance and service.price > 0 then
      new.pay_by := least(
        now() + make_interval(mins => booking_rule('booking_pay_within_minutes')), new.starts_at
      );
    end if;
  end if;
  return new;
end $$;

create or replace function end_appointment(former appointments, changed appointments)
returns appointments
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if (former.status, changed.status) not in (
    ('booked', 'confirmed'), ('booked', 'completed'), ('booked', 'cancelled'), ('booked', 'no_show'),
    ('confirmed', 'completed'), ('confirmed', 'cancelled'), ('confirmed', 'no_show')
  ) then
    perform refuse_booking('booking.closed');
  end if;
  if changed.status in ('completed', 'no_show') and clock_timestamp() < former.starts_at then
    perform refuse_booking('booking.too_early');
  end if;
  if is_customer() and (changed.status <> 'cancelled' or former.starts_at <= now()) then
    perform refuse_booking('booking.closed');
  end if;
  if changed.status = 'cancelled' then
    changed.cancelled_at := now();
    changed.letter := 'cancelled';
    changed.refund_percent := coalesce(changed.refund_percent, refund_share(former.starts_at));
  elsif changed.status = 'no_show' then
    changed.refund_percent := coalesce(changed.refund_percent, 0);
  else
    changed.pay_by := null;  -- confirmed or done: nobody waits for the money any more
  end if;
  return changed;
end $$;

create or replace function change_appointment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if (new.id, new.service_id, new.service_name, new.price, new.currency, new.created_at,
      new.buffer_before_minutes, new.buffer_after_minutes)
    is distinct from (old.id, old.service_id, old.service_name, old.price, old.currency,
      old.created_at, old.buffer_before_minutes, old.buffer_after_minutes)
    or (new.user_id is distinct from old.user_id and new.user_id is not null)
  then
    raise exception 'what was agreed stays as it is' using errcode = 'restrict_violation';
  end if;
  if new.status <> old.status then
    new := end_appointment(old, new);
  end if;
  if (new.starts_at, new.provider_id) is distinct from (old.starts_at, old.provider_id) then
    if new.status not in ('booked', 'confirmed') then
      perform refuse_booking('booking.closed');
    end if;
    if is_customer() and refund_share(old.starts_at) < 100 then
      perform refuse_booking('booking.too_late');
    end if;
    perform check_gives(new.service_id, new.provider_id);
    perform check_start(new.provider_id, new.starts_at, old.ends_at - old.starts_at);
    new.pay_by := least(new.pay_by, new.starts_at);
    new.letter := 'moved';
    new.reminded_at := null;
  end if;
  new.ends_at := new.starts_at + (old.ends_at - old.starts_at);
  return new;
end $$;

create or replace trigger a_begin before insert on appointments
  for each row execute function begin_appointment();
create or replace trigger a_change before update on appointments
  for each row execute function change_appointment();
create or replace trigger keep_time after insert or update of status, starts_at, provider_id
  on appointments for each row execute function keep_appointment_time();

-- A customer whose row goes: what they had booked ahead is free again, what is over stays.
create or replace function cancel_bookings_of(its_user uuid) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  enrolment record;
begin
  update appointments set status = 'cancelled', cancel_reason = 'The account was closed.'
  where user_id = its_user and status in ('booked', 'confirmed') and starts_at > now();
  for enrolment in
    select each.id, training_id from training_enrolments as each
    join trainings on trainings.id = training_id
    where user_id = its_user and each.status in ('enrolled', 'waiting')
      and trainings.status = 'scheduled' and starts_at > now()
    order by training_id
  loop
    perform hold_training(enrolment.training_id);
    update training_enrolments set status = 'cancelled', cancel_reason = 'The account was closed.'
    where id = enrolment.id and status in ('enrolled', 'waiting');
  end loop;
end $$;

create or replace function release_bookings() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  perform cancel_bookings_of(old.id);
  return old;
end $$;
create or replace trigger release_bookings before delete on users
  for each row execute function release_bookings();

revoke execute on function check_time_zone(), guard_provider_time(), keep_appointment_time(),
  keep_training_time(), begin_appointment(), change_appointment(), release_bookings(),
  cancel_bookings_of(uuid), check_open_unpaid(uuid) from public;
grant execute on function cancel_bookings_of(uuid) to worker_user;
