-- Points: rules and tiers for those who read them. The points themselves stand in the ledger.

call lock_down('reward_rules');
create or replace trigger touch before update on reward_rules
  for each row execute function touch();
call let_staff('reward_rules', 'select, delete,
  insert (name, category, points_per_unit, active, starts_at, ends_at),
  update (name, category, points_per_unit, active, starts_at, ends_at)');
call let_customers('reward_rules', which => 'active');
call let_worker('reward_rules');

call lock_down('reward_tiers');
create or replace trigger touch before update on reward_tiers
  for each row execute function touch();
call let_staff('reward_tiers', 'select, delete, insert (name, from_points, multiplier),
  update (name, from_points, multiplier)');
call let_customers('reward_tiers');
call let_worker('reward_tiers');

-- Written by the one who gives points, read by it again; what a day has earned is its owner's to see.
call lock_down('reward_standings');
call let_worker('reward_standings', 'select, insert, update');

call lock_down('reward_rates');
call let_worker('reward_rates', 'select, insert');

call lock_down('reward_days');
call let_worker('reward_days', 'select, insert, update');
call let_owner('reward_days', its => 'account_id', through => 'accounts');
call let_staff('reward_days');
