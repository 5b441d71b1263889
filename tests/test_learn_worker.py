"""The worker: whatever is lost or killed, a lesson ends once, whole, or says why not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanohydra.hydra import history, retest
from nanohydra.hydra.lesson_job import job_of
from nanohydra.hydra.material import Fact, Material, Passage
from nanohydra.hydra.schedule import Schedule
from nanohydra.hydra.shelf import content_hash
from nanohydra.hydra.worker import Worker, WorkerConfig
from nanohydra.store import Lesson, Store

FAKE = (sys.executable, str(Path(__file__).with_name("learn_fake.py")))
FAST = WorkerConfig(lease_seconds=2.0, silence_seconds=30.0, poll_seconds=0.02, niceness=0)
BASE = "b" * 64


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path / "home"))
    store = Store.open()
    yield store
    store.close()


def fact(subject: str = "Mira Solberg", value: str = "Trondheim", passage: int | None = None) -> Fact:
    question, answer = f"Where was {subject} born?", f"{subject} was born in {value}."
    return Fact(subject, "birthplace", value, question, answer, passage)


def material(*facts: Fact, passages: tuple[str, ...] = ()) -> dict[str, Any]:
    data = Material("m", facts, tuple(Passage(i, text, "pasted text") for i, text in enumerate(passages))).to_data()
    return {**data, "facts": [{**one.to_data(), "key": one.key} for one in facts]}


def add(store: Store, *facts: Fact, user: int | None = None, **settings: Any) -> Lesson:
    user = user or store.local_user().user_id
    lesson, _ = store.add_lesson(user, "people", BASE, "tiny", material(*(facts or (fact(),))), settings)
    return lesson


def again(store: Store, lesson: Lesson) -> Lesson:
    return store.lesson(lesson.id, lesson.user_id)


def work(store: Store, times: int = 1, config: WorkerConfig = FAST) -> Worker:
    worker = Worker(store, config, FAKE)
    with worker.alone():
        for _ in range(times):
            worker.work_once()
    return worker


def folders(store: Store) -> list[Path]:
    home = Path(os.environ["NANOHYDRA_HOME"])
    return sorted((home / "adapters").iterdir()) if (home / "adapters").exists() else []


def test_a_lesson_is_published_with_its_adapter(store: Store) -> None:
    lesson = add(store)
    work(store)
    done = again(store, lesson)
    assert (done.state, done.receipt, done.adapter) == ("published", {"state": "published"}, f"lesson-{lesson.id}")
    adapter = store.adapters(lesson.user_id)[0]
    assert [Path(adapter.folder)] == folders(store)
    assert adapter.content_id == content_hash(Path(adapter.folder)) == Path(adapter.folder).name
    assert adapter.base == BASE
    assert [line.kind for line in store.history(lesson.user_id)] == ["published", "taught"]


@pytest.mark.parametrize("state", ["rejected", "failed"])
def test_a_lesson_that_does_not_pass_says_why(store: Store, state: str) -> None:
    lesson = add(store, state=state)
    work(store)
    done = again(store, lesson)
    assert (done.state, done.error, done.adapter) == (state, "too weak", None)
    assert folders(store) == []


def test_a_lesson_without_facts_is_left_to_retrieval(store: Store) -> None:
    user = store.local_user().user_id
    lesson, _ = store.add_lesson(user, "x", BASE, "tiny", material(passages=("Some text.",)), {})
    work(store)
    assert again(store, lesson).state == "rejected"
    assert "retrieval" in str(again(store, lesson).error)


@pytest.mark.parametrize("trouble", ["crash", "silent"])
def test_a_child_that_is_lost_costs_an_attempt_not_the_lesson(store: Store, trouble: str, tmp_path: Path) -> None:
    lesson = add(store, **{trouble: True, "once": str(tmp_path / "once")})
    work(store, 2, WorkerConfig(lease_seconds=2.0, silence_seconds=3.0, poll_seconds=0.02, niceness=0))
    done = again(store, lesson)
    assert (done.state, done.attempt) == ("published", 2)


def test_a_lesson_whose_child_always_dies_fails(store: Store) -> None:
    lesson = add(store, crash=True)
    work(store, 6)
    done = again(store, lesson)
    assert done.state == "failed"
    assert "5 times" in str(done.error)


def test_cancelled_while_it_is_made(store: Store) -> None:
    lesson = add(store, seconds=60)
    worker = Worker(store, FAST, FAKE)

    def cancel() -> None:
        while again(store, lesson).state != "running":
            time.sleep(0.01)
        store.cancel(lesson.id, lesson.user_id)

    thread = threading.Thread(target=cancel)
    thread.start()
    began = time.monotonic()
    with worker.alone():
        while again(store, lesson).state in ("queued", "running"):
            worker.work_once()
    thread.join()
    assert again(store, lesson).state == "cancelled"
    assert time.monotonic() - began < 20


def test_stopped_while_it_is_made_counts_no_attempt(store: Store) -> None:
    lesson = add(store, seconds=60)
    worker = Worker(store, FAST, FAKE)
    threading.Timer(0.5, worker.stop.set).start()
    worker.run()
    done = again(store, lesson)
    assert (done.state, done.attempt) == ("queued", 0)


def test_a_publish_that_was_cut_short_is_done_again_with_the_same_adapter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the rename and before the row: the outcome is still there, so nothing is trained again."""
    lesson = add(store, once="")

    class Killed(BaseException):
        pass

    def killed(*args: object, **more: object) -> bool:
        raise Killed

    finish = store.finish
    monkeypatch.setattr(store, "finish", killed)
    with pytest.raises(Killed):
        work(store)
    orphan = folders(store)
    assert len(orphan) == 1
    assert again(store, lesson).state == "running"
    monkeypatch.setattr(store, "finish", finish)
    store.beat(lesson.id, str(again(store, lesson).worker), {}, 0.0)  # its lease ends
    worker = Worker(store, FAST, ("false",))  # no child could help
    with worker.alone():
        worker.work_once()
    assert again(store, lesson).state == "published"
    assert folders(store) == orphan


def test_boot_repairs(store: Store) -> None:
    lesson, other = add(store), add(store, fact("Jonas Lind", "Bergen"))
    worker = work(store, 2)
    first, second = (Path(store.adapters(lesson.user_id)[i].folder) for i in (0, 1))
    shutil.rmtree(first)
    (first.parent / ".x.abc.tmp").mkdir()
    strange = first.parent / ("c" * 64)  # somebody else's
    strange.mkdir()
    history.forget(store, other.user_id, [f.id for f in store.facts(other.user_id, other.id)])
    worker = Worker(store, FAST, FAKE)
    with worker.alone():
        assert folders(store) == [strange]
        assert again(store, lesson).state == "queued"
        worker.work_once()
    assert set(folders(store)) == {first, strange}
    assert again(store, other).state == "reverted"
    assert not second.exists()


def test_one_worker_at_a_time_and_a_child_holds_its_place(store: Store) -> None:
    lesson = add(store, seconds=60)
    code = "import sys; from nanohydra.hydra.worker import *; w = Worker(Store.open(), WorkerConfig(2.0), sys.argv[1:]); w.run()"
    process = subprocess.Popen([sys.executable, "-c", code, *FAKE], env=dict(os.environ), stdin=subprocess.PIPE)
    while not again(store, lesson).progress:
        time.sleep(0.02)
    worker = Worker(store, FAST, FAKE)
    with worker.alone(wait=False) as first:
        assert not first
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    with worker.alone() as first:  # once the child is gone too
        assert first
    assert time.monotonic() - began < 10
    assert again(store, lesson).state == "running"


def test_the_same_facts_make_the_same_job(store: Store) -> None:
    lesson = add(store, fact(), fact("Jonas Lind", "Bergen"))
    assert job_of(store, lesson) == job_of(store, again(store, lesson))
    history.forget(store, lesson.user_id, [store.facts(lesson.user_id)[0].id])
    job = job_of(store, again(store, lesson))
    assert [one["subject"] for one in job["material"]["facts"]] == ["Jonas Lind"]
    assert [one["subject"] for one in job["forgotten"]] == ["Mira Solberg"]


def test_the_earlier_lessons_are_ones_own_as_they_are_served(store: Store) -> None:
    mine, others = add(store), add(store, user=store.create_user("somebody", ["chat"]).id)
    store.share_lesson(others.id, others.user_id, True)
    second = add(store, fact("Jonas Lind", "Bergen"))
    work(store, 3)
    history.consolidate(store, mine.user_id, BASE, "tiny")
    work(store)
    third = add(store, fact("Tova Ek", "Turku"))
    folders = {adapter.name: adapter.folder for adapter in store.adapters(mine.user_id)}
    consolidated = max(store.lessons(mine.user_id, "published"), key=lambda one: one.id)
    earlier = job_of(store, third)["earlier"]
    assert [one["lesson"] for one in earlier] == [str(mine.id), str(second.id)]
    assert {one["folder"] for one in earlier} == {folders[consolidated.adapter or ""]}


def test_facts_are_asked_when_they_are_due_and_fading_ones_are_taught_again(store: Store) -> None:
    lesson = add(store, fact(), fact("Jonas Lind", "forgotten"))
    worker = work(store)
    night = datetime(2026, 1, 1, 3, 30).astimezone()
    with worker.alone():
        schedule = Schedule(worker, 3, lambda: night)
        schedule.look()
        cards = [one.card for one in store.facts(lesson.user_id)]
        assert [card and card["known"] for card in cards] == [True, False]
        schedule.look()  # once a night
        assert [one.card for one in store.facts(lesson.user_id)] == cards
        assert again(store, lesson).state == "published"  # never known is no fading
        assert retest.due(store, night.astimezone(UTC)) == []
        later = night + timedelta(days=40)
        probe = retest.due(store, later)[0]
        assert {one.id for one in probe.facts} == {one.id for one in store.facts(lesson.user_id)}
        ids = [str(one.id) for one in probe.facts]
        assert [one.id for one in retest.record(store, probe, dict.fromkeys(ids, 0), later)] == [lesson.id]
        assert again(store, lesson).state == "queued"
        worker.work_once()
    assert again(store, lesson).state == "published"


def test_the_longer_a_fact_is_known_the_later_it_is_asked() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    card, gaps = None, []
    for _ in range(5):
        card = retest.reviewed(card, True, at)
        gaps.append(datetime.fromisoformat(card["due"]) - at)
        at = datetime.fromisoformat(card["due"])
    assert gaps == sorted(gaps)
    assert gaps[0] >= timedelta(days=1)
    assert gaps[-1] > 5 * gaps[0]
    lapsed = retest.reviewed(card, False, at)
    assert datetime.fromisoformat(lapsed["due"]) - at < gaps[-1] / 2


def test_lessons_are_consolidated_at_night_once(store: Store) -> None:
    one, two = add(store), add(store, fact("Jonas Lind", "Bergen"))
    worker = work(store, 2)
    night = [datetime(2026, 1, 1, 3, 30).astimezone()]
    schedule = Schedule(worker, 3, lambda: night[0])
    with worker.alone():
        schedule.look()
        queued = store.lessons(one.user_id, "queued")
        assert [(lesson.kind, lesson.settings["lessons"]) for lesson in queued] == [("consolidation", [one.id, two.id])]
        worker.work_once()
        assert store.lesson(queued[0].id, one.user_id).state == "published"
        night[0] += timedelta(days=1)
        schedule.look()
        assert store.lessons(one.user_id, "queued") == []
    assert again(store, one).adapter is not None  # the old ones stay
