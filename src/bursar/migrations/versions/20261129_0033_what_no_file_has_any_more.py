"""Functions and a trigger that earlier files made, and that no file of this release has.

Some of them have a successor of the same name and another shape, which its file makes anew.
"""

from bursar.migrations.script import run

revision = "20261129_0033"
down_revision = "20261129_0029"


def upgrade() -> None:
    run("""
    drop trigger if exists sum_up_outcomes on usage;
    drop function if exists sum_up_outcomes();
    """)
