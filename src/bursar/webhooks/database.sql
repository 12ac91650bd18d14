-- Webhooks: staff say who is told, the worker tells; customers see nothing of it.

call lock_down('webhook_endpoints');
-- Not for what the worker notes after each attempt: that must not spoil an edit by staff.
create or replace trigger touch before update of
  url, description, events, enabled, off_reason, old_secret_until on webhook_endpoints
  for each row execute function touch();
grant select, delete, insert,
  update (url, description, events, enabled, off_reason, off_at, failing_since, secret, old_secret,
    old_secret_until)
  on webhook_endpoints to staff_user;
create policy staff on webhook_endpoints to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
-- The worker switches off, and seals anew when the secret key is another one.
grant select, update (enabled, off_reason, off_at, failing_since, secret, old_secret)
  on webhook_endpoints to worker_user;
create policy worker on webhook_endpoints to worker_user using (true) with check (true);

call lock_down('webhook_deliveries');
-- Staff send tests and replay; what an event said is for the worker alone to write.
grant select, insert (endpoint_id, event_type, body),
  update (status, reason, attempts, next_attempt_at, settled_at) on webhook_deliveries to staff_user;
create policy staff on webhook_deliveries to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, delete, insert (endpoint_id, event_id, event_type, body),
  update (status, reason, attempts, next_attempt_at, claimed_by, claimed_until, settled_at)
  on webhook_deliveries to worker_user;
create policy worker on webhook_deliveries to worker_user using (true) with check (true);

call lock_down('webhook_attempts');
grant select on webhook_attempts to staff_user;
create policy staff on webhook_attempts for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert (delivery_id, started_at, duration_ms, status_code, reason, detail, answer)
  on webhook_attempts to worker_user;
create policy worker on webhook_attempts to worker_user using (true) with check (true);
