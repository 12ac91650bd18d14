"""Signing in with an OpenID provider: begun and finished in one browser, in ten minutes, once.

What a flow must remember lies sealed in a cookie. A callback link that was stolen, or that somebody
lays out for another person's browser, meets no cookie there, or one of another flow, and opens
nothing. Who comes back is known by issuer and subject; an e-mail address only finds an account to
link with where both sides have proved it.
"""

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries, second_factor, sign_in, staff
from bursar.accounts import service as accounts
from bursar.accounts.joining import as_themselves
from bursar.accounts.models import AdminUser, Identity, StaffStatus, Status, User
from bursar.accounts.oidc_provider import (
    Flow,
    Person,
    Provider,
    ProviderFailed,
    known_error,
)
from bursar.accounts.rules import SIGN_UP_OPEN
from bursar.accounts.service import SignUpClosed
from bursar.accounts.sign_in import AREAS, TARGETS, SignedIn, Suspended
from bursar.audit import service as audit
from bursar.auth import throttle
from bursar.auth.actor import Actor, Kind
from bursar.auth.door import Door
from bursar.auth.permissions import StaffRole
from bursar.core.errors import BursarError
from bursar.core.seal import Seal, SealBroken
from bursar.system import queries as system

FLOW_SECONDS = 600
CODE_SECONDS = 300  # to find the phone

FROM_ADDRESS = throttle.Limit("oidc_address", 300, 5 * 60)  # an office may share one
USED = throttle.Limit("oidc_flow", 1, FLOW_SECONDS)  # kept for as long as its cookie is good


class OidcOff(BursarError, status=404, code="accounts.oidc_off"):
    """No OpenID provider is set up here for these people; sign in with a password."""


class BadFlow(BursarError, status=401, code="accounts.oidc_bad_flow"):
    """The answer belongs to no sign-in that this browser began in the last ten minutes, or it was
    used before; start again."""


class Cancelled(BursarError, status=403, code="accounts.oidc_cancelled"):
    """The sign-in was cancelled or refused at the provider."""


class EmailUnproved(BursarError, status=403, code="accounts.oidc_email_unverified"):
    """The provider does not say that it has verified an e-mail address of this person."""


class LinkRefused(BursarError, status=409, code="accounts.oidc_link_refused"):
    """An account has this address, but it is not certain that it is the same person's; `detail`
    says what to do."""


class NoAccount(BursarError, status=403, code="accounts.oidc_no_account"):
    """There is no account for this person, or a deleted one; staff have to be invited first."""


class CodeAsked(BursarError, status=401, code="accounts.oidc_code_asked"):
    """The provider has said who it is; send `continuation` and `code`, from the authenticator, to
    admin/auth/oidc/code within five minutes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the browser brings back from the provider."""

    code: str | None = None
    state: str | None = None
    error: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class CodeOf:
    """A code of the second factor, and whose attempt it was counted as."""

    person_id: UUID
    code: str


async def begin(door: Door, kind: Kind, provider: Provider | None) -> tuple[str, str]:
    """Where the browser goes, and the cookie that it keeps meanwhile."""
    provider = await admitted(door, provider)
    flow = Flow(token_urlsafe(32), token_urlsafe(32), token_urlsafe(48))
    kept = {"flow": asdict(flow), "issuer": provider.issuer, "client_id": provider.client_id}
    return await provider.address(flow), sealed(door, f"flow {kind}", kept, FLOW_SECONDS)


async def finish(
    door: Door, kind: Kind, provider: Provider | None, answer: Answer, cookie: str | None
) -> SignedIn:
    """Whoever the provider says it is, if this browser has begun it."""
    provider = await admitted(door, provider)
    flow = flow_of(door, kind, provider, answer, cookie)
    await use_up(door, flow)
    if answer.error is not None:
        raise refused_there(provider, answer.error)
    if answer.code is None:
        raise bad_flow()
    return await enter(door, kind, await provider.identify(answer.code, flow))


async def admitted(door: Door, provider: Provider | None) -> Provider:
    if provider is None:
        raise OidcOff("No OpenID provider is set up here: sign in with your password.")
    where = throttle.network_of(door.origin.address)
    await throttle.count(door.database, ((FROM_ADDRESS, where),))
    return provider


def flow_of(door: Door, kind: Kind, provider: Provider, answer: Answer, cookie: str | None) -> Flow:
    """The flow of the cookie, if it is the one that the answer is for."""
    kept = opened(door, f"flow {kind}", cookie)
    flow = Flow(**kept["flow"])
    same = compare_digest(flow.state.encode(), (answer.state or "").encode("utf-8", "replace"))
    if not same or (kept["issuer"], kept["client_id"]) != (provider.issuer, provider.client_id):
        raise bad_flow()
    if answer.issuer not in (None, provider.issuer):  # RFC 9207: not from whom we had sent it to
        raise bad_flow()
    return flow


async def use_up(door: Door, flow: Flow) -> None:
    """Of any number that come with one flow, in whichever process, one goes on. The provider's
    code is good once too, but that is the provider's word; this is ours."""
    try:
        await throttle.count(door.database, ((USED, flow.state),))
    except throttle.TooManyAttempts:
        raise bad_flow() from None


def refused_there(provider: Provider, error: str) -> BursarError:
    if error == "access_denied":
        return Cancelled("The sign-in was cancelled at the provider; start again if you like.")
    failed: ProviderFailed = provider.failed(f"it answers {known_error(error)}")
    return failed


def bad_flow() -> BadFlow:
    """One sentence for all reasons: they help nobody but whoever tries."""
    return BadFlow(
        "This belongs to no sign-in that this browser began in the last ten minutes: start again."
    )


def sealed(door: Door, purpose: str, content: dict[str, Any], seconds: int) -> str:
    """Only this installation reads it, only for this purpose, and not for long."""
    seal = Seal(door.settings.secret_keys, f"openid {purpose}")
    return seal.close(json.dumps({**content, "until": time.time() + seconds}).encode()).decode()


def opened(door: Door, purpose: str, text: str | None) -> dict[str, Any]:
    seal = Seal(door.settings.secret_keys, f"openid {purpose}")
    try:
        content: dict[str, Any] = json.loads(seal.open((text or "").encode("utf-8", "replace")))
    except SealBroken:
        raise bad_flow() from None
    if content["until"] < time.time():
        raise bad_flow()
    return content


async def enter(door: Door, kind: Kind, who: Person, proof: CodeOf | None = None) -> SignedIn:
    """Links, signs up and opens the session in one transaction, after all calls to the provider."""
    noted = second_factor.misses_noted(door, proof.person_id) if proof else nullcontext()
    async with noted, door.transaction() as db:
        person = await found(db, kind, who)
        if proof is not None and proof.person_id != person.id:
            raise bad_flow()  # the address is somebody else's since; the attempt was not theirs
        if kind is Kind.STAFF and person.has_second_factor and not who.second_factor:
            if proof is None:
                raise ask_for_code(door, who, person.id)
            await second_factor.use(db, person, proof.code, door.settings)
        return await sign_in.open_session(db, door, kind, person, method="oidc")


def ask_for_code(door: Door, who: Person, person_id: UUID) -> CodeAsked:
    """Nothing of this visit is written: linking too waits for the code."""
    kept = {"who": asdict(who), "person_id": str(person_id)}
    return CodeAsked(
        "Send the code of your authenticator with this continuation to admin/auth/oidc/code.",
        continuation=sealed(door, "code", kept, CODE_SECONDS),
    )


async def finish_with_code(
    door: Door, provider: Provider | None, continuation: str, code: str
) -> SignedIn:
    """For staff whose provider did not say that it had asked for a second factor."""
    provider = await admitted(door, provider)
    kept = opened(door, "code", continuation)
    who, proof = Person(**kept["who"]), CodeOf(UUID(kept["person_id"]), code)
    if who.issuer != provider.issuer:
        raise bad_flow()
    attempts = throttle.second_factor(proof.person_id)
    await throttle.count(door.database, attempts)
    signed_in = await enter(door, Kind.STAFF, who, proof)
    await throttle.forget(door.database, attempts)
    return signed_in


async def found(db: AsyncSession, kind: Kind, who: Person) -> Any:
    """The person, locked; one who is not known by the identity is found by the address."""
    name = func.hashtextextended(f"identity {kind} {who.issuer} {who.subject}", 0)
    await db.execute(select(func.pg_advisory_xact_lock(name)))  # two first visits are one sign-up
    identity = await db.get(Identity, (kind, who.issuer, who.subject))
    if identity is not None:
        person_id: Any = identity.user_id or identity.admin_user_id  # one of them, always
        person = await sign_in.held(db, kind, person_id)
        if kind is Kind.CUSTOMER or person.status != StaffStatus.DELETED:
            refuse_shut_out(person)
            return person
        await db.delete(identity)  # of somebody who left, and may have been invited anew since
        await db.flush()
    if who.email is None:
        raise EmailUnproved("Verify your e-mail address at the provider first, then sign in again.")
    if kind is Kind.STAFF:
        return await staff_with(db, who, who.email)
    return await customer_with(db, who, who.email)


def refuse_shut_out(person: Any) -> None:
    """A lock after wrong passwords is not looked at: nobody has guessed anything here, and a
    stranger's guesses must not keep out whoever needs no password."""
    if person is None or person.status == Status.DELETED:
        raise NoAccount("This account is deleted; write to support.")
    if person.status == Status.SUSPENDED:
        raise Suspended("This account is suspended; write to support.")


async def customer_with(db: AsyncSession, who: Person, email: str) -> User:
    """Linked only where the account's own address is proved: else whoever typed the address in
    first, and knows the password, would share the account with the person whose it is."""
    known = await queries.by_email(db, Kind.CUSTOMER, email)
    if known is None:
        return await sign_up(db, who, email)
    user: User = await sign_in.held(db, Kind.CUSTOMER, known.id)
    refuse_shut_out(user)
    if user.email.lower() != email or not user.email_verified:
        raise LinkRefused(
            "There is an account with your e-mail address that nobody has verified yet. Set a new "
            "password for it ('forgot password'), which verifies it, and sign in here again."
        )
    await link(db, Kind.CUSTOMER, user, who)
    return user


async def sign_up(db: AsyncSession, who: Person, email: str) -> User:
    if not await system.value(db, SIGN_UP_OPEN):
        raise SignUpClosed("Nobody may sign up by themselves here; ask the company.")
    user = await accounts.add(db, {"email": email, "email_verified": True, "name": who.name})
    actor = Actor(Kind.CUSTOMER, user.id)
    after = accounts.seen(user)
    await audit.record(db, "users.signed_up", "user", user.id, after=after, actor=actor)
    await link(db, Kind.CUSTOMER, user, who)
    return user


async def staff_with(db: AsyncSession, who: Person, email: str) -> AdminUser:
    """Nobody becomes staff by signing in; who was invited has joined by it."""
    known = await queries.by_email(db, Kind.STAFF, email)
    member: AdminUser | None = await sign_in.held(db, Kind.STAFF, known.id) if known else None
    if member is None or member.email.lower() != email:
        raise NoAccount("No staff account has your e-mail address: ask for an invitation.")
    refuse_shut_out(member)
    await link(db, Kind.STAFF, member, who)
    if member.status == StaffStatus.INVITED:
        await join(db, member)
    return member


async def join(db: AsyncSession, member: AdminUser) -> None:
    """As by the link of the invitation, which has done its work."""
    before = staff.seen(member)
    member.status = StaffStatus.ACTIVE
    await db.flush()
    await db.refresh(member)
    await staff.forget_links(db, member)
    after, actor = staff.seen(member), as_themselves(member)
    await audit.record(
        db, "staff.joined", "staff", member.id, before=before, after=after, actor=actor
    )


async def link(db: AsyncSession, kind: Kind, person: Any, who: Person) -> None:
    """Once for each issuer: an address that the provider has given to somebody else since does
    not open the account of whoever had it."""
    column = Identity.user_id if kind is Kind.CUSTOMER else Identity.admin_user_id
    others = select(Identity.subject).where(Identity.issuer == who.issuer, column == person.id)
    if await db.scalar(others.limit(1)):
        raise LinkRefused(
            "Your account is linked with another person of this provider: sign in as that one, or "
            "with your password."
        )
    identity = Identity(kind=kind, issuer=who.issuer, subject=who.subject, email=who.email)
    setattr(identity, column.key, person.id)
    db.add(identity)
    role = StaffRole(person.role) if kind is Kind.STAFF else None
    await audit.record(
        db,
        f"{AREAS[kind]}.identity_linked",
        TARGETS[kind],
        person.id,
        after={"issuer": who.issuer, "subject": who.subject},
        actor=Actor(kind, person.id, role),
    )
