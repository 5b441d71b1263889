"""What is remembered: users, conversations, adapters, lessons and their history. SQLite by default, PostgreSQL by URL."""

from nanohydra.store.accounts import ADMIN, SCOPES, Accounts, Principal
from nanohydra.store.adapters import Shelf
from nanohydra.store.conversations import ROLES, Conversations
from nanohydra.store.database import NotFound
from nanohydra.store.history import History
from nanohydra.store.jobs import Jobs
from nanohydra.store.lesson_models import STATES, HistoryLine, Lesson, LessonFact, LessonPassage, Trial, Vote
from nanohydra.store.lessons import Lessons
from nanohydra.store.models import Adapter, Conversation, Message, Token, User
from nanohydra.store.trials import Trials
from nanohydra.store.undoing import Undoing

__all__ = [
    "ADMIN",
    "ROLES",
    "SCOPES",
    "STATES",
    "Adapter",
    "Conversation",
    "HistoryLine",
    "Lesson",
    "LessonFact",
    "LessonPassage",
    "Message",
    "NotFound",
    "Principal",
    "Store",
    "Token",
    "Trial",
    "User",
    "Vote",
]


class Store(Accounts, Conversations, Shelf, Lessons, Jobs, Undoing, Trials, History):
    """`Store.open(url)`: synchronous calls, each one short transaction; call them from a thread pool."""
