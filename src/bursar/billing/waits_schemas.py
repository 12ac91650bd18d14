"""What cannot be billed as it is, over the wire: to staff alone."""

from uuid import UUID

from pydantic import Field

from bursar.billing.models import Charging
from bursar.core.paging import PageFields
from bursar.core.wire import Moment, StaffWire


class WaitForStaff(StaffWire):
    """What cannot be billed as it is: a meter of a customer's month, and why."""

    id: UUID
    user_id: UUID
    month: str
    meter: str | None = Field(description="Null: none of the month could be billed.")
    charging: Charging
    waits_because: str
    since: Moment
    next_look_at: Moment = Field(
        description="Sooner where plans of that month change, or usage that is charged at once."
    )


class WaitList(PageFields, StaffWire):
    """One page of what cannot be billed as it is."""

    waits: list[WaitForStaff]
