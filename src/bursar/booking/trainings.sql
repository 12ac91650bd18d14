-- What the database refuses of trainings: overbooking, and a place out of turn.

-- Trainings: the counters are counted again at each change, under the lock of their row, so whatever
-- somebody writes into them is what is really there, and a CHECK keeps that within the capacity.
create or replace function count_enrolments() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  select count(*) filter (where status = 'enrolled'), count(*) filter (where status = 'waiting')
  into new.enrolled, new.waiting
  from training_enrolments where training_id = new.id and status in ('enrolled', 'waiting');
  return new;
end $$;

create or replace function change_training() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if new.status <> old.status then
    if old.status <> 'scheduled' then
      perform refuse_booking('booking.closed');
    elsif new.status = 'completed' and clock_timestamp() < old.starts_at then
      perform refuse_booking('booking.too_early');
    end if;
  elsif old.status <> 'scheduled' and (new.starts_at, new.ends_at, new.provider_id, new.capacity)
    is distinct from (old.starts_at, old.ends_at, old.provider_id, old.capacity)
  then
    perform refuse_booking('booking.closed');
  end if;
  return new;
end $$;

-- What follows for those who are enrolled: a new time is told, a cancelled training is over for all,
-- and more places are for those who wait.
create or replace function follow_training() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if new.status = 'cancelled' and old.status <> 'cancelled' then
    update training_enrolments set status = 'cancelled', refund_percent = 100,
      cancel_reason = coalesce(new.cancel_reason, 'The training was cancelled.')
    where training_id = new.id and status in ('enrolled', 'waiting');
  elsif new.status = 'scheduled' then
    if new.starts_at <> old.starts_at then
      update training_enrolments set letter = 'moved', reminded_at = null
      where training_id = new.id and status = 'enrolled';
    end if;
    perform move_up(new.id);
  end if;
  return null;
end $$;

create or replace trigger a_count before insert or update on trainings
  for each row execute function count_enrolments();
create or replace trigger b_change before update on trainings
  for each row execute function change_training();
create or replace trigger keep_time after insert or update of status, starts_at, ends_at, provider_id
  on trainings for each row execute function keep_training_time();
create or replace trigger follow after update of status, starts_at, capacity on trainings
  for each row execute function follow_training();

-- Locks a training, so that whoever changes an enrolment holds what is locked first by everybody.
create or replace function hold_training(its_id uuid) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp
begin atomic
  select from trainings where id = its_id for no key update;
end;

create or replace function pay_in_advance(training trainings, within interval)
returns timestamptz
language sql stable set search_path = pg_catalog, public, pg_temp
return case when training.payment_in_advance and training.price > 0
  then least(now() + within, training.starts_at) end;

-- Whoever enrols says whether they would wait; whether there is a place, is said here.
create or replace function begin_enrolment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  training trainings;
begin
  select * into training from trainings where id = new.training_id for no key update;
  if not found then
    perform refuse_booking('booking.unknown_training');
  elsif new.user_id is null or new.payment_status <> 'unpaid' then
    raise exception 'an enrolment is somebody''s, and begins unpaid' using errcode = 'integrity_constraint_violation';
  elsif training.status <> 'scheduled' or training.starts_at <= now() then
    perform refuse_booking('booking.closed');
  elsif is_customer() and training.enrol_until < now() then
    perform refuse_booking('booking.enrolment_over');
  end if;
  new.price := training.price;
  new.currency := training.currency;
  if training.enrolled < training.capacity then
    new.status := 'enrolled';
    if is_customer() then
      new.pay_by := pay_in_advance(
        training, make_interval(mins => booking_rule('booking_pay_within_minutes')));
    end if;
  elsif new.may_wait and training.waiting < booking_rule('booking_waiting_at_most') then
    new.status := 'waiting';
  else
    perform refuse_booking('booking.full');
  end if;
  new.letter := new.status;
  return new;
end $$;

create or replace function change_enrolment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  training trainings;
begin
  if (new.id, new.training_id, new.number, new.price, new.currency, new.created_at)
    is distinct from (old.id, old.training_id, old.number, old.price, old.currency, old.created_at)
    or (new.user_id is distinct from old.user_id and new.user_id is not null)
  then
    raise exception 'what was agreed stays as it is' using errcode = 'restrict_violation';
  end if;
  if new.status = old.status then
    return new;
  end if;
  select * into training from trainings where id = new.training_id for no key update;
  if (old.status, new.status) not in
    (('enrolled', 'cancelled'), ('waiting', 'cancelled'), ('waiting', 'enrolled'))
    or (is_customer() and pg_trigger_depth() = 1
      and (new.status <> 'cancelled' or training.starts_at <= now()))
  then
    perform refuse_booking('booking.closed');
  end if;
  if new.status = 'cancelled' then
    new.cancelled_at := now();
    new.letter := 'cancelled';
    new.refund_percent := coalesce(new.refund_percent, refund_share(training.starts_at));
  else
    new.letter := 'moved_up';
    new.pay_by := pay_in_advance(
      training, make_interval(hours => booking_rule('booking_moved_up_pay_within_hours')));
  end if;
  return new;
end $$;

create or replace function follow_enrolment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  its_id uuid := coalesce(new.training_id, old.training_id);
begin
  update trainings set enrolled = enrolled where id = its_id;  -- counts again
  if tg_op <> 'INSERT' and old.status = 'enrolled' then
    perform move_up(its_id);
  end if;
  return null;
end $$;

-- The first who wait get the places that are free, in the transaction that frees them.
create or replace function move_up(its_id uuid) returns void
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  training trainings;
  next uuid;
begin
  loop
    select * into training from trainings where id = its_id for no key update;
    exit when training.status <> 'scheduled' or training.starts_at <= now()
      or training.enrolled >= training.capacity;
    select id into next from training_enrolments
    where training_id = its_id and status = 'waiting'
    order by number limit 1 for no key update;
    exit when next is null;
    update training_enrolments set status = 'enrolled' where id = next;
  end loop;
end $$;

create or replace function waiting_position(its_training uuid, its_number bigint) returns bigint
language sql stable security definer set search_path = pg_catalog, public, pg_temp
begin atomic
  select count(*) from training_enrolments
  where training_id = its_training and status = 'waiting' and number <= its_number;
end;

create or replace trigger a_begin before insert on training_enrolments
  for each row execute function begin_enrolment();
create or replace trigger a_change before update on training_enrolments
  for each row execute function change_enrolment();
create or replace trigger follow after insert or delete or update of status, training_id
  on training_enrolments for each row execute function follow_enrolment();

revoke execute on function count_enrolments(), change_training(), follow_training(),
  begin_enrolment(), change_enrolment(), follow_enrolment(), move_up(uuid), hold_training(uuid),
  waiting_position(uuid, bigint) from public;
grant execute on function hold_training(uuid), waiting_position(uuid, bigint)
  to app_user, staff_user, worker_user;
