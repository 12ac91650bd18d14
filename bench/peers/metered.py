"""The usual check of an API key: one ORM query, one ORM insert, on FastAPI and uvicorn.

    python -m bench.peers.metered PORT      # DATABASE_URL in the environment

As tutorials write it; no access log, as many connections as Bursar, in a table of its own.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    pool_size=8,
    max_overflow=0,
)
make_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    """What the models stand on."""


class User(Base):
    """The owner."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    tier: Mapped[str]


class ApiKey(Base):
    """The key."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    key_hash: Mapped[bytes]
    status: Mapped[str]
    user: Mapped[User] = relationship()


class Usage(Base):
    """The row of each call."""

    __tablename__ = "peer_usage"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    endpoint: Mapped[str]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    timestamp: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class Shown(BaseModel):
    """What is asked."""

    key: str
    endpoint: str
    ip_address: str | None = None
    user_agent: str | None = None


async def get_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


@app.post("/verify")
async def verify(
    shown: Shown,
    session: Annotated[AsyncSession, Depends(get_session)],
    bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> dict[str, Any]:
    digest = hashlib.sha256(shown.key.encode()).digest()
    query = select(ApiKey).where(ApiKey.key_hash == digest).options(joinedload(ApiKey.user))
    key = await session.scalar(query)
    if key is None or key.status != "active" or key.user.status != "active":
        raise HTTPException(401)
    session.add(
        Usage(
            user_id=key.user_id,
            api_key_id=key.id,
            endpoint=shown.endpoint,
            ip_address=shown.ip_address,
            user_agent=shown.user_agent,
        )
    )
    await session.commit()
    return {"valid": True, "user_id": key.user_id, "tier": key.user.tier}


@app.get("/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


async def make_table() -> None:
    columns = """
      id bigint generated always as identity primary key, user_id uuid not null references users,
      api_key_id uuid not null references api_keys, endpoint text not null, ip_address text,
      user_agent text, timestamp timestamptz not null default now()
    """
    async with engine.begin() as connection:
        await connection.execute(text(f"create table peer_usage ({columns})"))
        await connection.execute(text("create index on peer_usage (timestamp)"))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_table())
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
