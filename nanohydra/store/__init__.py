"""What the server remembers: users, tokens, conversations, adapters, settings. SQLite by default, PostgreSQL by URL."""

from nanohydra.store.accounts import ADMIN, SCOPES, Accounts, Principal
from nanohydra.store.adapters import Shelf
from nanohydra.store.conversations import ROLES, Conversations
from nanohydra.store.database import NotFound
from nanohydra.store.models import Adapter, Conversation, Message, Token, User

__all__ = [
    "ADMIN",
    "ROLES",
    "SCOPES",
    "Adapter",
    "Conversation",
    "Message",
    "NotFound",
    "Principal",
    "Store",
    "Token",
    "User",
]


class Store(Accounts, Conversations, Shelf):
    """`Store.open(url)`: synchronous calls, each one short transaction; call them from a thread pool."""
