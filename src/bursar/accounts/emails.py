"""E-mail addresses in the one form that is stored: plain ASCII in small letters.

Letters beyond ASCII before the @ are refused, and a domain is kept in its ASCII form, so that two
addresses that look alike are two addresses to a reader of the list as well.
"""

from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field

LONGEST, LONGEST_LOCAL = 254, 64


def normal(text: str) -> str:
    """The stored form; a ValueError says what is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"An e-mail address has at most {LONGEST} characters.")
    if not text.isprintable():
        raise ValueError("An e-mail address has no control characters.")
    try:
        parsed = validate_email(
            text, check_deliverability=False, allow_smtputf8=False, test_environment=True
        )
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    if len(parsed.local_part) > LONGEST_LOCAL:
        raise ValueError(f"An e-mail address has at most {LONGEST_LOCAL} characters before the @.")
    stored = (parsed.ascii_email or parsed.normalized).lower()
    if len(stored) > LONGEST:
        raise ValueError(f"An e-mail address has at most {LONGEST} characters.")
    return stored


def typed(text: str) -> str:
    """As somebody types it who signs in: the stored form of it, or what can be nobody's."""
    try:
        return normal(text.strip())
    except ValueError:
        return text.lower()


Email = Annotated[
    str,
    Field(min_length=3, max_length=LONGEST, json_schema_extra={"format": "email"}),
    AfterValidator(normal),
]
