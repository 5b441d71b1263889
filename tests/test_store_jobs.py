"""The queue of lessons: one worker a lesson, leases, ends that are whole; with real processes, and with kill -9."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import text
from store_databases import KINDS, a_lesson, fact, fresh_database, publish, somebody

from nanohydra.errors import UserError
from nanohydra.store import NotFound, Store
from nanohydra.store.models import now


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


PROCESSES = multiprocessing.get_context("fork")  # processes of their own, without seconds of imports


def work(url: str, name: str, start: Barrier | None, lease: float, pause: float) -> None:
    """Claims and publishes, lesson after lesson, until there is none."""
    store = Store.open(url)
    if start is not None:
        start.wait()
    while (lesson := store.claim(name, lease, max_attempts=10**6)) is not None:
        time.sleep(pause)
        store.beat(lesson.id, name, {"stage": "train"}, lease)
        adapter = (f"lesson-{lesson.id}", f"/adapters/{lesson.id}", lesson.base_id, "c")
        store.finish(lesson.id, name, "published", {"worker": name}, adapter=adapter)


def worker(url: str, name: str, start: Barrier | None, lease: float = 60, pause: float = 0) -> BaseProcess:
    process = PROCESSES.Process(target=work, args=(url, name, start, lease, pause))
    process.start()
    return process


def assert_whole(store: Store, user: int, lessons: list[int]) -> None:
    """Every lesson was published once: one state, one adapter, one line of the history."""
    published = store.lessons(user, "published")
    assert sorted(lesson.id for lesson in published) == lessons
    assert {lesson.adapter for lesson in published} == {f"lesson-{n}" for n in lessons}
    assert {a.name for a in store.adapters(user)} == {f"lesson-{n}" for n in lessons}
    lines = Counter((line.kind, line.lesson_id) for line in store.history(user, limit=10**4))
    assert lines == Counter([(kind, n) for kind in ("taught", "published") for n in lessons])


def test_workers_never_get_the_same_lesson(url: str, store: Store) -> None:
    user = somebody(store)
    lessons = [a_lesson(store, user, []).id for _ in range(16)]
    start = PROCESSES.Barrier(4)
    workers = [worker(url, f"w{n}", start, pause=0.005) for n in range(4)]
    for process in workers:
        process.join(timeout=120)
    assert [p.exitcode for p in workers] == [0] * 4
    assert_whole(store, user, lessons)
    assert {lesson.attempt for lesson in store.lessons(user)} == {1}  # nobody claimed what another had
    assert len({lesson.receipt["worker"] for lesson in store.lessons(user) if lesson.receipt}) > 1


def test_killed_workers_lose_nothing_and_publish_nothing_twice(url: str, store: Store) -> None:
    user, chance = somebody(store), random.Random(1)
    lessons = [a_lesson(store, user, []).id for _ in range(40)]
    for n in range(8):
        process = worker(url, f"w{n}", None, lease=0.05, pause=0.002)
        time.sleep(chance.uniform(0.05, 0.2))
        process.kill()
        process.join()
    time.sleep(0.1)  # the last lease ends
    process = worker(url, "last", None)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert_whole(store, user, lessons)


def test_the_oldest_first_and_each_once(store: Store) -> None:
    user = somebody(store)
    assert store.claim("w", 60) is None
    first, second = a_lesson(store, user, []), a_lesson(store, user, [])
    one, two = store.claim("v", 60), store.claim("w", 60)
    assert one is not None
    assert two is not None
    assert (one.id, one.state, one.attempt, one.worker) == (first.id, "running", 1, "v")
    assert two.id == second.id
    assert store.claim("w", 60) is None
    assert [lesson.id for lesson in store.open_lessons()] == [first.id, second.id]
    assert store.beat(first.id, "v", {"step": 3}, 60)
    assert store.lesson(first.id, user).progress == {"step": 3}
    assert store.finish(first.id, "v", "rejected", {"recall": 0.5}, error="recall is below 0.9")
    ended = store.lesson(first.id, user)
    assert (ended.state, ended.receipt, ended.error) == ("rejected", {"recall": 0.5}, "recall is below 0.9")
    assert ended.finished is not None
    assert now() - ended.finished < timedelta(minutes=5)
    assert store.history(user)[0].detail["error"] == "recall is below 0.9"
    assert not store.finish(first.id, "v", "failed")  # once is enough
    assert store.lesson(first.id, user).state == "rejected"


def test_a_lease_that_ended_is_claimed_again_and_the_late_one_writes_nothing(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [])
    assert store.claim("slow", 0) is not None
    assert store.beat(lesson.id, "slow", {}, 0)  # late, but nobody has taken it
    again = store.claim("fast", 60)
    assert again is not None
    assert (again.id, again.attempt) == (lesson.id, 2)
    before = (store.version(), len(store.history(user)))
    assert not store.beat(lesson.id, "slow", {"step": 9}, 60)
    assert not store.finish(lesson.id, "slow", "published", {}, adapter=("late", "/late", "b", "c"))
    assert not store.release(lesson.id, "slow")
    assert (store.version(), len(store.history(user))) == before
    assert store.adapters(user) == []
    assert store.lesson(lesson.id, user).progress == {}
    assert store.finish(lesson.id, "fast", "published", {}, adapter=("right", "/right", "b", "c"))
    assert [(p.id, p.adapter, p.adapter_folder) for p in store.published_lessons()] == [(lesson.id, "right", "/right")]
    assert store.adapter_folders() == {"/right"}
    assert not store.beat(lesson.id, "fast", {}, 60)


def test_a_lesson_that_kills_its_workers_fails_in_the_end(store: Store) -> None:
    user = somebody(store)
    poison, good = a_lesson(store, user, [fact("x", "y")]), a_lesson(store, user, [])
    for attempt in (1, 2, 3):
        claimed = store.claim(f"w{attempt}", 0, max_attempts=3)
        assert claimed is not None
        assert (claimed.id, claimed.attempt) == (poison.id, attempt)
    following = store.claim("w4", 60, max_attempts=3)
    assert following is not None
    assert following.id == good.id
    failed = store.lesson(poison.id, user)
    assert failed.state == "failed"
    assert "3 times" in str(failed.error)
    assert store.history(user)[0].kind == "failed"
    assert len(store.facts(user)) == 1  # what it holds can be retrieved
    assert store.requeue(poison.id, user).attempt == 0
    assert store.claim("w5", 60) is not None


def test_an_orderly_stop_counts_as_no_attempt(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [])
    for n in range(7):
        claimed = store.claim(f"w{n}", 60, max_attempts=2)
        assert claimed is not None
        assert claimed.attempt == 1
        assert store.release(lesson.id, f"w{n}")
    assert store.lesson(lesson.id, user).state == "queued"


def test_cancelling(store: Store) -> None:
    user = somebody(store)
    running, queued = a_lesson(store, user, []), a_lesson(store, user, [])
    assert store.claim("w", 60) is not None
    assert store.cancel(queued.id, user).state == "cancelled"
    assert store.cancel(queued.id, user).state == "cancelled"
    store.cancel(running.id, user)
    assert not store.beat(running.id, "w", {}, 60)
    assert not store.finish(running.id, "w", "published", {}, adapter=("late", "/late", "b", "c"))
    assert store.lesson(running.id, user).state == "cancelled"
    assert store.adapters(user) == []
    assert [line.kind for line in store.history(user)][:2] == ["cancelled", "cancelled"]
    assert store.claim("w", 60) is None
    lost = a_lesson(store, user, [])
    assert store.claim("killed", 0) is not None
    store.cancel(lost.id, user)
    assert store.claim("w", 60) is None
    assert store.lesson(lost.id, user).state == "cancelled"
    done = a_lesson(store, user, [])
    publish(store, done, "done")
    with pytest.raises(UserError, match="nothing to stop"):
        store.cancel(done.id, user)


def test_teaching_again_takes_the_adapter_away_and_keeps_what_was_measured(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [])
    with pytest.raises(UserError, match="queued"):
        store.requeue(lesson.id, user)
    publish(store, lesson, "mine")
    store.set_default_adapter(user, "mine")
    before = store.version()
    again = store.requeue(lesson.id, user, {"seed": 2})
    assert (again.state, again.adapter, again.receipt, again.settings) == ("queued", None, None, {"seed": 2})
    assert store.version() > before
    assert store.adapters(user) == []
    assert store.user(user).default_adapter is None
    assert store.history(user)[0].detail["receipt"] == {"state": "published", "measures": {"recall": 0.9}}
    publish(store, lesson, "mine")
    assert store.lesson(lesson.id, user).adapter == "mine"


def test_a_lessons_adapter_is_the_lessons(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [])
    publish(store, lesson, "mine")
    for change in (
        lambda: store.remove_adapter("mine"),
        lambda: store.register_adapter("mine", "/other", "b", "c", user),
    ):
        with pytest.raises(UserError, match="Revert the lesson"):
            change()
    store.register_adapter("taken", "/other", "b", "c", user)
    other = a_lesson(store, user, [])
    assert store.claim("w", 60) is not None
    with pytest.raises(UserError, match="already"):
        store.finish(other.id, "w", "published", {}, adapter=("taken", "/new", "b", "c"))
    assert store.lesson(other.id, user).state == "running"  # nothing of it was written
    assert {a.name: a.folder for a in store.adapters(user)} == {"mine": "/adapters/mine", "taken": "/other"}
    for state, adapter in (("published", None), ("rejected", ("x", "/x", "b", "c")), ("reverted", None)):
        with pytest.raises(ValueError, match="end as"):
            store.finish(other.id, "w", state, {}, adapter=adapter)


def test_a_user_who_goes_takes_running_lessons_along(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [fact("x", "y", passage=0)])
    assert store.claim("w", 60) is not None
    store.delete_user(user)
    assert not store.beat(lesson.id, "w", {}, 60)
    assert not store.finish(lesson.id, "w", "published", {}, adapter=("late", "/late", "b", "c"))
    with pytest.raises(NotFound):
        store.lesson(lesson.id, user)
    with store._reading() as session:
        for table in ("lessons", "lesson_facts", "lesson_passages", "history", "adapters"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
