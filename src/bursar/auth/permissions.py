"""Who may do what: every permission, and the roles as sets of them, in this one place."""

from enum import StrEnum

from bursar.core.errors import BursarError


class NotAllowed(BursarError, status=403, code="auth.not_allowed"):
    """You are signed in, but this is not for you."""


class Permission(StrEnum):
    """What a staff route asks for."""

    AUDIT_READ = "audit.read"
    HEALTH_READ = "health.read"
    SETTINGS_READ = "settings.read"
    SETTINGS_WRITE = "settings.write"
    STAFF_READ = "staff.read"
    STAFF_WRITE = "staff.write"
    USERS_READ = "users.read"
    USERS_WRITE = "users.write"
    USERS_IMPERSONATE = "users.impersonate"  # to look, as the customer sees it
    USERS_ACT_AS = "users.act_as"  # also to change what the customer could change


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
            Permission.HEALTH_READ,
            Permission.SETTINGS_READ,
            Permission.USERS_READ,
            Permission.USERS_WRITE,
            Permission.USERS_IMPERSONATE,
        }
    ),
    StaffRole.ANALYST: frozenset(
        {Permission.HEALTH_READ, Permission.SETTINGS_READ, Permission.USERS_READ}
    ),
    StaffRole.MARKETER: frozenset({Permission.SETTINGS_READ, Permission.USERS_READ}),
}
