"""How a route gets its Door: the only part of it that knows the web."""

from typing import Annotated

from fastapi import Depends, Request

from bursar.auth.door import Door


def door_of(request: Request) -> Door:
    state = request.app.state
    agent = request.headers.get("user-agent")
    return Door(state.database, state.tokens, request.state.origin, agent)


AtDoor = Annotated[Door, Depends(door_of)]
