"""Who may do what: every permission, and the roles as sets of them, in this one place."""

from enum import StrEnum

from bursar.core.errors import BursarError


class NotAllowed(BursarError, status=403, code="auth.not_allowed"):
    """You are signed in, but this is not for you."""


class Permission(StrEnum):
    """What a staff route asks for."""

    AUDIT_READ = "audit.read"
    BILLING_READ = "billing.read"
    BILLING_WRITE = "billing.write"  # meters, price plans; give an invoice up, or open it again
    BOOKING_READ = "booking.read"
    BOOKING_WRITE = "booking.write"
    HEALTH_READ = "health.read"
    KEYS_READ = "keys.read"
    KEYS_WRITE = "keys.write"  # make service credentials, limit and revoke anybody's
    LEDGER_READ = "ledger.read"  # the books of the whole company
    PAYMENTS_READ = "payments.read"
    PAYMENTS_WRITE = "payments.write"  # record, confirm, bounce, replay
    PAYMENTS_REFUND = "payments.refund"
    PAYMENTS_RECONCILE = "payments.reconcile"  # close differences, read in bank statements
    REWARDS_WRITE = "rewards.write"
    SERVICES_READ = "services.read"  # what is offered, not who has booked it
    SETTINGS_READ = "settings.read"
    SETTINGS_WRITE = "settings.write"
    STAFF_READ = "staff.read"
    STAFF_WRITE = "staff.write"
    USAGE_READ = "usage.read"
    USAGE_GRANT = "usage.grant"  # give a customer more than their tier has
    USERS_READ = "users.read"
    USERS_WRITE = "users.write"
    USERS_IMPERSONATE = "users.impersonate"  # to look, as the customer sees it
    USERS_ACT_AS = "users.act_as"  # also to change what the customer could change
    WALLETS_READ = "wallets.read"
    WALLETS_CHARGE = "wallets.charge"  # charge and hold, as a service of the business does
    WALLETS_FUND = "wallets.fund"
    WALLETS_ADJUST = "wallets.adjust"  # correct, reverse, freeze
    WEBHOOKS_READ = "webhooks.read"
    WEBHOOKS_WRITE = "webhooks.write"


class StaffRole(StrEnum):
    """What people who work here are; one person has one role."""

    OWNER = "owner"
    ADMINISTRATOR = "administrator"
    SUPPORT = "support"
    ANALYST = "analyst"
    MARKETER = "marketer"


EVERYTHING = frozenset(Permission)

GRANTED: dict[StaffRole, frozenset[Permission]] = {
    StaffRole.OWNER: EVERYTHING,
    StaffRole.ADMINISTRATOR: EVERYTHING,
    StaffRole.SUPPORT: frozenset(
        {
            Permission.BILLING_READ,
            Permission.BOOKING_READ,
            Permission.BOOKING_WRITE,
            Permission.HEALTH_READ,
            Permission.PAYMENTS_READ,
            Permission.SERVICES_READ,
            Permission.KEYS_READ,
            Permission.SETTINGS_READ,
            Permission.USAGE_READ,
            Permission.USERS_READ,
            Permission.USERS_WRITE,
            Permission.USERS_IMPERSONATE,
            Permission.WALLETS_READ,
            Permission.WEBHOOKS_READ,
        }
    ),
    StaffRole.ANALYST: frozenset(
        {
            Permission.BILLING_READ,
            Permission.BOOKING_READ,
            Permission.HEALTH_READ,
            Permission.LEDGER_READ,
            Permission.PAYMENTS_READ,
            Permission.SERVICES_READ,
            Permission.SETTINGS_READ,
            Permission.USAGE_READ,
            Permission.USERS_READ,
            Permission.WALLETS_READ,
            Permission.WEBHOOKS_READ,
        }
    ),
    StaffRole.MARKETER: frozenset(
        {
            Permission.REWARDS_WRITE,
            Permission.SERVICES_READ,
            Permission.SETTINGS_READ,
            Permission.USERS_READ,
        }
    ),
}
