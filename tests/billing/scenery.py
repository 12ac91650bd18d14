"""What there is of billing in the matrix: a plan that nobody uses, and an invoice for each."""

import json
from itertools import count
from typing import Any
from uuid import UUID

from tests.world import CARL, DORA

BILLING_BODIES: dict[str, Any] = {
    "POST /api/v1/admin/billing-meters": {"code": "new_{n}", "name": "Reports"},
    "POST /api/v1/admin/price-plans": {
        "name": "Reports",
        "meter": "calls",
        "charging": "monthly",
        "firstMonth": "2099-01",
        "lastMonth": "2099-01",
        "userId": str(CARL.id),
        "priceTiers": [{"unitPrice": 1}],
    },
    "PUT /api/v1/admin/price-plans/{plan_id}": {"name": "Reports {n}"},
    "POST /api/v1/admin/invoices/{invoice_id}/cancellation": {"reason": "A gift"},
    "POST /api/v1/admin/invoices/{invoice_id}/reopening": {"reason": "Given back"},
}

# Both have used one unit in some month of long ago: another one each time, for what was billed is
# for ever.
SCENERY = """
delete from price_plans where meter = 'planned' or first_month = '2099-01';
delete from billing_meters where code like 'new_%';
insert into billing_meters (code, name)
values ('calls', 'Calls'), ('planned', 'Planned'), ('free', 'Free') on conflict do nothing;
insert into price_plans (name, meter, charging, price_tiers, first_month)
select 'A dollar', code, 'monthly', '[{{"up_to": null, "unit_price": "1"}}]', '0001-01'
from billing_meters where code in ('calls', 'planned')
  and not exists (select from price_plans where meter = code and first_month = '0001-01');
insert into usage_days (user_id, day, endpoint, api_key_id, status_code, requests, units, timed,
  total_response_time_ms, latencies)
select id, '{month}-01', '/', '00000000-0000-0000-0000-000000000000', 200, 1, 1, 0, 0, '{{}}'
from users where id in ('{carl}', '{dora}');
insert into usage_periods (user_id, meter, month, plan_id)
select users.id, meter, '{month}', price_plans.id from price_plans cross join users
where meter = 'calls' and users.id in ('{carl}', '{dora}');
with made as (
  insert into invoices (user_id, month, currency, total, due_at)
  select user_id, month, 'USD', 1.00, now() + interval '1 day' from usage_periods
  where month = '{month}' returning id, user_id
)
select set_config('bursar.made', jsonb_object_agg(user_id, id)::text, true) from made;
insert into usage_charges (period_id, from_units, to_units, amount, amount_after, invoice_id)
select id, 0, 1, 1000000, 1000000,
  (current_setting('bursar.made')::jsonb ->> user_id::text)::uuid
from usage_periods where month = '{month}';
"""
FOUND = """
select (select id from price_plans where meter = 'planned') as plan_id,
  (select jsonb_object_agg(user_id, id) from invoices where month = $1) as invoices
"""
FIRST_YEAR = 100
numbers = count()


async def set_out_billing(database: Any) -> dict[str, Any]:
    years, months = divmod(next(numbers), 12)
    month = f"{FIRST_YEAR + years:04}-{months + 1:02}"
    await database.execute(SCENERY.format(month=month, carl=CARL.id, dora=DORA.id))
    row = await database.fetchrow(FOUND, month)
    invoices = {UUID(who): its_id for who, its_id in json.loads(row["invoices"]).items()}
    return {"code": "free", "plan_id": row["plan_id"], "invoice_id": invoices}
