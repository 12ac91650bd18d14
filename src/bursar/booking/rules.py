"""What staff may set about booking. The database reads them too: booking_rule() in times.sql."""

from datetime import timedelta

from bursar.system.catalogue import setting

LONGEST_LOOK = timedelta(days=31)  # of one question for free times
MOST_SLOTS = 2_000  # of one answer
NOT_PAID = "It was not paid for in time."

LEAD_MINUTES = setting(
    "booking_lead_minutes",
    int,
    60,
    "How long before its start customers can book an appointment at the latest.",
    ge=0,
    le=43_200,
)
HORIZON_DAYS = setting(
    "booking_horizon_days", int, 90, "How far ahead customers can book.", ge=1, le=730
)
STEP_MINUTES = setting(
    "booking_step_minutes",
    int,
    15,
    "Free times are offered every so many minutes, counted from each opening.",
    ge=5,
    le=1_440,
)
OPEN_UNPAID_AT_MOST = setting(
    "booking_open_unpaid_at_most",
    int,
    3,
    "How many appointments that are not paid for yet one customer may have ahead.",
    ge=1,
    le=1_000,
)
PAY_WITHIN_MINUTES = setting(
    "booking_pay_within_minutes",
    int,
    60,
    "How long a customer has to pay for what is paid in advance; then it is free again.",
    ge=5,
    le=43_200,
)
MOVED_UP_PAY_WITHIN_HOURS = setting(
    "booking_moved_up_pay_within_hours",
    int,
    24,
    "The same for a customer who has got a place from the waiting list.",
    ge=1,
    le=720,
)
WAITING_AT_MOST = setting(
    "booking_waiting_at_most",
    int,
    500,
    "How many customers may wait for a place in one training.",
    ge=0,
    le=10_000,
)
REMINDER_HOURS = setting(
    "booking_reminder_hours",
    int,
    24,
    "How long before its start customers are reminded of a booking; 0: not at all.",
    ge=0,
    le=336,
)
CANCEL_FREE_HOURS = setting(
    "cancel_free_hours",
    int,
    24,
    "Who cancels so many hours before the start, or earlier, gets everything back.",
    ge=0,
    le=8_760,
)
CANCEL_LATE_REFUND_PERCENT = setting(
    "cancel_late_refund_percent",
    int,
    50,
    "The share of the price that goes back to who cancels later than that.",
    ge=0,
    le=100,
)
IN_DATABASE = (
    LEAD_MINUTES,
    HORIZON_DAYS,
    STEP_MINUTES,
    OPEN_UNPAID_AT_MOST,
    PAY_WITHIN_MINUTES,
    MOVED_UP_PAY_WITHIN_HOURS,
    WAITING_AT_MOST,
    CANCEL_FREE_HOURS,
    CANCEL_LATE_REFUND_PERCENT,
)
