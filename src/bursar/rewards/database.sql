-- Points: rules and tiers for those who read them. The points themselves stand in the ledger.

call lock_down('reward_rules');
create or replace trigger touch before update on reward_rules
  for each row execute function touch();
grant select, delete, insert (name, category, points_per_unit, active, starts_at, ends_at),
  update (name, category, points_per_unit, active, starts_at, ends_at) on reward_rules to staff_user;
create policy staff on reward_rules to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select on reward_rules to app_user, worker_user;
create policy customers on reward_rules for select to app_user
  using (active and (select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
create policy worker on reward_rules for select to worker_user using (true);

call lock_down('reward_tiers');
create or replace trigger touch before update on reward_tiers
  for each row execute function touch();
grant select, delete, insert (name, from_points, multiplier), update (name, from_points, multiplier)
  on reward_tiers to staff_user;
create policy staff on reward_tiers to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select on reward_tiers to app_user, worker_user;
create policy customers on reward_tiers for select to app_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
create policy worker on reward_tiers for select to worker_user using (true);

-- Written by the one who gives points, read by it again; what a day has earned is its owner's to see.
call lock_down('reward_standings');
grant select, insert, update on reward_standings to worker_user;
create policy giving on reward_standings to worker_user using (true) with check (true);

call lock_down('reward_rates');
grant select, insert on reward_rates to worker_user;
create policy giving on reward_rates to worker_user using (true) with check (true);

call lock_down('reward_days');
grant select, insert, update on reward_days to worker_user;
create policy giving on reward_days to worker_user using (true) with check (true);
grant select on reward_days to app_user, staff_user;
create policy own on reward_days for select to app_user
  using (account_id in (select id from accounts));
create policy staff on reward_days for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
