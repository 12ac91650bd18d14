"""Automatic top-ups: below the threshold once, never two at once, and no further than allowed."""

ME = "/api/v1/users/me/auto-topup"
