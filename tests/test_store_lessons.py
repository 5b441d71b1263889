"""Lessons: what is kept of them, who sees it, what they supersede, and that a request that comes twice makes one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from store_databases import KINDS, a_lesson, fact, fresh_store, material, publish, somebody

from nanohydra.errors import UserError
from nanohydra.store import NotFound, Store
from nanohydra.store.models import clean, now


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fresh_store(request.param, tmp_path_factory.mktemp("lessons")) as store:
        yield store


TEXT = st.text(st.characters(), max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 3) | st.none()), max_size=6), TEXT.filter(bool))
@hypothesis_settings(max_examples=25, deadline=None)
def test_what_is_taught_is_kept_in_order(store: Store, told: list[tuple[str, str, int | None]], text: str) -> None:
    user = somebody(store)
    facts = [fact(subject, value, passage=passage) for subject, value, passage in told]
    lesson, created = store.add_lesson(user, text, "b" * 64, "base", material(facts, [text] * 4), {"seed": 1})
    assert created
    kept = store.facts(user, lesson.id)
    assert [(f.subject, f.value) for f in kept] == [(clean(s), clean(v)) for s, v, _ in told]
    passages = store.passages(user)
    assert [(p.number, p.text, p.source) for p in passages] == [(n, clean(text), "notes.txt") for n in range(4)]
    numbers = {p.id: p.number for p in passages}
    assert [None if f.passage_id is None else numbers[f.passage_id] for f in kept] == [n for _, _, n in told]
    again = store.lesson(lesson.id, user)
    assert (again.name, again.state, again.settings, again.receipt, again.adapter) == (
        clean(text),
        "queued",
        {"seed": 1},
        None,
        None,
    )
    (line,) = store.history(user)
    assert (line.kind, line.lesson_id, line.detail["facts"], line.detail["passages"]) == (
        "taught",
        lesson.id,
        len(told),
        4,
    )
    if told:
        assert {f.id for f in store.facts(user, subject=told[0][0].swapcase())} >= {kept[0].id} or not told[0][
            0
        ].isascii()


def test_a_lesson_is_invisible_to_others_unless_shared(store: Store) -> None:
    ann, bob = somebody(store), somebody(store)
    lesson = a_lesson(store, ann, [fact("Mira", "tea")])
    (mine,), (passage,) = store.facts(ann), store.passages(ann)

    def seen_by_bob() -> list[Any]:
        everything = [
            *store.lessons(bob),
            *store.facts(bob),
            *store.passages(bob),
            *store.history(bob),
            *store.adapters(bob),
        ]
        everything += store.facts(bob, lesson.id) + store.facts(bob, subject="Mira", current=False)
        return everything + store.passages(bob, lesson.id, current=False)

    calls = (
        lambda: store.lesson(lesson.id, bob),
        lambda: store.fact(mine.id, bob),
        lambda: store.passage(passage.id, bob),
    )
    changes = (
        lambda: store.share_lesson(lesson.id, bob, True),
        lambda: store.cancel(lesson.id, bob),
        lambda: store.requeue(lesson.id, bob),
        lambda: store.revert(lesson.id, bob),
        lambda: store.forget_facts([mine.id], bob, ""),
    )
    publish(store, lesson, "mira")
    assert seen_by_bob() == []
    for call in (*calls, *changes):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(NotFound):
        a_lesson(store, bob, [fact("Mira", "milk", supersedes=mine.id)])
    assert seen_by_bob() == []  # that lesson is not there, not even in part
    before = store.version()
    store.share_lesson(lesson.id, ann, True)
    assert store.version() > before
    assert [call().id for call in calls] == [lesson.id, mine.id, passage.id]
    assert [lines.kind for lines in store.history(bob)] == ["shared", "published", "taught"]
    assert [a.name for a in store.adapters(bob)] == ["mira"]
    for change in changes:
        with pytest.raises(NotFound):
            change()
    a_lesson(store, bob, [fact("Mira", "milk", supersedes=mine.id)])  # holds for bob; ann's own fact stays hers
    assert store.fact(mine.id, ann).valid_until is None
    assert [f.value for f in store.facts(ann)] == ["tea"]
    store.share_lesson(lesson.id, ann, False)
    assert [f.value for f in store.facts(bob)] == ["milk"]
    assert store.adapters(bob) == []


def test_a_key_stands_for_one_lesson(store: Store) -> None:
    ann, bob = somebody(store), somebody(store)
    one, created = store.add_lesson(
        ann, "a", "b", "base", material([fact("x", "y")]), {}, "key", body={"text": "x is y"}
    )
    assert created
    # The second time what is told is known already: the request counts, not what was read out of it.
    again, created = store.add_lesson(ann, "a", "b", "base", material([]), {}, "key", body={"text": "x is y"})
    assert (again.id, created) == (one.id, False)
    assert len(store.facts(ann)) == 1
    found = store.lesson_of_key(ann, "key", {"text": "x is y"})
    assert found is not None
    assert found.id == one.id
    with pytest.raises(UserError, match="something else"):
        store.add_lesson(ann, "a", "b", "base", material([]), {}, "key", body={"text": "x is z"})
    with pytest.raises(UserError, match="something else"):
        store.lesson_of_key(ann, "key", {"text": "x is z"})
    assert store.lesson_of_key(bob, "key", {"text": "x is z"}) is None
    other, created = store.add_lesson(bob, "a", "b", "base", material([]), {}, "key", body={"text": "x is z"})
    assert created
    assert other.id != one.id
    for bad in ("", "k" * 300):
        with pytest.raises(UserError, match="255"):
            a_lesson(store, ann, [], key=bad)
    with pytest.raises(UserError, match="consolidation"):
        store.add_lesson(ann, "a", "b", "base", material([]), {}, kind="lecture")


def test_a_request_that_comes_many_times_at_once_makes_one_lesson(store: Store) -> None:
    user = somebody(store)
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda _: store.add_lesson(user, "n", "b", "base", material([fact("x", "y")]), {}, "k"), range(8))
        )
    assert len({lesson.id for lesson, _ in made}) == 1
    assert sum(created for _, created in made) == 1
    assert len(store.facts(user)) == 1


def test_newer_supersedes_with_dates_even_when_two_looked_at_the_same_fact(store: Store) -> None:
    user = somebody(store)
    a_lesson(store, user, [fact("Mira", "tea"), fact("Ole", "rye")])
    tea, rye = store.facts(user)
    a_lesson(store, user, [fact("Mira", "milk", supersedes=tea.id)])
    a_lesson(store, user, [fact("Mira", "mead", supersedes=tea.id)])  # read before the milk was known
    assert [f.value for f in store.facts(user)] == ["rye", "mead"]
    tea, _, milk, mead = store.facts(user, current=False)
    assert (tea.superseded_by, milk.superseded_by, mead.superseded_by) == (milk.id, mead.id, None)
    assert tea.valid_until == milk.valid_from
    assert milk.valid_until == mead.valid_from
    assert (rye.valid_until, mead.valid_until) == (None, None)
    assert store.history(user)[0].detail["superseded"] == [milk.id]


def test_two_thousand_facts_are_quick_and_so_are_two_thousand_that_supersede_them(store: Store) -> None:
    user = somebody(store)
    texts = [f"Passage {n} tells of person {n}." for n in range(2000)]
    for value in ("tea", "milk"):
        old = [f.id for f in store.facts(user)] or [None] * 2000
        facts = [fact(f"Person {n}", value, passage=n, supersedes=old[n]) for n in range(2000)]
        begun = time.process_time()
        lesson = a_lesson(store, user, facts, texts)
        assert time.process_time() - begun < 2
        assert {f.value for f in store.facts(user)} == {value}
    begun = time.process_time()
    store.set_vectors("facts", {f.id: bytes(768) for f in store.facts(user)})
    store.revert(lesson.id, user)
    assert time.process_time() - begun < 2
    assert {f.value for f in store.facts(user)} == {"tea"}
    store.delete_user(user)
    assert store.facts(user, current=False) == []


def test_vectors_are_kept_and_told(store: Store) -> None:
    user = somebody(store)
    a_lesson(store, user, [fact("x", "y"), fact("z", "y")])
    first, second = store.facts(user)
    (passage,) = store.passages(user)
    before = store.version()
    store.set_vectors("facts", {second.id: b"v" * 768, 10**6: b"w" * 768})
    store.set_vectors("passages", {passage.id: b"p" * 768})
    assert store.version() > before
    assert [f.vector for f in store.facts(user)] == [None, b"v" * 768]
    assert store.passage(passage.id, user).vector == b"p" * 768
    with pytest.raises(ValueError, match="768"):
        store.set_vectors("facts", {first.id: b"short"})
    store.set_vectors("facts", {})


def test_cards_say_what_is_due(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [fact("x", "1"), fact("y", "2"), fact("z", "3")])
    x, y, z = (f.id for f in store.facts(user))
    moment = datetime(2031, 5, 1, 12, tzinfo=UTC)
    store.set_card(x, {"due": "2031-05-01T12:00:00+00:00", "stability": 2.5})
    store.set_card(y, {"due": "2031-05-01T11:00:00"})  # UTC
    store.set_card(z, {"due": "2031-05-01T13:59:59+02:00"})
    assert store.due(moment) == []  # nothing of it is published yet
    publish(store, lesson, "due")
    assert [f.id for f in store.due(moment)] == [y, z, x]
    assert [f.id for f in store.due(moment - timedelta(seconds=1))] == [y, z]
    card = store.fact(x, user).card
    assert card is not None
    assert card["stability"] == 2.5
    with pytest.raises(NotFound):
        store.set_card(10**6, {"due": "2031-05-01T12:00:00"})
    store.revert(lesson.id, user)
    assert store.due(moment) == []


def test_history_is_read_in_pages_and_goes_with_its_user_alone(store: Store) -> None:
    user = somebody(store)
    for n in range(5):
        store.note(user, "probed", {"n": n})
    lesson = a_lesson(store, user, [])
    lines = store.history(user)
    assert [line.detail.get("n") for line in lines] == [None, 4, 3, 2, 1, 0]
    assert all(now() - line.at < timedelta(minutes=5) for line in lines)
    paged = store.history(user, limit=2)
    while page := store.history(user, limit=2, before=paged[-1].id):
        paged += page
    assert [line.id for line in paged] == [line.id for line in lines]
    assert not [name for name in dir(store) if "history" in name and name != "history"]
    before = store.version()
    store.delete_user(user)
    assert store.version() > before
    assert store.history(user) == []
    with pytest.raises(NotFound):
        store.lesson(lesson.id, user)
    with pytest.raises(NotFound):
        a_lesson(store, user, [])


def test_lessons_by_state(store: Store) -> None:
    user = somebody(store)
    first, second = a_lesson(store, user, []), a_lesson(store, user, [])
    store.cancel(first.id, user)
    assert [x.id for x in store.lessons(user)] == [second.id, first.id]
    assert [x.id for x in store.lessons(user, "cancelled")] == [first.id]
    with pytest.raises(UserError, match="cancelled"):
        store.lessons(user, "canceled")


def test_a_trial_counts_each_unit_once(store: Store) -> None:
    ann, bob = somebody(store), somebody(store)
    store.register_adapter("v1", "/a", "base", "id-1", ann)
    trial = store.add_trial(ann, "one or none", "v1", None)
    for unit, arm, score in (("c1", "a", 1.0), ("c2", "b", 0.0), ("c1", "a", 0.5)):
        store.vote(trial.id, unit, arm, score)
    assert {(v.unit, v.arm, v.score) for v in store.votes(trial.id, ann)} == {("c1", "a", 0.5), ("c2", "b", 0.0)}
    for bad in (("c3", "c", 1.0), ("", "a", 1.0), ("u" * 300, "a", 1.0), ("c3", "a", float("nan"))):
        with pytest.raises(UserError):
            store.vote(trial.id, *bad)
    with pytest.raises(UserError, match="already"):
        store.add_trial(ann, "one or none", "v1", None)
    with pytest.raises(UserError, match="two adapters"):
        store.add_trial(ann, "same", None, None)
    with pytest.raises(NotFound):
        store.add_trial(bob, "of ann's", "v1", None)
    assert store.trials(bob) == []
    for call in (lambda: store.votes(trial.id, bob), lambda: store.end_trial(trial.id, bob, {})):
        with pytest.raises(NotFound):
            call()
    store.end_trial(trial.id, ann, {"better": "a"})
    assert store.end_trial(trial.id, ann, {"better": "b"}).verdict == {"better": "a"}
    with pytest.raises(UserError, match="ended"):
        store.vote(trial.id, "c3", "a", 1.0)
    assert [t.ended is not None for t in store.trials(ann)] == [True]
    assert [line.kind for line in store.history(ann)] == ["trial ended", "trial"]
    store.delete_user(ann)
    with pytest.raises(NotFound):
        store.vote(trial.id, "c3", "a", 1.0)
