"""An event is known by its key, too; a warning is of one quota; no outcome is no success.

Ids from before say nothing of a key, and agree with any.
"""

from bursar.migrations.script import run

revision = "20261129_0029"
down_revision = "20261129_0028"


def upgrade() -> None:
    run("""
    alter table usage_event_ids add column line_id uuid;
    alter table quota_warnings drop constraint pk_quota_warnings,
      add constraint pk_quota_warnings primary key (user_id, month, percent, quota);
    update monthly_usage as month set successful_requests = successful_requests - unknown
    from (
      select user_id, to_char(day, 'YYYY-MM')::char(7) as month, sum(requests)::bigint as unknown
      from usage_days where status_code = 0 group by 1, 2
    ) as days
    where days.user_id = month.user_id and days.month = month.month;
    """)
