-- Billing: what usage costs is computed here and nowhere else, and no unit of it is billed twice.

-- What the first `units` of a month cost, in the smallest unit of a currency with `scale` digits. The
-- first `included` cost nothing; a tier holds up to its `up_to`, counted from the first unit of the
-- month. It is rounded down once, here: so what was billed piece by piece adds up to the whole. It is
-- exact however much it is; more than the ledger can move is refused by whoever bills it.
create or replace function usage_cost(tiers jsonb, included bigint, units bigint, scale integer)
returns numeric
language sql immutable parallel safe
return (
  select floor(coalesce(sum(
    greatest(0, least(units, coalesce(up_to, units)) - greatest(below, included))::numeric * unit_price
  ), 0) * power(10::numeric, scale))
  from (
    select (tier ->> 'up_to')::bigint as up_to, (tier ->> 'unit_price')::numeric as unit_price,
      coalesce(lag((tier ->> 'up_to')::bigint) over (order by place), 0) as below
    from jsonb_array_elements(tiers) with ordinality as listed (tier, place)
  ) as step
);

-- How much a meter has counted of a customer's month: from the sums that are written with the usage.
create or replace function metered_units(its_user uuid, its_meter text, its_month text)
returns bigint
language sql stable set search_path = pg_catalog, public, pg_temp as $$
  select coalesce(sum(case meter.counts when 'calls' then used.requests else used.units end), 0)::bigint
  from billing_meters as meter
  join usage_days as used on used.user_id = its_user
    and used.day >= (its_month || '-01')::date
    and used.day < ((its_month || '-01')::date + interval '1 month')::date
    and (meter.endpoints = '{}' or used.endpoint = any (meter.endpoints))
  where meter.code = its_meter
$$;

-- Plans.

create or replace function check_price_plan() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  tier jsonb;
  below bigint := 0;
  place integer := 0;
begin
  if tg_op = 'UPDATE' and (old.meter, old.charging, old.currency, old.tier, old.user_id, old.included,
      old.price_tiers, old.first_month)
    is distinct from (new.meter, new.charging, new.currency, new.tier, new.user_id, new.included,
      new.price_tiers, new.first_month)
  then
    raise exception 'the prices of a plan are not changed: end it, and make another'
      using errcode = 'restrict_violation';
  end if;
  if tg_op = 'INSERT' and session_user = 'staff_user'
    and new.first_month < to_char(now() at time zone 'UTC', 'YYYY-MM')
  then
    raise exception 'a plan is not for months that are over' using errcode = 'restrict_violation';
  end if;
  if tg_op = 'UPDATE' and session_user = 'staff_user'
    and new.last_month is distinct from old.last_month
    and old.last_month < to_char(now() at time zone 'UTC', 'YYYY-MM')
  then
    raise exception 'a plan that has ended is not opened again' using errcode = 'restrict_violation';
  end if;
  if jsonb_array_length(new.price_tiers) not between 1 and 20 then
    raise exception 'a plan has 1 to 20 tiers' using errcode = 'check_violation';
  end if;
  for tier in select jsonb_array_elements(new.price_tiers) loop
    place := place + 1;
    if jsonb_typeof(tier -> 'unit_price') is distinct from 'string'
      or (tier ->> 'unit_price') !~ '^\d{1,7}(\.\d{1,12})?$'
      or (tier ->> 'unit_price')::numeric > 1000000
      or ((tier ->> 'up_to') is null) <> (place = jsonb_array_length(new.price_tiers))
      or (tier ->> 'up_to')::bigint <= below
    then
      raise exception 'tiers rise, each has its price, and the last one has no end'
        using errcode = 'check_violation';
    end if;
    below := (tier ->> 'up_to')::bigint;
  end loop;
  return new;
end $$;
create or replace trigger check_price_plan before insert or update on price_plans
  for each row execute function check_price_plan();
create or replace trigger touch before update on price_plans
  for each row execute function touch();
create or replace trigger refuse_change before update on billing_meters
  for each row execute function refuse_change();

-- Usage that is there already may cost something now: its month is looked at again as a whole.
create or replace function look_again() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  delete from billing_looks where month >= new.first_month;
  return null;
end $$;
revoke execute on function look_again() from public;
create or replace trigger look_again after insert or update of last_month on price_plans
  for each row execute function look_again();

-- Periods. The plan of a customer's month is the one that held when it was last looked at within that
-- month, and stays once something has been billed: of several, the one for the customer goes before the
-- one for the tier, and that before the one for everybody. What is right already is not written again.
create or replace function open_usage_periods(people uuid[], its_month text) returns void
language sql set search_path = pg_catalog, public, pg_temp as $$
  insert into usage_periods as period (user_id, meter, month, plan_id)
  select users.id, plan.meter, its_month, plan.id
  from users
  cross join lateral (
    select distinct on (meter) id, meter from price_plans
    where first_month <= its_month and coalesce(last_month, its_month) >= its_month
      and (user_id = users.id or user_id is null and (tier = users.tier or tier is null))
    order by meter, user_id is null, tier is null
  ) as plan
  left join usage_periods as opened
    on opened.user_id = users.id and opened.meter = plan.meter and opened.month = its_month::char(7)
  where users.id = any (people)
    and (opened.id is null or opened.units = 0 and opened.plan_id <> plan.id
      and its_month >= month_of(now()))
  order by users.id, plan.meter
  on conflict (user_id, meter, month) do update
    set plan_id = excluded.plan_id, unpaid_since = null
    where period.units = 0
$$;

-- What is to be billed now, and the periods locked. Who could not pay is asked again once the wallet
-- has enough; what is more than any wallet can have is told all the same.
create or replace function usage_due(people uuid[], its_month text, its_charging text)
returns table (period_id uuid, user_id uuid, meter text, plan text, currency text, scale integer,
  from_units bigint, to_units bigint, amount numeric, amount_after numeric)
language sql set search_path = pg_catalog, public, pg_temp as $$
  select period.id, period.user_id, period.meter, plan.name, plan.currency, assets.scale,
    period.units, found.units, cost.amount - period.amount, cost.amount
  from usage_periods as period
  join price_plans as plan on plan.id = period.plan_id
  join assets on assets.code = plan.currency
  cross join lateral (
    select metered_units(period.user_id, period.meter, period.month) as units
    offset 0  -- once, not at each mention
  ) as found
  cross join lateral (
    select usage_cost(plan.price_tiers, plan.included, found.units, assets.scale) as amount
    offset 0
  ) as cost
  left join accounts as wallet
    on wallet.owner_id = period.user_id and wallet.asset = plan.currency
  where period.user_id = any (people) and period.month = its_month::char(7)
    and plan.charging = its_charging and cost.amount > period.amount
    and (period.unpaid_since is null
      or wallet.posted - wallet.held + wallet.overdraft >= cost.amount - period.amount
      or cost.amount > 9223372036854775807)
  order by period.id
  for no key update of period
$$;

-- Charges: the next units of their period, for what these cost, paid by an operation of the ledger that
-- moved so much for them, or standing on an invoice. The period follows.
create or replace function check_usage_charge() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  period usage_periods;
  plan price_plans;
  its_scale integer;
begin
  select * into strict period from usage_periods where id = new.period_id for no key update;
  select * into strict plan from price_plans where id = period.plan_id;
  select scale into strict its_scale from assets where code = plan.currency;
  if new.from_units <> period.units
    or new.to_units > metered_units(period.user_id, period.meter, period.month)
  then
    raise exception 'a charge is for the next units that were used'
      using errcode = 'integrity_constraint_violation';
  end if;
  if new.amount_after <> usage_cost(plan.price_tiers, plan.included, new.to_units, its_scale)
    or new.amount <> new.amount_after - period.amount
  then
    raise exception 'a charge is what its units cost' using errcode = 'integrity_constraint_violation';
  end if;
  if (new.operation_id is not null) <> (plan.charging = 'at_once')
    or new.operation_id is not null and not exists (
      select from operations where id = new.operation_id and scope = 'billing'
        and key = new.period_id || ':' || new.from_units
        and exists (
          select from transfers join accounts on accounts.id = debit_id
          where transfers.id = new.operation_id and owner_id = period.user_id
            and transfers.asset = plan.currency and amount = new.amount))
    or new.invoice_id is not null and not exists (
      select from invoices where id = new.invoice_id and user_id = period.user_id
        and currency = plan.currency and status = 'open')
  then
    raise exception 'a charge is paid as its plan says' using errcode = 'integrity_constraint_violation';
  end if;
  new.user_id := period.user_id;
  new.created_at := now();
  return new;
end $$;
revoke execute on function check_usage_charge() from public;
create or replace trigger check_usage_charge before insert on usage_charges
  for each row execute function check_usage_charge();

create or replace function count_usage_charge() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  update usage_periods set units = new.to_units, amount = new.amount_after, unpaid_since = null
  where id = new.period_id;
  return null;
end $$;
revoke execute on function count_usage_charge() from public;
create or replace trigger count_usage_charge after insert on usage_charges
  for each row execute function count_usage_charge();

-- A period says what its newest charge says; its customer's row may go.
create or replace function check_usage_period() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  newest usage_charges;
begin
  if tg_op = 'UPDATE' and ((old.id, old.meter, old.month) is distinct from (new.id, new.meter, new.month)
    or new.user_id is distinct from old.user_id and new.user_id is not null
    or new.plan_id <> old.plan_id and new.units > 0)
  then
    raise exception 'a period of usage stays what it is'
      using errcode = 'integrity_constraint_violation';
  end if;
  select * into newest from usage_charges where period_id = new.id order by to_units desc limit 1;
  if (new.units, new.amount)
    is distinct from (coalesce(newest.to_units, 0), coalesce(newest.amount_after, 0))
  then
    raise exception 'a period says what its newest charge says'
      using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
revoke execute on function check_usage_period() from public;
create or replace trigger check_usage_period before insert or update on usage_periods
  for each row execute function check_usage_period();
call never_removed('usage_periods');

-- A charge loses its owner with their row, and that is all that ever changes.
create or replace function keep_usage_charge() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if tg_op = 'UPDATE' and new.user_id is null then
    old.user_id := null;
    if old is not distinct from new then
      return new;
    end if;
  end if;
  raise exception 'rows of usage_charges are never changed or deleted'
    using errcode = 'restrict_violation';
end $$;
create or replace trigger refuse_change before update or delete on usage_charges
  for each row execute function keep_usage_charge();
create or replace trigger refuse_truncate before truncate on usage_charges
  for each statement execute function refuse_change();

-- Who may see and do what.

call lock_down('billing_meters');
grant select on billing_meters to app_user;
create policy everybody on billing_meters for select to app_user using (true);
call let_staff('billing_meters', 'select, insert (code, name, counts, endpoints), delete');
call let_worker('billing_meters');

call lock_down('price_plans');
call let_owner('price_plans');
create policy public on price_plans for select to app_user using (user_id is null);
call let_staff('price_plans', 'select, insert (name, meter, charging, currency, tier, user_id,
  included, price_tiers, first_month, last_month), update (name, last_month), delete');
call let_worker('price_plans');

call lock_down('usage_periods');
call let_owner('usage_periods');
call let_staff('usage_periods');
call let_worker('usage_periods', 'select, insert (user_id, meter, month, plan_id),
  update (plan_id, unpaid_since, unpaid_tried_at)');

call lock_down('usage_charges');
call let_owner('usage_charges');
call let_staff('usage_charges');
call let_worker('usage_charges', 'select, insert (period_id, from_units, to_units, amount,
  amount_after, operation_id, invoice_id)');

call lock_down('billing_looks');
call let_worker('billing_looks', 'select, insert, update');

call lock_down('billing_waits');
call let_staff('billing_waits');
call let_worker('billing_waits', 'select, insert, update, delete');
