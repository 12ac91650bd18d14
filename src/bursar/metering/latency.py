"""Percentiles of response times, from how many fell between which bounds."""

from collections.abc import Sequence

BOUNDS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000,
          3000, 5000, 10000, 30000)  # fmt: skip
"""As latency_bounds() has them (metering/database.sql); the last part has no upper one."""


def percentile(latencies: Sequence[int], share: float) -> float | None:
    """In milliseconds, as if those of one part were spread evenly in it; None where none is known.

    What took longer than the last bound counts as that: more is not known, and the API says so.
    """
    total = sum(latencies)
    if not total:
        return None
    rank, below = share * total, 0
    for part, number in enumerate(latencies):
        if number and below + number >= rank:
            low = BOUNDS[part - 1] if part else 0
            high = BOUNDS[part] if part < len(BOUNDS) else low
            return round(low + (high - low) * (rank - below) / number, 1)
        below += number
    return float(BOUNDS[-1])
