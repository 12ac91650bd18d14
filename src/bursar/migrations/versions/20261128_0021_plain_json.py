"""What is counted comes as plain JSON, which is read once: as jsonb it was made over before."""

from bursar.migrations.script import run

revision = "20261128_0021"
down_revision = "20261128_0020"


def upgrade() -> None:
    run("""
    drop function if exists verify_keys(jsonb, jsonb, timestamptz);
    drop function if exists ingest_usage(jsonb, jsonb);
    drop function if exists settle_usage(jsonb);
    """)
