"""Who may do what: every permission, and the roles as sets of them, in this one place."""

from enum import StrEnum


class Permission(StrEnum):
    """What a staff route asks for."""

    HEALTH_READ = "health.read"
    SETTINGS_READ = "settings.read"
    SETTINGS_WRITE = "settings.write"


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
    StaffRole.SUPPORT: frozenset({Permission.HEALTH_READ, Permission.SETTINGS_READ}),
    StaffRole.ANALYST: frozenset({Permission.HEALTH_READ, Permission.SETTINGS_READ}),
    StaffRole.MARKETER: frozenset({Permission.SETTINGS_READ}),
}
