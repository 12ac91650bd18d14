"""What payments tell the rest of Bursar; only the worker publishes it, after money has moved."""

from uuid import UUID

from bursar.core import events
from bursar.core.database import Role
from bursar.payments.models import Payment


class PaymentCompleted(
    events.Event, name="payments.completed", published_by={Role.WORKER}, public=True
):
    """The money of a payment has come; how much, stands in the payment."""

    payment_id: UUID
    user_id: UUID | None
    purpose: str
    subject_id: UUID | None


class PaymentFailed(events.Event, name="payments.failed", published_by={Role.WORKER}, public=True):
    """Nothing will come of a payment, unless the provider changes its mind."""

    payment_id: UUID
    user_id: UUID | None
    purpose: str
    subject_id: UUID | None


class PaymentRefunded(
    events.Event, name="payments.refunded", published_by={Role.WORKER}, public=True
):
    """Money of a payment has gone back, a part or all of it."""

    payment_id: UUID
    user_id: UUID | None
    purpose: str
    subject_id: UUID | None


class PaymentRefundFailed(
    events.Event, name="payments.refund_failed", published_by={Role.WORKER}, public=True
):
    """The provider could not give money of a payment back (`failed`), or has sent back what it had
    given (`returned`: it is in the customer's wallet)."""

    payment_id: UUID
    user_id: UUID | None
    purpose: str
    subject_id: UUID | None
    refund_id: UUID
    refund_status: str


class PaymentDisputed(
    events.Event, name="payments.disputed", published_by={Role.WORKER}, public=True
):
    """A payer contests a payment at the provider, or that was decided."""

    payment_id: UUID
    user_id: UUID | None
    dispute_id: UUID
    dispute_status: str


def about(payment: Payment) -> dict[str, UUID | str | None]:
    return {
        "payment_id": payment.id,
        "user_id": payment.user_id,
        "purpose": payment.purpose,
        "subject_id": payment.subject_id,
    }
