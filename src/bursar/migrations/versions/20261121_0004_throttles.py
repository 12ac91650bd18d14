"""Throttles: how often something was tried that must not be tried often."""

revision = "20261121_0004"
down_revision = "20261121_0003"


def upgrade() -> None:
    pass
