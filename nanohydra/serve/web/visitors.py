"""Who looks at a page: the local user on an open loopback server, else whose token the browser's cookie holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nicegui import app as toolkit
from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nanohydra.errors import UserError
from nanohydra.serve.errors import ApiError
from nanohydra.serve.services import Services
from nanohydra.serve.web.answers import NO_RIGHT, Answers
from nanohydra.serve.web.pulls import Pulls
from nanohydra.serve.web.theme import BUILD_SECONDS, bare_page, el, mark, toast
from nanohydra.serve.web.uploads import Uploads
from nanohydra.store import Principal

COOKIE = "nanohydra_token"
"""Holds a bearer token. Scripts cannot read it, other sites cannot send it, and revoking the token ends it at once."""
_DAYS = 30
_NO_RIGHT = {
    "chat": NO_RIGHT,
    "teach": "Your token has no right to teach. Sign in with one that has.",
    "admin": "Only an admin can do that.",
}


class SignIn(Exception):
    """The visitor is not known (any more)."""


@dataclass
class Web:
    """What all pages of one server share."""

    services: Services
    answers: Answers
    pulls: Pulls
    uploads: Uploads


@dataclass
class Visitor:
    """One person looking at one page."""

    web: Web
    principal: Principal
    request: Request
    """The request that brought the page."""

    @property
    def user_id(self) -> int:
        """Whose rows are shown."""
        return self.principal.user_id

    def may(self, scope: str) -> bool:
        """Whether the visitor has a scope."""
        return scope in self.principal.scopes

    async def check(self) -> None:
        """Before anything is changed: the token may have been revoked since the page was opened. Raises SignIn."""
        found = await _principal(self.web.services, self.request)
        if found is None or found.user_id != self.user_id:
            raise SignIn
        self.principal = found

    async def known(self) -> bool:
        """Whether the visitor may still look and change; who may not any more is led to the sign-in."""
        try:
            await self.check()
        except SignIn:
            ui.navigate.to("/login")
            return False
        return True

    async def act(self, work: Callable[[], Awaitable[None]], scope: str | None = None) -> bool:
        """Does what the visitor may (still) do, and says what stands in the way. True where it was done."""
        try:
            if not await self.known():
                return False
            if scope is not None and not self.may(scope):
                raise UserError(_NO_RIGHT[scope])
            await work()
        except (UserError, ApiError) as e:
            toast(str(e))
            return False
        return True

    def refused(self, scope: str) -> bool:
        """Says on the page that a right is missing, where it is."""
        if not self.may(scope):
            el("p", "finding", _NO_RIGHT[scope])
        return not self.may(scope)

    def watch(self, seconds: float, look: Callable[[], Awaitable[None]], scope: str | None = None) -> ui.timer:
        """Calls `look` again and again, each time only if the visitor may still see what it shows."""

        async def look_if_known() -> None:
            if not await self.known():
                timer.cancel()
            elif scope is None or self.may(scope):
                await look()
            else:
                timer.cancel()
                ui.navigate.reload()  # the page says what is missing

        timer = ui.timer(seconds, look_if_known)
        return timer


async def visitor_of(request: Request) -> Visitor | None:
    """Who asks for a page."""
    web: Web = request.scope["nanohydra.web"]
    principal = await _principal(web.services, request)
    return None if principal is None else Visitor(web, principal, request)


async def _principal(services: Services, request: Request) -> Principal | None:
    token = request.cookies.get(COOKIE)
    if token:
        known = await run_in_threadpool(services.auth.token, token)
        if known is not None:
            return known
    client = request.client.host if request.client else None
    return await run_in_threadpool(services.auth.principal, request.headers, client)


def sign_in(request: Request) -> Response:
    """Leads to the sign-in page, and from there back."""
    return RedirectResponse(f"/login?to={request.url.path}", 303)


@ui.page("/login", title="Sign in · nanohydra", response_timeout=BUILD_SECONDS)
def login_page(request: Request, to: str = "/", wrong: bool = False) -> None:
    """Asks for a token. A plain form: it works before any script does."""
    bare_page()
    with el("main", "login"), el("form", "panel", method="post", action="/login"):
        mark()
        el("h1", text="nanohydra")
        el("p", "soft", "Paste the token that you were given. It stays in this browser.")
        field = el("label", "field")
        with field:
            el("span", text="Token")
            el(
                "input",
                type="password",
                name="token",
                autocomplete="current-password",
                required=True,
                autofocus=True,
            )
        if wrong:
            el("p", "error", "This token is unknown, expired or revoked. Ask for a new one.", role="alert")
        el("input", type="hidden", name="to", **{"^value": to})
        el("button", "primary", "Sign in", type="submit")


@toolkit.post("/login", include_in_schema=False)
async def login(request: Request) -> Response:
    """Keeps a good token in the cookie."""
    web: Web = request.scope["nanohydra.web"]
    form = await request.form()
    token, to = str(form.get("token", "")).strip(), str(form.get("to", "/"))
    if not to.startswith("/") or to.startswith(("//", "/\\")):
        to = "/"  # never to another site
    if await run_in_threadpool(web.services.auth.token, token) is None:
        await asyncio.sleep(0.5)  # guessing is slow
        return RedirectResponse(f"/login?wrong=true&to={to}", 303)
    response: Any = RedirectResponse(to, 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age=_DAYS * 86400, httponly=True, samesite="lax", secure=secure)
    return response  # type: ignore[no-any-return]


@toolkit.post("/logout", include_in_schema=False)
async def logout(request: Request) -> Response:
    """Forgets the token in this browser."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response
