"""Who may call what, written down in words beside the application, and the callers who try.

The statement is not derived from the guards: it is what a person would say, and the guards have to
agree with it. A new route has no line here, so tests/test_matrix.py fails until it has one.
"""

from dataclasses import dataclass
from uuid import UUID

from bursar.auth.actor import Actor, Kind, Scope, operator
from bursar.auth.permissions import StaffRole
from tests.world import ADAM, ANNA, CARL, DORA, MARK, OLIVIA, SUE

STATEMENT = """
everybody
  GET /                                       GET /health
  GET /docs                                   GET /api/v1/health
  GET /docs/start.js                          GET /ready
  GET /docs/errors                            GET /openapi.json
  GET /first-run                              HEAD /openapi.json
  POST /first-run                             GET /first-run/done
  GET /first-run/page.css
  GET /demo-payments/page.css                 GET /demo-payments/{payment_id}
  POST /demo-payments/{payment_id}            GET /receipts/page.css
  POST /api/v1/payments/webhook               POST /api/v1/payments/webhooks/{provider}
  POST /api/v1/auth/signup                    POST /api/v1/auth/login
  POST /api/v1/auth/refresh                   POST /api/v1/auth/verify-email
  POST /api/v1/auth/forgot-password           POST /api/v1/auth/reset-password
  GET /api/v1/auth/oidc/start                 GET /api/v1/auth/oidc/callback
  POST /api/v1/admin/auth/login               POST /api/v1/admin/auth/refresh
  POST /api/v1/admin/auth/accept-invitation   POST /api/v1/admin/auth/forgot-password
  POST /api/v1/admin/auth/reset-password      GET /api/v1/admin/auth/oidc/start
  POST /api/v1/api-keys/leaks
  GET /api/v1/admin/auth/oidc/callback        POST /api/v1/admin/auth/oidc/code

the one who collects metrics
  GET /metrics

customers, verified or not, and staff who look as one
  POST /api/v1/auth/logout

customers, verified or not
  GET /api/v1/auth/me
  POST /api/v1/auth/resend-verification

customers
  GET /api/v1/auth/sessions
  GET /api/v1/users/{user_id}                 PUT /api/v1/users/{user_id}
  GET /api/v1/users/{user_id}/preferences     PUT /api/v1/users/{user_id}/preferences
  GET /api/v1/rewards                         GET /api/v1/users/{user_id}/rewards
  GET /api/v1/users/{user_id}/rewards/history
  GET /api/v1/services                        GET /api/v1/services/{service_id}
  GET /api/v1/services/{service_id}/availability
  GET /api/v1/appointments                    POST /api/v1/appointments
  GET /api/v1/appointments/{appointment_id}   PUT /api/v1/appointments/{appointment_id}
  POST /api/v1/appointments/{appointment_id}/cancellation
  GET /api/v1/trainings                       GET /api/v1/trainings/{training_id}
  POST /api/v1/trainings/{training_id}/enrolments
  GET /api/v1/enrolments                      GET /api/v1/enrolments/{enrolment_id}
  POST /api/v1/enrolments/{enrolment_id}/cancellation
  GET /api/v1/api-keys                        GET /api/v1/api-keys/{key_id}
  GET /api/v1/api-keys/scopes                 DELETE /api/v1/api-keys/{key_id}
  GET /api/v1/users/{user_id}/payment-methods GET /api/v1/users/{user_id}/auto-topup
  GET /api/v1/price-plans
  GET /api/v1/invoices                        GET /api/v1/invoices/{invoice_id}

customers and their keys
  GET /api/v1/usage                           GET /api/v1/usage/summary
  GET /api/v1/usage/quota                     GET /api/v1/usage/breakdown
  GET /api/v1/usage/export
  GET /api/v1/usage/costs                     GET /api/v1/usage/charges

customers, their keys and services
  POST /api/v1/usage                          POST /api/v1/usage/events

services
  POST /api/v1/keys/verify                    POST /api/v1/usage/outcomes

customers in person, verified or not
  POST /api/v1/auth/change-email

customers in person
  POST /api/v1/auth/change-password
  DELETE /api/v1/auth/sessions                DELETE /api/v1/auth/sessions/{session_id}
  GET /api/v1/users/{user_id}/export          POST /api/v1/users/{user_id}/deletion
  POST /api/v1/wallets/transfers
  POST /api/v1/users/{user_id}/rewards/redemptions
  POST /api/v1/api-keys                       PUT /api/v1/api-keys/{key_id}
  POST /api/v1/api-keys/{key_id}/rotation
  PUT /api/v1/users/{user_id}/payment-methods/{method_id}/default
  DELETE /api/v1/users/{user_id}/payment-methods/{method_id}
  PUT /api/v1/users/{user_id}/auto-topup      DELETE /api/v1/users/{user_id}/auto-topup

customers, their keys, and owner, administrator, support, analyst
  GET /api/v1/balance/{user_id}
  GET /api/v1/users/{user_id}/accounts        GET /api/v1/users/{user_id}/holds
  GET /api/v1/users/{user_id}/transactions
  GET /api/v1/users/{user_id}/transactions/export
  GET /api/v1/users/{user_id}/analytics/spending

staff, with their second factor or not yet
  GET /api/v1/admin/auth/me                   POST /api/v1/admin/auth/logout
  POST /api/v1/admin/auth/change-password     GET /api/v1/admin/auth/sessions
  DELETE /api/v1/admin/auth/sessions          DELETE /api/v1/admin/auth/sessions/{session_id}
  POST /api/v1/admin/auth/totp                POST /api/v1/admin/auth/totp/confirmation
  DELETE /api/v1/admin/auth/totp              POST /api/v1/admin/auth/recovery-codes

owner
  DELETE /api/v1/admin/staff/{member_id}/second-factor

owner, administrator
  GET /api/v1/admin/staff                     POST /api/v1/admin/staff
  GET /api/v1/admin/staff/stats/overview
  GET /api/v1/admin/staff/{member_id}         PUT /api/v1/admin/staff/{member_id}
  PUT /api/v1/admin/staff/{member_id}/status  DELETE /api/v1/admin/staff/{member_id}
  POST /api/v1/admin/staff/{member_id}/invitation
  GET /api/v1/admin/audit-logs                GET /api/v1/admin/audit-logs/export
  PUT /api/v1/admin/settings
  PUT /api/v1/admin/settings/{key}            DELETE /api/v1/admin/settings/{key}
  POST /api/v1/admin/assets
  POST /api/v1/payments/{payment_id}/refunds
  POST /api/v1/admin/payments
  POST /api/v1/admin/payments/{payment_id}/confirmation
  POST /api/v1/admin/payments/{payment_id}/bounce
  POST /api/v1/admin/payment-events/{event_id}/replay
  POST /api/v1/admin/payments/{payment_id}/receipt-mails
  POST /api/v1/admin/reconciliation/differences/{difference_id}/closure
  POST /api/v1/admin/bank-statements
  POST /api/v1/admin/bank-matches/{match_id}/acceptance
  POST /api/v1/admin/bank-matches/{match_id}/rejection
  POST /api/v1/admin/bank-lines/{line_id}/assignment
  POST /api/v1/admin/bank-lines/{line_id}/dismissal
  POST /api/v1/admin/transfers/{transfer_id}/reversal
  POST /api/v1/admin/users/{user_id}/adjustments
  POST /api/v1/admin/users/{user_id}/rewards/grants
  POST /api/v1/admin/adjustments/{adjustment_id}/approval
  POST /api/v1/admin/adjustments/{adjustment_id}/rejection
  PUT /api/v1/admin/users/{user_id}/wallet/overdraft
  PUT /api/v1/admin/users/{user_id}/wallet/status
  POST /api/v1/admin/webhook-endpoints
  PUT /api/v1/admin/webhook-endpoints/{endpoint_id}
  DELETE /api/v1/admin/webhook-endpoints/{endpoint_id}
  POST /api/v1/admin/webhook-endpoints/{endpoint_id}/secret
  POST /api/v1/admin/webhook-endpoints/{endpoint_id}/tests
  POST /api/v1/admin/webhook-endpoints/{endpoint_id}/replays
  POST /api/v1/admin/webhook-deliveries/{delivery_id}/replays
  POST /api/v1/admin/api-keys                 PUT /api/v1/admin/api-keys/{key_id}
  DELETE /api/v1/admin/api-keys/{key_id}      POST /api/v1/admin/api-keys/{key_id}/rotation
  POST /api/v1/admin/users/{user_id}/usage/grants
  POST /api/v1/admin/billing-meters           DELETE /api/v1/admin/billing-meters/{code}
  POST /api/v1/admin/price-plans              PUT /api/v1/admin/price-plans/{plan_id}
  DELETE /api/v1/admin/price-plans/{plan_id}
  POST /api/v1/admin/invoices/{invoice_id}/cancellation
  POST /api/v1/admin/invoices/{invoice_id}/reopening

owner, administrator, and services
  POST /api/v1/admin/wallets/charges          POST /api/v1/admin/wallets/charges/bulk
  POST /api/v1/admin/wallets/holds
  POST /api/v1/admin/wallets/holds/{hold_id}/captures
  POST /api/v1/admin/wallets/holds/{hold_id}/void

owner, administrator, analyst
  GET /api/v1/admin/ledger/trial-balance      GET /api/v1/admin/bank-statements
  GET /api/v1/admin/bank-lines                GET /api/v1/admin/bank-matches
  GET /api/v1/admin/reconciliation/runs
  GET /api/v1/admin/reconciliation/differences
  GET /api/v1/admin/reconciliation/differences/{difference_id}

owner, administrator, marketer
  POST /api/v1/admin/rewards/rules            POST /api/v1/admin/rewards/tiers
  PUT /api/v1/admin/rewards/rules/{rule_id}   DELETE /api/v1/admin/rewards/rules/{rule_id}
  PUT /api/v1/admin/rewards/tiers/{tier_id}   DELETE /api/v1/admin/rewards/tiers/{tier_id}

owner, administrator, support
  POST /api/v1/admin/users                    POST /api/v1/admin/users/status-changes
  PUT /api/v1/admin/users/{user_id}           PUT /api/v1/admin/users/{user_id}/status
  DELETE /api/v1/admin/users/{user_id}        POST /api/v1/admin/users/{user_id}/impersonation
  GET /api/v1/admin/api-keys                  GET /api/v1/admin/api-keys/{key_id}

owner, administrator, support
  POST /api/v1/admin/providers                PUT /api/v1/admin/providers/{provider_id}
  PUT /api/v1/admin/providers/{provider_id}/working-hours
  POST /api/v1/admin/providers/{provider_id}/exceptions
  DELETE /api/v1/admin/providers/{provider_id}/exceptions/{exception_id}
  POST /api/v1/admin/services                 PUT /api/v1/admin/services/{service_id}
  POST /api/v1/admin/appointments             PUT /api/v1/admin/appointments/{appointment_id}
  PUT /api/v1/admin/appointments/{appointment_id}/status
  POST /api/v1/admin/appointments/{appointment_id}/cancellation
  POST /api/v1/admin/trainings                PUT /api/v1/admin/trainings/{training_id}
  PUT /api/v1/admin/trainings/{training_id}/status
  POST /api/v1/admin/trainings/{training_id}/enrolments
  POST /api/v1/admin/enrolments/{enrolment_id}/cancellation

owner, administrator, support, analyst
  GET /api/v1/admin/providers                 GET /api/v1/admin/providers/{provider_id}
  GET /api/v1/admin/providers/{provider_id}/working-hours
  GET /api/v1/admin/providers/{provider_id}/exceptions
  GET /api/v1/admin/appointments              GET /api/v1/admin/appointments/{appointment_id}
  GET /api/v1/admin/trainings/{training_id}/enrolments

customers, and owner, administrator
  POST /api/v1/add-funds                      POST /api/v1/payments
  POST /api/v1/payments/{payment_id}/confirmation
  POST /api/v1/payments/{payment_id}/cancellation

customers, and owner, administrator, support, analyst
  GET /api/v1/payments                        GET /api/v1/payments/summary
  GET /api/v1/payments/{payment_id}           GET /api/v1/payments/{payment_id}/audit
  GET /api/v1/payments/{payment_id}/receipt

owner, administrator, support, analyst
  GET /api/v1/admin/payments                  GET /api/v1/admin/payments/{payment_id}
  GET /api/v1/admin/refunds                   GET /api/v1/admin/disputes
  GET /api/v1/admin/payment-events            GET /api/v1/admin/payment-events/{event_id}
  GET /api/v1/admin/health                    GET /api/v1/admin/assets
  GET /api/v1/admin/adjustments               GET /api/v1/admin/adjustments/{adjustment_id}
  GET /api/v1/admin/transfers/{transfer_id}   GET /api/v1/admin/wallets/holds/{hold_id}
  GET /api/v1/admin/users/{user_id}/holds     GET /api/v1/admin/users/{user_id}/auto-topup
  GET /api/v1/admin/users/{user_id}/payment-methods
  GET /api/v1/admin/users/{user_id}/wallets   GET /api/v1/admin/users/{user_id}/statement
  GET /api/v1/admin/webhook-endpoints         GET /api/v1/admin/webhook-endpoints/{endpoint_id}
  GET /api/v1/admin/webhook-event-types
  GET /api/v1/admin/webhook-deliveries        GET /api/v1/admin/webhook-deliveries/{delivery_id}
  GET /api/v1/admin/users/{user_id}/usage     GET /api/v1/admin/users/{user_id}/usage/summary
  GET /api/v1/admin/users/{user_id}/usage/quota
  GET /api/v1/admin/users/{user_id}/usage/breakdown
  GET /api/v1/admin/users/{user_id}/usage/grants
  GET /api/v1/admin/users/{user_id}/usage/costs
  GET /api/v1/admin/users/{user_id}/usage/charges
  GET /api/v1/admin/billing-meters            GET /api/v1/admin/price-plans
  GET /api/v1/admin/price-plans/{plan_id}     GET /api/v1/admin/price-plans/{plan_id}/quote
  GET /api/v1/admin/invoices                  GET /api/v1/admin/invoices/{invoice_id}
  GET /api/v1/admin/billing-waits
  GET /api/v1/admin/users/{user_id}/usage/export
  GET /api/v1/admin/usage/export

owner, administrator, support, analyst, marketer
  GET /api/v1/admin/users                     GET /api/v1/admin/users/{user_id}
  GET /api/v1/admin/users/stats/overview
  GET /api/v1/admin/settings                  GET /api/v1/admin/settings/{key}
  GET /api/v1/admin/setting-changes
  GET /api/v1/admin/rewards/rules             GET /api/v1/admin/rewards/rules/{rule_id}
  GET /api/v1/admin/rewards/tiers             GET /api/v1/admin/rewards/tiers/{tier_id}
  GET /api/v1/admin/users/{user_id}/rewards   GET /api/v1/admin/users/{user_id}/rewards/history
  GET /api/v1/admin/services                  GET /api/v1/admin/services/{service_id}
  GET /api/v1/admin/services/{service_id}/availability
  GET /api/v1/admin/trainings                 GET /api/v1/admin/trainings/{training_id}
"""

EVERYBODY, METRICS = "everybody", "the one who collects metrics"
UNVERIFIED, CUSTOMERS = "customers, verified or not", "customers"
IN_PERSON, MISTYPED = "customers in person", "customers in person, verified or not"
LEAVING = "customers, verified or not, and staff who look as one"
OWN_ACCOUNT = "staff, with their second factor or not yet"
AND_KEYS, REPORTERS, SERVICES = (
    "customers and their keys", "customers, their keys and services", "services",
)  # fmt: skip
AND_SERVICES = ", and services"  # these of the staff, and services whose key has the scope
OF_CUSTOMERS = {UNVERIFIED, CUSTOMERS, AND_KEYS, REPORTERS, IN_PERSON, MISTYPED, LEAVING}
KEYS_AND_STAFF = "customers, their keys, and "
AND_STAFF = ("customers, and ", KEYS_AND_STAFF)  # customers what is theirs, staff anybody's
ONLY_ONES_OWN = {*OF_CUSTOMERS, OWN_ACCOUNT}  # what belongs to others is not found there


def stated() -> dict[str, str]:
    """`GET /api/v1/auth/me` → the words above it."""
    found: dict[str, str] = {}
    words = ""
    for line in STATEMENT.splitlines():
        if line and not line.startswith(" "):
            words = line
        parts = line.split() if line.startswith(" ") else []
        for method, path in zip(parts[::2], parts[1::2], strict=True):
            if f"{method} {path}" in found:
                raise ValueError(f"{method} {path} is stated twice")
            found[f"{method} {path}"] = words
    return found


STATED = stated()
PENDING = Actor(Kind.CUSTOMER, UUID("00000000-0000-7000-8000-0000000000c3"))
NEWCOMER = Actor(Kind.STAFF, UUID("00000000-0000-7000-8000-0000000000a6"), StaffRole.OWNER)
TESS = UUID("00000000-0000-7000-8000-0000000000a7")  # marketer, has a second factor
IVAN = UUID("00000000-0000-7000-8000-0000000000a8")  # marketer, invited
ABSENT = UUID("00000000-0000-7000-8000-00000000dead")
CARLS_KEY = UUID("00000000-0000-7000-8000-0000000000d1")
POOR_KEY = UUID("00000000-0000-7000-8000-0000000000d2")  # Carl's, without any scope
SERVICE_KEY = UUID("00000000-0000-7000-8000-0000000000d3")


Refusal = tuple[int, set[str]]  # the status, and the codes that are right


@dataclass(frozen=True)
class Caller:
    """One who tries every door; `actor` says as whom, `impersonator` and `scope` how."""

    name: str
    actor: Actor | None
    impersonator: Actor | None = None
    scope: Scope = Scope.FULL
    key: UUID | None = None

    def refused(self, words: str, method: str) -> Refusal | None:
        """How this caller is turned away from what the words are for; None if let in."""
        if words == EVERYBODY:
            return None
        if words == METRICS:
            return 401, {"metrics.token_needed"}
        if self.name == "nobody":
            return 401, {"auth.sign_in_needed"}
        if self.key:
            return self.refused_key(words)
        if self.actor is None or self.name == "ended session":
            return 401, {"auth.bad_token"}
        if self.actor.kind is Kind.CUSTOMER:
            theirs = CUSTOMERS if words.startswith(AND_STAFF) else words
            return self.refused_customer(theirs, method)
        if words == OWN_ACCOUNT:
            return None
        roles = words.removesuffix(AND_SERVICES)
        for prefix in AND_STAFF:
            roles = roles.removeprefix(prefix)
        if words in OF_CUSTOMERS or self.actor.role not in roles.split(", "):
            return 403, {"auth.not_allowed", "accounts.above_you"}
        return (403, {"auth.step_owed"}) if self.scope is Scope.ENROL else None

    def refused_key(self, words: str) -> Refusal | None:
        customers = words in (AND_KEYS, REPORTERS) or words.startswith(KEYS_AND_STAFF)
        services = words in (SERVICES, REPORTERS) or words.endswith(AND_SERVICES)
        if not (customers or services):
            return 403, {"auth.not_allowed"}
        fits = {CARLS_KEY: customers, SERVICE_KEY: services}.get(self.key or ABSENT, False)
        return None if fits else (403, {"auth.missing_scope"})

    def refused_customer(self, words: str, method: str) -> Refusal | None:
        codes = set()
        if words not in OF_CUSTOMERS:
            codes.add("auth.not_allowed")
        elif self.scope is Scope.ENROL and words not in (UNVERIFIED, MISTYPED, LEAVING):
            codes.add("auth.step_owed")
        elif self.impersonator and words in (IN_PERSON, MISTYPED):
            codes.add("auth.not_for_others")
        writes = method not in ("GET", "HEAD") and words in OF_CUSTOMERS - {LEAVING}
        if self.scope is Scope.READ and writes:
            codes.add("auth.read_only")
        return (403, codes) if codes else None


CALLERS = (
    Caller("nobody", None),
    Caller("expired token", None),
    Caller("token of a stranger's making", None),
    Caller("ended session", CARL),
    Caller("carl, customer", CARL),
    Caller("dora, customer", DORA),
    Caller("sue looking at carl's", CARL, SUE, Scope.READ),
    Caller("olivia acting as carl", CARL, OLIVIA),
    Caller("customer who owes verification", PENDING, scope=Scope.ENROL),
    Caller("olivia, owner", OLIVIA),
    Caller("adam, administrator", ADAM),
    Caller("sue, support", SUE),
    Caller("anna, analyst", ANNA),
    Caller("mark, marketer", MARK),
    Caller("owner who owes a second factor", NEWCOMER, scope=Scope.ENROL),
    Caller("operator", operator(StaffRole.OWNER)),
    Caller("carl's key", CARL, key=CARLS_KEY),
    Caller("carl's key without scopes", CARL, key=POOR_KEY),
    Caller("another service", None, key=SERVICE_KEY),
)
