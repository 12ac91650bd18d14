-- Webhooks: staff say who is told, the worker tells; customers see nothing of it.

call lock_down('webhook_endpoints');
-- Not for what the worker notes after each attempt: that must not spoil an edit by staff.
create or replace trigger touch before update of
  url, description, events, enabled, off_reason, old_secret_until on webhook_endpoints
  for each row execute function touch();
call let_staff('webhook_endpoints', 'select, delete, insert, update (url, description, events,
  enabled, off_reason, off_at, failing_since, secret, old_secret, old_secret_until)');
-- The worker switches off, and seals anew when the secret key is another one.
call let_worker('webhook_endpoints',
  'select, update (enabled, off_reason, off_at, failing_since, secret, old_secret)');

call lock_down('webhook_deliveries');
-- Staff send tests and replay; what an event said is for the worker alone to write.
call let_staff('webhook_deliveries', 'select, insert (endpoint_id, event_type, body),
  update (status, reason, attempts, next_attempt_at, settled_at)');
call let_worker('webhook_deliveries',
  'select, delete, insert (endpoint_id, event_id, event_type, body),
  update (status, reason, attempts, next_attempt_at, claimed_by, claimed_until, settled_at)');

call lock_down('webhook_attempts');
call let_staff('webhook_attempts');
call let_worker('webhook_attempts', 'select,
  insert (delivery_id, started_at, duration_ms, status_code, reason, detail, answer)');
