"""The settings page: one's own tokens, and for admins the users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.errors import UserError
from nanohydra.serve.web.theme import BUILD_SECONDS, Dialog, button, choice, el, labelled, page, sheet, toast
from nanohydra.serve.web.tokens import last_day, make_token, revoke_token
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of
from nanohydra.store import ADMIN, SCOPES, Token, User
from nanohydra.store.models import now

_EXPIRES = {"": "never", "30": "in 30 days", "90": "in 90 days", "365": "in a year"}
_MEANING = {"chat": "ask and answer", "teach": "teach and undo, load adapters", "admin": "users, tokens, bases"}


@ui.page("/settings", title="Settings · nanohydra", response_timeout=BUILD_SECONDS)
async def settings_page(request: Request) -> Response | None:
    """Tokens and users."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    with page("settings", visitor.principal.name, visitor.principal.token_id is not None), sheet("Settings"):
        await SettingsPage(visitor).build()
    return None


class SettingsPage:
    """One open page."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.store = visitor.web.services.store
        self.owner = visitor.user_id
        """Whose tokens are shown: an admin may look at another's."""

    async def build(self) -> None:
        """Fills the page."""
        self._dialogs()
        with el("section", "card", aria_label="Tokens"):
            with el("div", "row"):
                self.title = el("h3", text="Your tokens")
                button("New token", "plus", lambda: self._guard(self._ask_token), classes="primary")
            el(
                "p",
                "soft",
                "A token opens this server to a program or another browser. It is shown once, when it is made.",
            )
            self.tokens = el("div", "scroll-x")
        await self._show_tokens()
        if self.visitor.may("admin"):
            with el("section", "card", aria_label="Users"):
                with el("div", "row"):
                    el("h3", text="Users")
                    button("New user", "plus", self.new_user.open, classes="primary")
                self.users = el("div", "scroll-x")
            await self._show_users()
        self._quota()

    def _quota(self) -> None:
        quota = self.visitor.principal.quota
        if quota is not None:
            el("p", "soft", f"You may use {quota:,} tokens a day.")

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _dialogs(self) -> None:
        self.new_token = Dialog("New token")
        self.shown_token = Dialog("Your new token")
        self.new_user = Dialog("New user")
        with self.new_user:
            with labelled("Name"):
                self.user_name = _field("text", maxlength=64)
            user_scopes = _scopes(("chat",), SCOPES)
            with labelled("Tokens a day", "Empty: no limit."):
                quota = _field("number", min=0)
            with el("div", "row end"):
                button("Create", classes="primary").on("click", self._create_user, js_handler=_form(self.new_user))
        self._user_fields = (self.user_name, user_scopes, quota)

    async def _ask_token(self) -> None:
        """Fills the dialog anew: what may be chosen is what its owner may."""
        latest = await run_in_threadpool(last_day, self.store, self.visitor.principal, self.owner)
        hint = "" if latest is None else f"No later than your own, on {latest:%Y-%m-%d}."
        self.new_token.body.clear()
        self._expires = ""
        with self.new_token:
            with labelled("What for", "Such as “laptop” or “phone”."):
                _field("text", maxlength=64)
            _scopes(tuple(s for s in self._owner_scopes() if s != "admin"), self._owner_scopes())
            with labelled("Ends", hint):
                choice(_EXPIRES, "", self._set_expiry)
            with el("div", "row end"):
                button("Create", classes="primary").on("click", self._create_token, js_handler=_form(self.new_token))
        self.new_token.open()

    def _set_expiry(self, days: str) -> None:
        self._expires = days

    def _owner_scopes(self) -> Sequence[str]:
        if self.owner == self.visitor.user_id:
            return [s for s in SCOPES if s in self.visitor.principal.scopes]
        return next((user.scopes for user in self._users if user.id == self.owner), [])

    async def _create_token(self, event: Any) -> None:
        name, scopes = str(event.args["name"]).strip() or "token", list(event.args["scopes"])
        expires = now() + timedelta(days=int(self._expires)) if self._expires else None

        async def create() -> None:
            maker = self.visitor.principal
            plain = await run_in_threadpool(make_token, self.store, maker, self.owner, name, scopes, expires)
            self.new_token.close()
            self._show_plain(plain)
            await self._show_tokens()

        await self._guard(create)

    def _show_plain(self, plain: str) -> None:
        self.shown_token.body.clear()
        with self.shown_token:
            el("p", text="Copy it now: it is not kept, and cannot be shown again.")
            el("code", "secret", plain, data_token="")
            with el("div", "row end"):
                button("Copy", "copy", classes="primary", data_copy_text=plain)
        self.shown_token.open()

    async def _show_tokens(self) -> None:
        found = await run_in_threadpool(self.store.tokens, self.owner)
        self.tokens.clear()
        with self.tokens:
            if not found:
                el("p", "soft", "None.")
                return
            with el("table", "table"):
                _heads("Name", "Begins with", "Rights", "Last used", "Ends", "")
                with el("tbody"):
                    for token in found:
                        self._token(token)

    def _token(self, token: Token) -> None:
        with el("tr"):
            el("td", text=token.name)
            with el("td"):
                el("code", "command", f"{token.hint}…")
            el("td", text=", ".join(token.scopes))
            el("td", "soft", token.last_used.strftime("%Y-%m-%d") if token.last_used else "never")
            el("td", "soft", token.expires.strftime("%Y-%m-%d") if token.expires else "never")
            with el("td", "number"):
                button(
                    "Revoke",
                    on_click=lambda: self._revoke(token.id),
                    classes="quiet danger-text",
                    aria_label=f"Revoke {token.name}",
                )

    async def _revoke(self, token_id: int) -> None:
        async def revoke() -> None:
            await run_in_threadpool(revoke_token, self.store, self.visitor.principal, self.owner, token_id)
            toast("Revoked. Who used it is out at once.")
            await self._show_tokens()

        await self._guard(revoke)

    # -- users --------------------------------------------------------------------------------------------------------

    _users: Sequence[User] = ()

    async def _show_users(self) -> None:
        self._users = await run_in_threadpool(self.store.users)
        self.users.clear()
        with self.users, el("table", "table"):
            _heads("Name", "Rights", "Tokens a day", "Since", "")
            with el("tbody"):
                for user in self._users:
                    self._user(user)

    def _user(self, user: User) -> None:
        with el("tr"):
            el("td", text=user.name)
            el("td", text=", ".join(user.scopes))
            el("td", text="no limit" if user.quota is None else f"{user.quota:,}")
            el("td", "soft", user.created.strftime("%Y-%m-%d"))
            with el("td", "number"):
                button("Tokens", on_click=lambda: self._look_at(user), aria_label=f"Tokens of {user.name}")
                if user.name != ADMIN:
                    button(
                        "Remove",
                        on_click=lambda: self._ask_removal(user),
                        classes="quiet danger-text",
                        aria_label=f"Remove {user.name}",
                    )

    async def _look_at(self, user: User) -> None:
        async def look() -> None:
            self.owner = user.id
            self.title.set_text("Your tokens" if user.id == self.visitor.user_id else f"Tokens of {user.name}")
            await self._show_tokens()

        await self._guard(look, admin=True)

    def _ask_removal(self, user: User) -> None:
        with self.users:
            dialog = Dialog(f"Remove {user.name}?")
        with dialog:
            el("p", text="Their tokens, chats and adapters go with them. This cannot be undone.")
            with el("div", "row end"):
                button("Remove", on_click=lambda: self._remove(user), classes="danger")
        dialog.open()

    async def _remove(self, user: User) -> None:
        async def remove() -> None:
            await run_in_threadpool(self.store.delete_user, user.id)
            if self.owner == user.id:
                await self._look_at(next(u for u in self._users if u.id == self.visitor.user_id))
            await self._show_users()

        await self._guard(remove, admin=True)

    async def _create_user(self, event: Any) -> None:
        async def create() -> None:
            name, quota = str(event.args["name"]), str(event.args["number"])
            if quota and not quota.isdecimal():
                raise UserError("Tokens a day are a whole number.")
            limit = int(quota) if quota else None
            user = await run_in_threadpool(self.store.create_user, name, event.args["scopes"], limit)
            self.new_user.close()
            await self._show_users()
            await self._look_at(user)
            toast(f"{user.name} is here. Make a token for them now.")

        await self._guard(create, admin=True)

    async def _guard(self, work: Callable[[], Awaitable[None]], admin: bool = False) -> None:
        """Does what the visitor may (still) do; says what stands in the way."""
        await self.visitor.act(work, "admin" if admin or self.owner != self.visitor.user_id else None)


def _heads(*titles: str) -> None:
    with el("thead"), el("tr"):
        for title in titles:
            el("th", text=title, scope="col" if title else None)


def _field(kind: str, **attributes: Any) -> Any:
    return el("input", type=kind, name=kind, **attributes)


def _scopes(chosen: Sequence[str], offered: Sequence[str]) -> Any:
    with el("div", "field", role="group", aria_label="Rights") as group:
        el("span", text="Rights")
        for scope in offered:
            with el("label", "check"):
                el("input", type="checkbox", name="scope", **{"^value": scope}, checked=scope in chosen)
                el("span", text=f"{scope}: {_MEANING[scope]}")
    return group


def _form(dialog: Dialog) -> str:
    """Reads a dialog's fields in the browser."""
    return (
        f"() => {{ const box = document.getElementById('{dialog.box.html_id}'); "
        "emit({ name: box.querySelector('input[type=text]').value, number: box.querySelector('input[type=number]')?.value ?? '', "
        "scopes: [...box.querySelectorAll('input[name=scope]:checked')].map(e => e.value) }); }"
    )
