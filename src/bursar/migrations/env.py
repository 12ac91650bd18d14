"""Alembic's entry: runs inside the transaction that `bursar migrate` has opened."""

from alembic import context

from bursar.migrations.metadata import ours, target_metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=target_metadata,
    include_object=ours,
    compare_type=True,
    compare_server_default=True,
)

with context.begin_transaction():
    context.run_migrations()
