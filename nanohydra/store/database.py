"""The connection: SQLite in the home folder or a database by URL, brought up to date when it is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from nanohydra.errors import UserError
from nanohydra.files import disk_errors
from nanohydra.home import home

BUSY_SECONDS = 30  # how long a SQLite writer waits for another
LOCK = 0x6E616E6F  # PostgreSQL's advisory lock ("nano"), held while a process migrates, adds a key or changes lessons


class NotFound(UserError):
    """There is no such row, or it is another user's: the caller cannot tell which."""


class Database:
    """Short transactions over one engine. Safe to use from many threads; holds no state between calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(nanohydra_write=True)

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Opens and migrates the database at `url` (default: nanohydra.db in the home folder). UserError where it cannot."""
        parsed = _parse(url or f"sqlite:///{home() / 'nanohydra.db'}")
        database = cls(_engine(parsed))
        try:
            with database._writer.begin() as connection:
                migrate(connection)
        except DBAPIError as e:
            database.close()
            reason = str(e.orig).strip().splitlines()[0]
            raise UserError(
                f"Cannot open the database {parsed}: {reason}. Check the URL and that it is running."
            ) from e
        except CommandError as e:
            database.close()
            raise UserError(
                f"The database {parsed} was written by a newer nanohydra. Upgrade nanohydra, or give another database."
            ) from e
        return database

    def close(self) -> None:
        """Gives back all connections."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session


def migrate(connection: Connection) -> None:
    """Brings the tables up to date inside the transaction that the connection has begun: all of it, or nothing."""
    one_at_a_time(connection)
    config = Config()
    config.set_main_option("script_location", "nanohydra.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def one_at_a_time(transaction: Session | Connection) -> None:
    """Whoever calls this too waits until this transaction ends (SQLite's writers always wait).

    Called first, so that no two transactions wait for each other: what adds a key, and what changes lessons."""
    if isinstance(transaction, Session):
        transaction = transaction.connection()
    if transaction.dialect.name == "postgresql":
        transaction.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_dialect().name not in ("sqlite", "postgresql"):
            raise NoSuchModuleError
    except (ArgumentError, NoSuchModuleError) as e:
        raise UserError(
            f"Not a database URL that works here: {url!r}. Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        ) from e
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError("A database in memory is lost with its process. Give sqlite:///FILE.")
    return parsed


def _engine(url: URL) -> Engine:
    dumps = partial(json.dumps, allow_nan=False)  # PostgreSQL refuses NaN: refuse it everywhere
    if url.get_backend_name() == "postgresql":
        try:
            return create_engine(url, json_serializer=dumps, pool_pre_ping=True)
        except ModuleNotFoundError as e:
            raise UserError("PostgreSQL needs its driver: pip install 'psycopg[binary]'.") from e
    file = Path(str(url.database))
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)  # conversations are private: SQLite gives its log files the same mode
    engine = create_engine(url, json_serializer=dumps, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not at the first write (see _begin_sqlite)
    connection.create_function(
        "lower", 1, lambda s: s and s.lower(), deterministic=True
    )  # SQLite's own knows ASCII only
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another has written in between: no timeout helps.
    write = connection.get_execution_options().get("nanohydra_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
