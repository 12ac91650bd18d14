-- Who may see and write what of booking; what is refused whoever asks stands in guards.sql.

call lock_down('providers');
create or replace trigger touch before update on providers for each row execute function touch();
grant select (id, name, time_zone, active) on providers to app_user;
create policy customers on providers for select to app_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert (name, email, time_zone, active), update (name, email, time_zone, active)
  on providers to staff_user;
create policy staff on providers to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert (name, email, time_zone, active) on providers to worker_user;
create policy worker on providers to worker_user using (true) with check (true);

call lock_down('services');
create or replace trigger touch before update on services for each row execute function touch();
grant select on services to app_user, staff_user, worker_user;
create policy customers on services for select to app_user
  using (active and (select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant insert (name, description, price, currency, duration_minutes, buffer_before_minutes,
    buffer_after_minutes, payment_in_advance, active),
  update (name, description, price, currency, duration_minutes, buffer_before_minutes,
    buffer_after_minutes, payment_in_advance, active)
  on services to staff_user;
create policy staff on services to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
create policy worker on services for select to worker_user using (true);

call lock_down('service_providers');
grant select on service_providers to app_user, staff_user, worker_user;
create policy customers on service_providers for select to app_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant insert, delete on service_providers to staff_user;
create policy staff on service_providers to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
create policy worker on service_providers for select to worker_user using (true);

call lock_down('working_hours');
grant select, delete, insert (provider_id, weekday, starts_minute, ends_minute)
  on working_hours to staff_user;
create policy staff on working_hours to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);

call lock_down('availability_exceptions');
grant select, delete, insert (provider_id, kind, starts_at, ends_at, reason)
  on availability_exceptions to staff_user;
create policy staff on availability_exceptions to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);

-- What a customer may say of an appointment: what, with whom, when; later another time, or no more.
call lock_down('appointments');
create or replace trigger touch before update of user_id, provider_id, starts_at, status, note,
  payment_status, payment_id, refund_percent, cancel_reason on appointments
  for each row execute function touch();
grant select on appointments to app_user, staff_user, worker_user;
grant insert (service_id, provider_id, user_id, starts_at, note),
  update (provider_id, starts_at, status, cancel_reason) on appointments to app_user;
create policy own on appointments to app_user
  using (user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid)
  with check (user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid);
grant insert (service_id, provider_id, user_id, starts_at, note),
  update (provider_id, starts_at, status, cancel_reason, refund_percent) on appointments
  to staff_user;
create policy staff on appointments to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant update (status, note, cancel_reason, payment_status, payment_id, refund_percent,
  refund_asked_at, letter, reminded_at) on appointments to worker_user;
create policy worker on appointments to worker_user using (true) with check (true);

call lock_down('trainings');
create or replace trigger touch before update of title, description, provider_id, starts_at, ends_at,
  enrol_until, capacity, price, currency, payment_in_advance, status, cancel_reason on trainings
  for each row execute function touch();
grant select on trainings to app_user, staff_user, worker_user;
create policy customers on trainings for select to app_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant insert (title, description, provider_id, starts_at, ends_at, enrol_until, capacity, price,
    currency, payment_in_advance, cancel_reason),
  update (title, description, provider_id, starts_at, ends_at, enrol_until, capacity, price,
    currency, payment_in_advance, status, cancel_reason)
  on trainings to staff_user;
create policy staff on trainings to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant update (status) on trainings to worker_user;
create policy worker on trainings to worker_user using (true) with check (true);

call lock_down('training_enrolments');
create or replace trigger touch before update of user_id, status, payment_status, payment_id,
  refund_percent, cancel_reason on training_enrolments
  for each row execute function touch();
grant select on training_enrolments to app_user, staff_user, worker_user;
grant insert (training_id, user_id, may_wait), update (status, cancel_reason)
  on training_enrolments to app_user;
create policy own on training_enrolments to app_user
  using (user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid)
  with check (user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid);
grant insert (training_id, user_id, may_wait), update (status, cancel_reason, refund_percent)
  on training_enrolments to staff_user;
create policy staff on training_enrolments to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant update (status, cancel_reason, payment_status, payment_id, refund_percent, refund_asked_at,
  letter, reminded_at) on training_enrolments to worker_user;
create policy worker on training_enrolments to worker_user using (true) with check (true);

call lock_down('provider_times');
