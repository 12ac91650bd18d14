"""What looks like one of our API keys is shown to nobody and kept nowhere, whoever wrote it where.

This is all that the rooms below `keys` know of the form of a key (keys/secret.py). As much of one
as could be of use counts, in whatever letters: it may have been cut off, or made large.
"""

import re

PREFIX = "bur_live_"
LOOKS_LIKE_ONE = rf"(?i:{PREFIX}\w{{20,}})"
ONE = re.compile(LOOKS_LIKE_ONE)
HIDDEN = f"{PREFIX}[hidden]"


def is_in(text: str) -> bool:
    return PREFIX in text.lower() and ONE.search(text) is not None  # each log line asks: be quick


def masked(text: str) -> str:
    return ONE.sub(HIDDEN, text) if is_in(text) else text


def refuse(text: str) -> str:
    """For text that is kept: a name, a reason, a note."""
    if is_in(text):
        raise ValueError("This has an API key in it, which is kept nowhere: leave it out.")
    return text
