"""Fresh databases for the tests of the store: SQLite always, PostgreSQL where NANOHYDRA_TEST_POSTGRES gives a URL.

The PostgreSQL user must be allowed to make schemas: every database is a schema of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from nanohydra.store import Store

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
        try:
            yield store
        finally:
            store.close()


def somebody(store: Store, *scopes: str, quota: int | None = None) -> int:
    """The id of a new user with a name of their own."""
    return store.create_user(uuid.uuid4().hex, scopes or ("chat",), quota).id
