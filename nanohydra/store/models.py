"""The tables. Rows are handed out as they are: plain objects without a session behind them, to be read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

AUTOINCREMENT = {
    "sqlite_autoincrement": True
}  # an id is never used again: an old link cannot lead to somebody's new row


class CleanText(TypeDecorator[str]):
    """Text that every database can hold: NUL and half surrogates, which PostgreSQL refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Id(TypeDecorator[int]):
    """A row's number. One that no column can hold, as in a made-up address, is the number of nothing, not an error."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return -1 if value is not None and not -(2**31) <= value < 2**31 else value


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its time zone (UTC), also in SQLite, which keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def clean(text: str) -> str:
    """`text` as it comes back from the database."""
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        int: Id,
        str: CleanText,
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class User(Base):
    """Somebody who chats. The user "admin" is always there: the owner of the machine."""

    __tablename__ = "users"
    __table_args__ = AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    quota: Mapped[int | None] = mapped_column(BigInteger)  # tokens a day; None: no limit
    used: Mapped[int] = mapped_column(BigInteger, default=0)  # tokens, on the day `used_on`
    used_on: Mapped[date | None]
    default_adapter: Mapped[str | None]
    created: Mapped[datetime] = mapped_column(default=now)


class Token(Base):
    """A bearer token. Only its SHA-256 is kept; `hint` is its beginning, to tell tokens apart."""

    __tablename__ = "tokens"
    __table_args__ = AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    scopes: Mapped[list[str]]
    created: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime | None]
    last_used: Mapped[datetime | None]  # to ten minutes


class Conversation(Base):
    """A tree of messages. `head` is the message shown last; its ancestors are the conversation as it is read."""

    __tablename__ = "conversations"
    __table_args__ = AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    title: Mapped[str]
    system: Mapped[str]
    settings: Mapped[dict[str, Any]]
    head: Mapped[int | None]  # no foreign key: messages go only with their conversation, and a circle makes dumps hard
    created: Mapped[datetime] = mapped_column(default=now)
    updated: Mapped[datetime] = mapped_column(default=now)


class Message(Base):
    """A turn. Its siblings (same parent) are other branches; `provenance` says which base, adapter and settings wrote it."""

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("conversation_id", "id"),
        Index(None, "conversation_id", "parent_id"),
        # The parent is of the same conversation. No cascade: SQLite's goes no deeper than 1000, and a conversation goes whole.
        ForeignKeyConstraint(["conversation_id", "parent_id"], ["messages.conversation_id", "messages.id"]),
        AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    parent_id: Mapped[int | None]
    role: Mapped[str]
    content: Mapped[str]
    provenance: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=now)


class Adapter(Base):
    """An adapter folder that requests may name. Without an owner it is everybody's."""

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str]
    base: Mapped[str]
    content_id: Mapped[str]
    owner: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created: Mapped[datetime] = mapped_column(default=now)


class Setting(Base):
    """A setting of the whole server."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)
