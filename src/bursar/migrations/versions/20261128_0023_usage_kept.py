"""The first month of which usage is kept: what was dropped is never accepted again."""

from bursar.migrations.script import run

revision = "20261128_0023"
down_revision = "20261128_0022"


def upgrade() -> None:
    run("""
    create table usage_kept (
      since char(7) not null,
      constraint pk_usage_kept primary key (since)
    );
    insert into usage_kept (since) values ('0001-01');
    """)
