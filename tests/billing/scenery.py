"""What there is of billing in the matrix: a plan that nobody uses, and an invoice for each."""

import json
from typing import Any
from uuid import UUID, uuid4

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
}

# Both have used one unit, long ago. What was billed is for ever, so each time it is by a new meter.
SCENERY = """
delete from price_plans where first_month = '2099-01';
insert into usage_days (user_id, day, endpoint, api_key_id, status_code, requests, units, timed,
  total_response_time_ms, latencies)
select id, '2020-01-01', '/', '00000000-0000-0000-0000-000000000000', 200, 1, 1, 0, 0, '{{}}'
from users where id in ('{carl}', '{dora}') on conflict do nothing;
insert into billing_meters (code, name) values ('calls', 'Calls') on conflict do nothing;
insert into billing_meters (code, name)
values ('used_{tag}', 'Used'), ('planned_{tag}', 'Planned'), ('free_{tag}', 'Free');
insert into price_plans (name, meter, charging, price_tiers, first_month)
select 'A dollar', code, 'monthly', '[{{"up_to": null, "unit_price": "1"}}]', '2020-01'
from billing_meters where code in ('used_{tag}', 'planned_{tag}');
insert into usage_periods (user_id, meter, month, plan_id)
select users.id, meter, '2020-01', price_plans.id from price_plans cross join users
where meter = 'used_{tag}' and users.id in ('{carl}', '{dora}');
with made as (
  insert into invoices (user_id, month, currency, total, due_at)
  select user_id, month, 'USD', 1.00, now() + interval '1 day' from usage_periods
  where meter = 'used_{tag}' returning id, user_id
)
select set_config('bursar.made', jsonb_object_agg(user_id, id)::text, true) from made;
insert into usage_charges (period_id, from_units, to_units, amount, amount_after, invoice_id)
select id, 0, 1, 1000000, 1000000,
  (current_setting('bursar.made')::jsonb ->> user_id::text)::uuid
from usage_periods where meter = 'used_{tag}';
"""
FOUND = """
select (select id from price_plans where meter = 'planned_{tag}') as plan_id,
  (select jsonb_object_agg(charge.user_id, invoice_id) from usage_charges as charge
    join usage_periods on usage_periods.id = period_id where meter = 'used_{tag}') as invoices
"""


async def set_out_billing(database: Any) -> dict[str, Any]:
    tag = uuid4().hex[:12]
    await database.execute(SCENERY.format(tag=tag, carl=CARL.id, dora=DORA.id))
    row = await database.fetchrow(FOUND.format(tag=tag))
    invoices = {UUID(who): its_id for who, its_id in json.loads(row["invoices"]).items()}
    return {"code": f"free_{tag}", "plan_id": row["plan_id"], "invoice_id": invoices}
