"""Users, their tokens and quotas."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from nanohydra.errors import UserError, did_you_mean
from nanohydra.store.database import Database, NotFound, one_at_a_time
from nanohydra.store.history import grown
from nanohydra.store.lesson_models import Lesson
from nanohydra.store.models import Adapter, Token, User, clean, now

SCOPES = ("chat", "teach", "admin")
ADMIN = "admin"  # the owner of the machine; the first migration writes the row
LAST_USED = timedelta(minutes=10)  # how exactly a token's last use is known: a write for each request would be waste


@dataclass(frozen=True)
class Principal:
    """Who asks, and what they may do."""

    user_id: int
    name: str
    scopes: frozenset[str]
    default_adapter: str | None
    quota: int | None
    """Tokens a day; None: no limit."""
    token_id: int | None = None
    """The token that was shown; None: the local user."""


class Accounts(Database):
    """Tokens are random (256 bits), so a plain SHA-256 at rest cannot be searched; the digest is looked up, never compared."""

    def create_user(self, name: str, scopes: Iterable[str], quota: int | None = None) -> User:
        """Adds a user; `quota` in tokens a day. UserError where the name is taken or empty, or a scope unknown."""
        name = clean(name.strip())
        if not 0 < len(name) <= 64:
            raise UserError("A user's name has 1 to 64 characters.")
        user = User(name=name, scopes=_scopes(scopes), quota=_quota(quota))
        try:
            with self._writing() as session:
                session.add(user)
        except IntegrityError as e:
            raise UserError(f"There is a user {name!r} already. Choose another name.") from e
        return user

    def update_user(self, user_id: int, *, scopes: Iterable[str], quota: int | None) -> User:
        """Sets what a user may do. A token never has a scope that its user lost."""
        with self._writing() as session:
            user = find_user(session, user_id, lock=True)
            if user.name == ADMIN and set(scopes := list(scopes)) != set(SCOPES):
                raise UserError(f"The user {ADMIN!r} owns this machine and keeps all scopes.")
            user.scopes, user.quota = _scopes(scopes), _quota(quota)
        return user

    def delete_user(self, user_id: int) -> None:
        """Deletes a user with tokens, conversations, lessons, history and adapters (their folders stay on disk)."""
        with self._writing() as session:
            one_at_a_time(session)
            grown(session)
            user = find_user(session, user_id, lock=True)
            if user.name == ADMIN:
                raise UserError(f"The user {ADMIN!r} owns this machine and stays.")
            session.delete(user)

    def users(self) -> list[User]:
        """All users, by name."""
        with self._reading() as session:
            return list(session.scalars(select(User).order_by(User.name)))

    def user(self, user_id: int) -> User:
        """One user. NotFound."""
        with self._reading() as session:
            return find_user(session, user_id)

    def create_token(self, user_id: int, name: str, scopes: Iterable[str], expires: datetime | None = None) -> str:
        """A new token in plain text: it is shown this once. `scopes` must be the user's own; `expires` has a time zone."""
        with self._writing() as session:
            return _create_token(session, find_user(session, user_id, lock=True), name, _scopes(scopes), expires)

    def tokens(self, user_id: int) -> list[Token]:
        """A user's tokens, oldest first."""
        with self._reading() as session:
            return list(session.scalars(select(Token).where(Token.user_id == user_id).order_by(Token.id)))

    def revoke_token(self, token_id: int, user_id: int | None = None) -> None:
        """Ends a token at once; with `user_id` only one of that user's. NotFound."""
        with self._writing() as session:
            token = session.get(Token, token_id)
            if token is None or user_id not in (None, token.user_id):
                raise NotFound(f"There is no token {token_id}.")
            session.delete(token)

    def authenticate(self, token: str) -> Principal | None:
        """Whose token this is; None where it is unknown, expired or revoked."""
        with self._reading() as session:
            query = select(Token, User).join(User, User.id == Token.user_id).where(Token.digest == _digest(token))
            found = session.execute(query).one_or_none()
        if found is None:
            return None
        row, user = found.tuple()
        moment = now()
        if row.expires is not None and row.expires <= moment:
            return None
        if row.last_used is None or moment - row.last_used > LAST_USED:
            with self._writing() as session:
                session.execute(update(Token).where(Token.id == row.id).values(last_used=moment))
        return _principal(user, frozenset(row.scopes) & frozenset(user.scopes), row.id)

    def local_user(self) -> Principal:
        """Who sits at this machine: the admin, who needs no token on loopback."""
        with self._reading() as session:
            return _principal(_admin(session), frozenset(SCOPES), None)

    def ensure_admin(self) -> tuple[User, str | None]:
        """The admin, and a new token in plain text where they have none that works."""
        with self._writing() as session:
            admin = _admin(session, lock=True)
            tokens = session.scalars(select(Token).where(Token.user_id == admin.id))
            if any(ADMIN in t.scopes and (t.expires is None or t.expires > now()) for t in tokens):
                return admin, None
            return admin, _create_token(session, admin, "first token", list(SCOPES), None)

    def set_default_adapter(self, user_id: int, name: str | None) -> None:
        """Sets the adapter of this user's requests that name none (None: the base). NotFound where they cannot see it."""
        with self._writing() as session:
            user = find_user(session, user_id, lock=True)
            known = session.scalars(select(Adapter.name).where(visible(user_id))).all()
            if name is not None and name not in known:
                raise NotFound(f"There is no adapter {name!r}.{did_you_mean(name, known)}")
            user.default_adapter = name

    def use_quota(self, user_id: int, tokens: int) -> int | None:
        """Counts `tokens` (negative: gives back what was reserved and not used); what is left of today, as `quota_left`."""
        today = now().date()
        with self._writing() as session:
            before = case((User.used_on == today, User.used), else_=0)
            used = case((before + tokens > 0, before + tokens), else_=0)
            counted = update(User).where(User.id == user_id).values(used=used, used_on=today)
            session.execute(counted, execution_options={"synchronize_session": False})
            return _left(find_user(session, user_id))

    def quota_left(self, user_id: int) -> int | None:
        """Tokens that are left of today (UTC), never below 0; None: no limit."""
        with self._reading() as session:
            return _left(find_user(session, user_id))


def visible(user_id: int) -> ColumnElement[bool]:
    """Adapters that a user may name: their own, everybody's, and those of lessons that are shared."""
    shared = select(Lesson.adapter).where(Lesson.shared, Lesson.adapter.is_not(None))
    return Adapter.owner.is_(None) | (Adapter.owner == user_id) | Adapter.name.in_(shared)


def find_user(session: Session, user_id: int, lock: bool = False) -> User:
    """A user's row. NotFound."""
    user = session.get(User, user_id, with_for_update=lock)
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return user


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _create_token(session: Session, user: User, name: str, scopes: list[str], expires: datetime | None) -> str:
    if missing := set(scopes) - set(user.scopes):
        raise UserError(
            f"{user.name} has no scope {', '.join(sorted(missing))}: a token cannot have more than its user."
        )
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    plain = "nh_" + secrets.token_urlsafe(32)
    session.add(
        Token(user_id=user.id, name=name, digest=_digest(plain), hint=plain[:8], scopes=scopes, expires=expires)
    )
    return plain


def _admin(session: Session, lock: bool = False) -> User:
    query = select(User).where(User.name == ADMIN)
    return session.scalars(query.with_for_update() if lock else query).one()


def _principal(user: User, scopes: frozenset[str], token_id: int | None) -> Principal:
    return Principal(user.id, user.name, scopes, user.default_adapter, user.quota, token_id)


def _left(user: User) -> int | None:
    if user.quota is None:
        return None
    return max(0, user.quota - (user.used if user.used_on == now().date() else 0))


def _scopes(scopes: Iterable[str]) -> list[str]:
    scopes = set(scopes)
    for scope in sorted(scopes.difference(SCOPES)):
        raise UserError(f"There is no scope {scope!r}.{did_you_mean(scope, SCOPES)}")
    return [s for s in SCOPES if s in scopes]


def _quota(quota: int | None) -> int | None:
    if quota is not None and not 0 <= quota < 2**63:
        raise UserError("A quota is a number of tokens a day, 0 or more, or none.")
    return quota
