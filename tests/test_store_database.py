"""Opening: migrations that agree with the models, bad URLs, processes that are killed, backups."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from store_databases import KINDS, fresh_database, somebody

from nanohydra.errors import UserError
from nanohydra.store import Store
from nanohydra.store.database import _engine, _parse, migrate
from nanohydra.store.models import Base


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


def test_migrations_and_models_agree(url: str) -> None:
    store = Store.open(url)
    options = {"compare_type": True, "compare_server_default": True}
    with store._writer.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        connection.execute(text("ALTER TABLE settings ADD COLUMN extra INTEGER"))
        found = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
        assert "extra" in str(found)
        connection.rollback()
    store.close()


def test_a_migration_is_whole_or_absent(url: str) -> None:
    engine = _engine(_parse(url))
    with engine.execution_options(nanohydra_write=True).connect() as connection:
        connection.begin()
        migrate(connection)
        assert "messages" in inspect(connection).get_table_names()
        connection.rollback()
        assert inspect(connection).get_table_names() == []
    engine.dispose()


def test_opening_again_keeps_everything_and_a_newer_database_is_refused(url: str) -> None:
    store = Store.open(url)
    user = somebody(store)
    store.create_conversation(user, "kept")
    store.close()
    store = Store.open(url)
    assert [c.title for c in store.conversations(user)] == ["kept"]
    with store._writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(UserError, match="newer") as error:
        Store.open(url)
    assert "\n" not in str(error.value)


OPEN_AND_WRITE = """
import sys
from nanohydra.store import Store
store = Store.open(sys.argv[1])
assert "torch" not in sys.modules
admin = store.local_user().user_id
conversation = store.create_conversation(admin, "killed").id
print(conversation, flush=True)
parent = None
for _ in range(int(sys.argv[2])):
    parent = store.add_message(conversation, admin, parent, "user", "x" * 3000).id
    print(parent, flush=True)
"""


def start(url: str, messages: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN_AND_WRITE, url, str(messages)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_may_open_a_new_database_at_once(url: str) -> None:
    processes = [start(url, 5) for _ in range(2)]
    written = [[int(line) for line in p.communicate(timeout=120)[0].split()] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    store = Store.open(url)
    admin = store.local_user().user_id
    for conversation, *messages in written:
        assert [m.id for m in store.path(conversation, admin)] == messages
    store.close()


def test_a_killed_process_leaves_a_database_that_opens_with_all_it_was_told(url: str) -> None:
    process = start(url, 10**6)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(30)]
    process.kill()
    told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    store = Store.open(url)
    admin = store.local_user().user_id
    conversation, *messages = told
    kept = [m.id for m in store.messages(conversation, admin)]
    assert kept[: len(messages)] == messages
    assert len(kept) <= len(messages) + 1  # the one that was under way
    assert [m.id for m in store.path(conversation, admin)] == kept
    assert all(len(m.content) == 3000 for m in store.messages(conversation, admin))
    if url.startswith("sqlite"):
        with store._reading() as session:
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"
    store.add_message(conversation, admin, kept[-1], "assistant", "goes on")
    store.close()


def test_sqlite_is_in_the_home_folder_private_and_in_wal_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path / "new" / "home"))
    store = Store.open()
    files = list((tmp_path / "new" / "home").iterdir())
    assert {f.name for f in files} == {"nanohydra.db", "nanohydra.db-wal", "nanohydra.db-shm"}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    with store._reading() as session:
        settings = [session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys", "busy_timeout")]
    assert settings == ["wal", 1, 30_000]
    store.close()


def test_a_backup_while_the_server_writes_is_whole(tmp_path: Path) -> None:
    """What docs/deploy.md tells: sqlite3's own backup, at any time."""
    store = Store.open(f"sqlite:///{tmp_path / 'a.db'}")
    user = somebody(store)
    conversation = store.create_conversation(user, "kept").id
    first = store.add_message(conversation, user, None, "user", "x").id
    with sqlite3.connect(tmp_path / "a.db") as source, sqlite3.connect(tmp_path / "b.db") as target:
        source.backup(target)
    source.close()
    target.close()
    store.add_message(conversation, user, first, "user", "later")
    store.close()
    copy = Store.open(f"sqlite:///{tmp_path / 'b.db'}")
    assert [m.id for m in copy.path(conversation, user)] == [first]
    copy.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "sqlite:///FILE"),
        ("mysql://localhost/x", "postgresql://"),
        ("sqlite://", "memory"),
        ("sqlite:///:memory:", "memory"),
        ("postgresql://u:verysecret@127.0.0.1:1/x", "Cannot open"),
    ],
)
def test_a_bad_url_is_one_line_without_the_password(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        Store.open(url)
    assert "\n" not in str(error.value)
    assert "verysecret" not in str(error.value)


def test_a_file_that_is_no_database_is_one_line_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader, " * 100)
    with pytest.raises(UserError, match="not a database"):
        Store.open(f"sqlite:///{file}")
    assert file.read_text() == "Dear reader, " * 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Not allowed"):
        Store.open(f"sqlite:///{tmp_path / 'x' / 'a.db'}")
