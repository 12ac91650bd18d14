"""What sign-up and sign-in go by: lifetimes, locks, and what staff may set."""

from datetime import timedelta

from bursar.system.catalogue import setting

LOCK_AFTER = 10  # wrong passwords in a row, wherever they come from
LOCK_FOR = timedelta(minutes=15)

VERIFICATION_GOOD_FOR = timedelta(days=2)
RESET_GOOD_FOR = timedelta(hours=1)
INVITATION_GOOD_FOR = timedelta(days=7)
FIRST_LINK_GOOD_FOR = timedelta(hours=24)

VERIFY_EMAIL = setting(
    "verify_email",
    bool,
    False,
    "Whether new customers have to verify their e-mail address before they may do anything.",
)
SIGN_UP_OPEN = setting(
    "sign_up_open", bool, True, "Whether anybody may sign up; staff can always add customers."
)
STAFF_SECOND_FACTOR = setting(
    "staff_second_factor",
    bool,
    False,
    "Whether staff need a second factor (TOTP); who has none can do nothing but set one up.",
)
ERASE_AFTER_DAYS = setting(
    "erase_deleted_accounts_days",
    int,
    30,
    "How long a deleted account can be restored before its personal data is erased.",
    ge=0,
    le=3650,
)
