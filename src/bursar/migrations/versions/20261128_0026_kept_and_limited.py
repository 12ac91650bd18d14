"""What was dropped before it was written down is known as dropped; keys of a line limit alike."""

from bursar.migrations.script import run

revision = "20261128_0026"
down_revision = "20261128_0025"


def upgrade() -> None:
    run(DROPPED)
    run(LIMITS)


# It is one row, for ever. Sums outlive their events: a month that has some and no partition was
# dropped, and all before it with it. That there is no partition says nothing by itself: where
# nobody has reported usage of a month, none was made.
DROPPED = """
insert into usage_kept (since) select '0001-01' where not exists (select from usage_kept);
create unique index uq_usage_kept on usage_kept ((true));
update usage_kept set since = greatest(since, (
  select to_char((max(month) || '-01')::date + interval '1 month', 'YYYY-MM')::char(7)
  from (select distinct month from monthly_usage) as counted
  where to_regclass('public.usage_' || replace(month, '-', '_')) is null
));
"""

# From now on a trigger keeps them so (keys/database.sql).
LIMITS = """
update api_keys as key
set per_second = newest.per_second, per_minute = newest.per_minute, per_month = newest.per_month
from (
  select distinct on (line_id) id, line_id, per_second, per_minute, per_month
  from api_keys order by line_id, created_at desc, id desc
) as newest
where key.line_id = newest.line_id and key.id <> newest.id and key.status = 'active'
  and (key.per_second, key.per_minute, key.per_month)
    is distinct from (newest.per_second, newest.per_minute, newest.per_month);
"""
