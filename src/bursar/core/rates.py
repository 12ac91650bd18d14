"""How far a rate limit is used up, in the header fields of the IETF's draft."""

from collections.abc import Mapping
from typing import Any


def rate_headers(rate: Mapping[str, Any] | None) -> dict[str, str]:
    """Of the limit that is nearest, as keys/verify answers it; without a limit there is none."""
    if rate is None:
        return {}
    name = rate["policy"]
    return {
        "RateLimit-Policy": f'"{name}";q={rate["limit"]};w={rate["window_seconds"]}',
        "RateLimit": f'"{name}";r={rate["remaining"]};t={rate["reset_seconds"]}',
    }
