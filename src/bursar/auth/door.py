"""The door: what sign-in works with, on a login role that reads secrets and no business."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.actor import Actor, Origin
from bursar.auth.tokens import Tokens
from bursar.core.database import Claim, Database, Role
from bursar.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Door:
    """Handed to the verbs of sign-in. They open short transactions of their own: a password is
    checked between two of them, and a failure is counted although the answer is an error."""

    database: Database
    tokens: Tokens
    origin: Origin
    user_agent: str | None = None

    @property
    def settings(self) -> Settings:
        return self.database.settings

    @property
    def actor(self) -> Actor:
        return self.origin.actor

    @property
    def claim(self) -> Claim:
        return Claim(Role.DOOR, self.actor.claim.subject)

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self.database.transaction(self.claim, origin=self.origin)
