"""A rotated key and the one in its place are one line, and its limits hold for all of the line."""

from bursar.migrations.script import run

revision = "20261128_0024"
down_revision = "20261128_0023"


def upgrade() -> None:
    run(LINES)
    run(MONTHS)


# Named by its first key.
LINES = """
alter table api_keys add column line_id uuid;
with recursive lines as (
  select id, user_id, id as line_id from api_keys as here
  where not exists (
    select from api_keys as before
    where before.id = here.rotated_from and before.user_id is not distinct from here.user_id)
  union all
  select api_keys.id, api_keys.user_id, lines.line_id from api_keys
  join lines on api_keys.rotated_from = lines.id
    and api_keys.user_id is not distinct from lines.user_id
)
update api_keys set line_id = lines.line_id from lines where lines.id = api_keys.id;
alter table api_keys alter column line_id set not null,
  add constraint fk_api_keys_line_id foreign key (line_id) references api_keys (id);
create index ix_api_keys_line_id on api_keys (line_id);
"""

# What the keys of a line used is one sum from now on.
MONTHS = """
alter table api_key_months rename column api_key_id to line_id;
alter table api_key_months
  rename constraint fk_api_key_months_api_key_id to fk_api_key_months_line_id;
with later as (
  delete from api_key_months as here using api_keys
  where api_keys.id = here.line_id and api_keys.line_id <> api_keys.id
  returning api_keys.line_id, month, requests, units
)
insert into api_key_months as here (line_id, month, requests, units)
select line_id, month, sum(requests), sum(units) from later group by 1, 2
on conflict on constraint pk_api_key_months do update set
  requests = here.requests + excluded.requests, units = here.units + excluded.units;
"""
