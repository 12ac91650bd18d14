"""Months as they are written (2026-11), in UTC: which one it is, which ones are over."""

from datetime import UTC, datetime

from bursar.metering.queries import next_month


def month_of(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m}"


def moved(month: str, by: int) -> str:
    number = int(month[:4]) * 12 + int(month[5:]) - 1 + by
    return f"{number // 12:04d}-{number % 12 + 1:02d}"


def end_of(month: str) -> datetime:
    """The first moment that is not in it any more."""
    return next_month(datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC))
