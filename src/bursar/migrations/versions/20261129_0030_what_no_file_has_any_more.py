"""Functions and a trigger that earlier files made, and that no file of this release has.

Some of them have a successor of the same name and another shape, which its file makes anew.
"""

from bursar.migrations.script import run

revision = "20261129_0030"
down_revision = "20261129_0029"


def upgrade() -> None:
    run("""
    drop function if exists posted_one(jsonb), with_shard(text, text), open_missing_wallets(jsonb),
      audit_postings(jsonb, jsonb[]), post_plain(ledger_leg[], uuid[]),
      post_in_turn(ledger_leg[], uuid[]), entries_between(uuid, bigint, bigint), find_key(bytea);
    drop trigger if exists refuse_change on usage;
    drop trigger if exists sum_up_outcomes on usage;
    drop function if exists sum_up_outcomes();
    """)
