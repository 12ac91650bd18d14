"""When usage is billed, when invoices are due, and what happens to who does not pay."""

from datetime import timedelta

from bursar.system.catalogue import setting

INVOICE_AFTER_HOURS = setting(
    "invoice_after_hours",
    int,
    24,
    "How long after the end of a month (UTC) its invoices wait for usage that is reported late.",
    ge=0,
    le=24 * 14,
)
INVOICE_DUE_DAYS = setting(
    "invoice_due_days",
    int,
    14,
    "How many days a customer has to pay an invoice.",
    ge=0,
    le=180,
)
INVOICE_REOPENED_DAYS = setting(
    "invoice_reopened_days",
    int,
    7,
    "How many days a customer has at least to pay an invoice again whose payment was taken back.",
    ge=0,
    le=180,
)
STOP_UNPAID = setting(
    "billing_stop_unpaid",
    bool,
    True,
    "Whether keys/verify refuses calls of customers whose usage could not be paid for, or who have"
    " an invoice overdue.",
)

CUSTOMERS = 25  # in one transaction: all who charge wait for each other at the company's accounts
METERS = 40  # so many there may be: of all customers of a transaction no more than one post() takes
TURNS = 1000  # of one run; the next one goes on where it ended
MARGIN = timedelta(minutes=10)  # longer than any transaction that writes usage
DECLINES = (timedelta(days=1), timedelta(days=3), timedelta(days=7))
"""How long after each payment of an invoice that did not work the method is tried again; after
the last one it is not."""
