"""The tables of what is taught: lessons, their facts and passages, the history, trials between adapters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from nanohydra.store.models import AUTOINCREMENT, Base, now

STATES = ("queued", "running", "published", "rejected", "failed", "cancelled", "reverted")
KINDS = ("lesson", "consolidation")


class Lesson(Base):
    """What somebody taught, and the job that teaches it: queued, running under a lease, ended.

    It has an adapter exactly while it is published; whatever its state, its current facts and passages can be retrieved."""

    __tablename__ = "lessons"
    __table_args__ = (UniqueConstraint("user_id", "key"), AUTOINCREMENT)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    key: Mapped[str | None]  # the request's Idempotency-Key
    digest: Mapped[str]  # SHA-256 of the request's body: the same key with another body is a mistake
    name: Mapped[str]
    kind: Mapped[str]
    base_id: Mapped[str]
    base_name: Mapped[str]
    state: Mapped[str] = mapped_column(default="queued", index=True)
    settings: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    receipt: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None]
    adapter: Mapped[str | None]  # its name in `adapters`
    shared: Mapped[bool] = mapped_column(default=False, index=True)
    attempt: Mapped[int] = mapped_column(default=0)
    cancel: Mapped[bool] = mapped_column(default=False)  # asked for while running: the worker stops at its next beat
    worker: Mapped[str | None]  # who holds the lease
    lease: Mapped[datetime | None]  # until when
    created: Mapped[datetime] = mapped_column(default=now)
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]


class LessonPassage(Base):
    """A piece of text as it was given, with where it came from."""

    __tablename__ = "lesson_passages"
    __table_args__ = (UniqueConstraint("lesson_id", "number"), AUTOINCREMENT)

    id: Mapped[int] = mapped_column(primary_key=True)
    lesson_id: Mapped[int] = mapped_column(ForeignKey("lessons.id", ondelete="CASCADE"))
    number: Mapped[int]
    text: Mapped[str]
    source: Mapped[str]
    vector: Mapped[bytes | None]  # 384 float16


class LessonFact(Base):
    """A fact, from when until when it held. Without `valid_until` it is current."""

    __tablename__ = "lesson_facts"
    __table_args__ = AUTOINCREMENT

    id: Mapped[int] = mapped_column(primary_key=True)
    lesson_id: Mapped[int] = mapped_column(ForeignKey("lessons.id", ondelete="CASCADE"), index=True)
    passage_id: Mapped[int | None] = mapped_column(ForeignKey("lesson_passages.id", ondelete="SET NULL"), index=True)
    key: Mapped[str]  # two facts with one key and different values contradict each other
    subject: Mapped[str]
    attribute: Mapped[str]
    value: Mapped[str]
    question: Mapped[str]
    answer: Mapped[str]
    valid_from: Mapped[datetime]
    valid_until: Mapped[datetime | None]
    superseded_by: Mapped[int | None] = mapped_column(
        index=True
    )  # a fact; no foreign key: a table's circle makes dumps hard
    forgotten: Mapped[bool] = mapped_column(default=False)
    card: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # spaced repetition's state (fsrs)
    due: Mapped[datetime | None] = mapped_column(index=True)  # when it is to be probed again, from the card
    vector: Mapped[bytes | None]  # 384 float16


class HistoryLine(Base):
    """One thing that happened. Lines are only ever added; they go with their user alone."""

    __tablename__ = "history"
    __table_args__ = (Index(None, "user_id", "id"), AUTOINCREMENT)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str]
    lesson_id: Mapped[int | None] = mapped_column(ForeignKey("lessons.id", ondelete="CASCADE"), index=True)
    detail: Mapped[dict[str, Any]]


class Trial(Base):
    """A comparison of two adapters (None: the base) on what people think of their answers."""

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("user_id", "name"), AUTOINCREMENT)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    a: Mapped[str | None]
    b: Mapped[str | None]
    created: Mapped[datetime] = mapped_column(default=now)
    ended: Mapped[datetime | None]
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Vote(Base):
    """What was thought of one unit (a conversation, an answer), which was always shown the same arm."""

    __tablename__ = "votes"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True)
    unit: Mapped[str] = mapped_column(primary_key=True)
    arm: Mapped[str]
    score: Mapped[float] = mapped_column(Double)
    at: Mapped[datetime] = mapped_column(default=now)
