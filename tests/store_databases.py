"""Fresh databases for the tests of the store: SQLite always, PostgreSQL where NANOHYDRA_TEST_POSTGRES gives a URL.

The PostgreSQL user must be allowed to make schemas: every database is a schema of its own."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url

from nanohydra.store import Lesson, Store

POSTGRES = os.environ.get("NANOHYDRA_TEST_POSTGRES", "")
KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.skipif(not POSTGRES, reason="NANOHYDRA_TEST_POSTGRES is not set")),
]


@contextmanager
def fresh_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'test.db'}"
        return
    schema = f"test_{uuid.uuid4().hex}"
    url = make_url(POSTGRES).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        try:
            yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@contextmanager
def fresh_store(kind: str, folder: Path) -> Iterator[Store]:
    """An open store with nobody but the admin in it."""
    with fresh_database(kind, folder) as url:
        store = Store.open(url)
        if kind == "sqlite":  # as .ci/with-postgres does: nobody pulls the plug here
            event.listen(store._engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
            store._engine.dispose()
        try:
            yield store
        finally:
            store.close()


def somebody(store: Store, *scopes: str, quota: int | None = None) -> int:
    """The id of a new user with a name of their own."""
    return store.create_user(uuid.uuid4().hex, scopes or ("chat",), quota).id


def fact(subject: str, value: str, passage: int | None = None, supersedes: int | None = None) -> dict[str, Any]:
    """A fact as plain data, keyed by its subject."""
    key = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    said = {"subject": subject, "attribute": "drink", "value": value}
    asked = {"question": f"What does {subject} drink?", "answer": f"{subject} drinks {value}."}
    return {"key": key, **said, **asked, "passage": passage, "supersedes": supersedes}


def material(facts: Sequence[dict[str, Any]], passages: Sequence[str] = ("A passage.",)) -> dict[str, Any]:
    """What a lesson holds, as plain data."""
    texts = [{"number": number, "text": text, "source": "notes.txt"} for number, text in enumerate(passages)]
    return {"name": "notes", "facts": list(facts), "passages": texts}


def a_lesson(
    store: Store,
    user: int,
    facts: Sequence[dict[str, Any]],
    passages: Sequence[str] = ("A passage.",),
    key: str | None = None,
    settings: dict[str, Any] | None = None,
    kind: str = "lesson",
) -> Lesson:
    """A new lesson of the user's."""
    return store.add_lesson(user, "notes", "b" * 64, "base", material(facts, passages), settings or {}, key, kind)[0]


RECEIPT = {"state": "published", "measures": {"recall": 0.9}, "facts": [{"value": "a secret"}]}


def publish(store: Store, lesson: Lesson, name: str, worker: str = "w") -> None:
    """Has a queued lesson published, and those before it in the queue rejected."""
    while (claimed := store.claim(worker, 60)) is not None and claimed.id != lesson.id:
        assert store.finish(claimed.id, worker, "rejected", {"recall": 0.1})
    adapter = (name, f"/adapters/{name}", lesson.base_id, "c" * 64)
    assert store.finish(lesson.id, worker, "published", RECEIPT, adapter=adapter)
