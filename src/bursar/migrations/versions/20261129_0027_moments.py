"""A leg that no client could be shown is not written: its times are moments, its notes are objects.

A moment is from the year 1 to 9999: what lies beyond, `infinity` too, no client could read.
"""

from bursar.migrations.script import run

revision = "20261129_0027"
down_revision = "20261128_0026"


def upgrade() -> None:
    run("""
    create function is_moment(at timestamptz) returns boolean
    language sql immutable parallel safe
    return at between '0001-01-02 00:00+00'::timestamptz and '9999-12-30 00:00+00'::timestamptz;

    create function is_note(metadata jsonb) returns boolean
    language sql immutable parallel safe
    return jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 4096;

    alter table transfers drop constraint ck_transfers_metadata,
      add constraint ck_transfers_metadata check (is_note(metadata)),
      add constraint ck_transfers_effective_at check (is_moment(effective_at));
    alter table holds
      add constraint ck_holds_metadata check (is_note(metadata)),
      add constraint ck_holds_expires_at check (expires_at >= created_at and is_moment(expires_at));
    """)
