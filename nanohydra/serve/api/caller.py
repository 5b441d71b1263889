"""Who calls an endpoint, and with what it works: what endpoints depend on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from nanohydra.serve.errors import Forbidden, Unauthorized
from nanohydra.serve.services import Services
from nanohydra.store import Principal


def services_of(request: Request) -> Services:
    """The server's parts."""
    services: Services = request.app.state.services
    return services


def caller(scope: str) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the caller, who has `scope`."""

    async def check(request: Request, services: Works) -> Principal:
        client = request.client.host if request.client else None
        user = await asyncio.to_thread(services.auth.principal, request.headers, client)
        if user is None:
            message = "A token is needed: send it as `Authorization: Bearer nh_...`."
            raise Unauthorized(message, code="invalid_api_key")
        request.state.facts["user"] = user.user_id
        if scope not in user.scopes:
            raise Forbidden(f"This token has no right to {scope}.")
        services.rates.take(user.user_id)
        return user

    return check


Works = Annotated[Services, Depends(services_of)]
MayChat = Annotated[Principal, Depends(caller("chat"))]
MayTeach = Annotated[Principal, Depends(caller("teach"))]
MayAdmin = Annotated[Principal, Depends(caller("admin"))]
