"""The usual handler: FastAPI, an ORM session as a dependency, PyJWT for each request, uvicorn.

    python -m bench.peers.usual PORT      # DATABASE_URL and SECRET in the environment

As tutorials write it, with two favours: no access log, and as many pooled connections as Bursar.
"""

import os
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bursar.system.catalogue import CATALOGUE

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    pool_size=8,
    max_overflow=0,
)
make_session = async_sessionmaker(engine, expire_on_commit=False)
oauth2 = OAuth2PasswordBearer(tokenUrl="token")
app = FastAPI()


class Base(DeclarativeBase):
    """What the models stand on."""


class Setting(Base):
    """The row."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSONB)
    version: Mapped[int]
    updated_at: Mapped[datetime]
    updated_by: Mapped[UUID | None]


class SettingOut(BaseModel):
    """The answer."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    key: str
    value: Any
    default: Any
    description: str
    value_schema: dict[str, Any]
    version: int
    updated_at: datetime
    updated_by: UUID | None


async def get_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


async def get_current_user(token: Annotated[str, Depends(oauth2)]) -> str:
    try:
        claims = jwt.decode(token, os.environ["SECRET"], algorithms=["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401, "Could not validate credentials") from None
    return str(claims["sub"])


@app.get("/settings/{key}", response_model=SettingOut)
async def read_setting(
    key: str,
    session: Annotated[AsyncSession, Depends(get_session)],
    user: Annotated[str, Depends(get_current_user)],
) -> SettingOut:
    row = await session.get(Setting, key)
    if row is None:
        raise HTTPException(404)
    declared = CATALOGUE[key]
    return SettingOut(
        key=row.key,
        value=row.value,
        default=declared.default,
        description=declared.description,
        value_schema=declared.schema,
        version=row.version,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )


@app.get("/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
