"""Customers and staff."""

revision = "20261121_0007"
down_revision = "20261121_0006"


def upgrade() -> None:
    pass
