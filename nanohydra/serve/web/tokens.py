"""What a token may do to its user's tokens: make such as can do no more and last no longer, end such as can do no more. One
that was lent or lost gives nobody more than it holds. An admin's makes other users' tokens without limits, and ends any."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nanohydra.errors import UserError
from nanohydra.store import Principal, Store


def last_day(store: Store, maker: Principal, owner: int) -> datetime | None:
    """When a new token of `owner` has to end at the latest; None: never. UserError where the maker's was just revoked."""
    if owner != maker.user_id or maker.token_id is None:
        return None
    for token in store.tokens(owner):
        if token.id == maker.token_id:
            return token.expires
    raise UserError("Your token is not there any more. Sign in again.")


def make_token(
    store: Store, maker: Principal, owner: int, name: str, scopes: Sequence[str], expires: datetime | None
) -> str:
    """A new token of `owner` in plain text, cut to what is left of the maker's own time. UserError where it would have more
    rights, or none."""
    if not scopes:
        raise UserError("Give the token at least one right.")
    if owner == maker.user_id and not maker.scopes.issuperset(scopes):
        raise UserError("A token cannot have more rights than you.")
    ends = [moment for moment in (expires, last_day(store, maker, owner)) if moment is not None]
    return store.create_token(owner, name, scopes, min(ends, default=None))


def revoke_token(store: Store, maker: Principal, owner: int, token_id: int) -> None:
    """Ends a token of `owner`. UserError where it has more rights than the one who asks."""
    if "admin" not in maker.scopes:
        rights = {s for token in store.tokens(owner) if token.id == token_id for s in token.scopes}
        if not maker.scopes.issuperset(rights.intersection(store.user(owner).scopes)):
            raise UserError("This token has more rights than you. Sign in with one that has them.")
    store.revoke_token(token_id, owner)
