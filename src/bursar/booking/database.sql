-- Who may see and write what of booking; what is refused whoever asks stands in guards.sql.

call lock_down('providers');
create or replace trigger touch before update on providers for each row execute function touch();
call let_customers('providers', 'select (id, name, time_zone, active)');
call let_staff('providers',
  'select, insert (name, email, time_zone, active), update (name, email, time_zone, active)');
call let_worker('providers', 'select, insert (name, email, time_zone, active)');

call lock_down('services');
create or replace trigger touch before update on services for each row execute function touch();
call let_customers('services', which => 'active');
call let_staff('services', 'select,
  insert (name, description, price, currency, duration_minutes, buffer_before_minutes,
    buffer_after_minutes, payment_in_advance, active),
  update (name, description, price, currency, duration_minutes, buffer_before_minutes,
    buffer_after_minutes, payment_in_advance, active)');
call let_worker('services');

call lock_down('service_providers');
call let_customers('service_providers');
call let_staff('service_providers', 'select, insert, delete');
call let_worker('service_providers');

call lock_down('working_hours');
call let_staff('working_hours',
  'select, delete, insert (provider_id, weekday, starts_minute, ends_minute)');

call lock_down('availability_exceptions');
call let_staff('availability_exceptions',
  'select, delete, insert (provider_id, kind, starts_at, ends_at, reason)');

-- What a customer may say of an appointment: what, with whom, when; later another time, or no more.
call lock_down('appointments');
create or replace trigger touch before update of user_id, provider_id, starts_at, status, note,
  payment_status, payment_id, refund_percent, cancel_reason on appointments
  for each row execute function touch();
call let_owner('appointments', 'select, insert (service_id, provider_id, user_id, starts_at, note),
  update (provider_id, starts_at, status, cancel_reason)');
call let_staff('appointments', 'select, insert (service_id, provider_id, user_id, starts_at, note),
  update (provider_id, starts_at, status, cancel_reason, refund_percent)');
call let_worker('appointments', 'select, update (status, note, cancel_reason, payment_status,
  payment_id, refund_percent, refund_asked_at, letter, reminded_at)');

call lock_down('trainings');
create or replace trigger touch before update of title, description, provider_id, starts_at, ends_at,
  enrol_until, capacity, price, currency, payment_in_advance, status, cancel_reason on trainings
  for each row execute function touch();
call let_customers('trainings');
call let_staff('trainings', 'select,
  insert (title, description, provider_id, starts_at, ends_at, enrol_until, capacity, price,
    currency, payment_in_advance, cancel_reason),
  update (title, description, provider_id, starts_at, ends_at, enrol_until, capacity, price,
    currency, payment_in_advance, status, cancel_reason)');
call let_worker('trainings', 'select, update (status)');

call lock_down('training_enrolments');
create or replace trigger touch before update of user_id, status, payment_status, payment_id,
  refund_percent, cancel_reason on training_enrolments
  for each row execute function touch();
call let_owner('training_enrolments',
  'select, insert (training_id, user_id, may_wait), update (status, cancel_reason)');
call let_staff('training_enrolments',
  'select, insert (training_id, user_id, may_wait), update (status, cancel_reason, refund_percent)');
call let_worker('training_enrolments', 'select, update (status, cancel_reason, payment_status,
  payment_id, refund_percent, refund_asked_at, letter, reminded_at)');

call lock_down('provider_times');
