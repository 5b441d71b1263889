"""Reverting and forgetting: whatever is taught, published and undone in any order, what holds is what a plain model says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from store_databases import KINDS, a_lesson, fact, fresh_store, publish, somebody

from nanohydra.store import NotFound, Store

SUBJECTS = ("Ann", "Bob")


class Memory(RuleBasedStateMachine):
    """One person teaches who drinks what, and undoes it. The model: for each subject what was told, the newest last."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        for left in self.store.open_lessons():  # of the example before
            self.store.revert(left.id, left.user_id)
        self.user = somebody(self.store)
        self.told: dict[str, list[tuple[int, int]]] = {subject: [] for subject in SUBJECTS}  # (fact, lesson)
        self.forgotten: set[int] = set()
        self.silenced: set[int] = set()
        """Those that were forgotten before their lesson was reverted: they give nothing back."""
        self.reverted: set[int] = set()
        self.lines: list[Any] = []
        self.seen: tuple[int, Any] = (-1, None)

    def standing(self, subject: str) -> list[int]:
        """The fact that holds: the newest that was not reverted, unless that was forgotten."""
        left = [row for row, lesson in self.told[subject] if lesson not in self.reverted or row in self.silenced]
        return left[-1:] if left and left[-1] not in self.forgotten else []

    @rule(subjects=st.sets(st.sampled_from(SUBJECTS), min_size=1), passages=st.booleans())
    def teach(self, subjects: set[str], passages: bool) -> None:
        said = sorted(subjects)
        facts = [fact(s, f"drink {len(self.told[s])}", supersedes=next(iter(self.standing(s)), None)) for s in said]
        lesson = a_lesson(self.store, self.user, facts, ["A passage."] if passages else [])
        for row in self.store.facts(self.user, lesson.id):
            self.told[row.subject].append((row.id, lesson.id))

    @rule()
    def consolidate(self) -> None:
        parts = [lesson.id for lesson in self.store.lessons(self.user, "published") if lesson.kind == "lesson"]
        a_lesson(self.store, self.user, [], [], settings={"lessons": parts}, kind="consolidation")

    @rule(passes=st.booleans(), dies=st.booleans())
    def work(self, passes: bool, dies: bool) -> None:
        if dies:
            self.store.claim("dies", 0)
        lesson = self.store.claim("lives", 60)
        if lesson is not None and passes:
            publish_now = (f"lesson-{lesson.id}", f"/{lesson.id}", "b", "c")
            assert self.store.finish(lesson.id, "lives", "published", {}, adapter=publish_now)

    @precondition(lambda self: any(self.told.values()))
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        lesson = data.draw(st.sampled_from(sorted({lesson for told in self.told.values() for _, lesson in told})))
        assert self.store.revert(lesson, self.user).state == "reverted"
        self.reverted.add(lesson)

    @precondition(lambda self: any(self.told.values()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        rows = data.draw(
            st.sets(st.sampled_from(sorted(row for told in self.told.values() for row, _ in told)), min_size=1)
        )
        lessons = self.store.forget_facts(rows, self.user, "it was a secret")
        assert {lesson.id for lesson in lessons} == {n for told in self.told.values() for row, n in told if row in rows}
        self.forgotten |= rows
        holders = {row: lesson for told in self.told.values() for row, lesson in told}
        self.silenced |= {row for row in rows if holders[row] not in self.reverted}
        assert all(lesson.adapter is None for lesson in lessons)
        self.reverted |= {lesson.id for lesson in lessons if lesson.state == "reverted"}

    @rule(data=st.data())
    def cancel_or_requeue(self, data: st.DataObject) -> None:
        lessons = [
            x for x in self.store.lessons(self.user) if x.kind == "lesson" and x.state not in ("published", "reverted")
        ]
        if lessons:
            lesson = data.draw(st.sampled_from(lessons))
            change = self.store.cancel if lesson.state in ("queued", "running") else self.store.requeue
            change(lesson.id, self.user)

    @invariant()
    def what_holds_is_what_the_model_says(self) -> None:
        everything = self.store.facts(self.user, current=False)
        held = {row for told in map(self.standing, SUBJECTS) for row in told}
        assert {row.id for row in self.store.facts(self.user)} == held
        assert {row.id for row in everything if row.forgotten} == self.forgotten
        assert len(everything) == sum(map(len, self.told.values()))
        for row in everything:
            assert row.valid_until is None or row.valid_from <= row.valid_until
            assert row.valid_until is not None or (row.superseded_by is None and not row.forgotten)

    @invariant()
    def a_lesson_has_an_adapter_exactly_while_it_is_published(self) -> None:
        lessons = self.store.lessons(self.user)
        assert all((lesson.adapter is not None) == (lesson.state == "published") for lesson in lessons)
        assert {a.name for a in self.store.adapters(self.user)} == {x.adapter for x in lessons if x.adapter is not None}
        for lesson in lessons:
            if lesson.kind == "consolidation" and lesson.state in ("published", "running", "queued"):
                assert not self.reverted & set(lesson.settings["lessons"])

    @invariant()
    def history_only_grows_and_every_change_is_counted(self) -> None:
        lines = [(x.id, x.at, x.kind, x.lesson_id, x.detail) for x in self.store.history(self.user, limit=10**4)][::-1]
        assert lines[: len(self.lines)] == self.lines
        self.lines = lines
        facts = [(row.id, row.valid_until) for row in self.store.facts(self.user)]
        shown = (
            facts,
            [row.id for row in self.store.passages(self.user)],
            [a.name for a in self.store.adapters(self.user)],
        )
        version = self.store.version()
        assert version > self.seen[0] if shown != self.seen[1] else version >= self.seen[0]
        self.seen = (version, shown)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with fresh_store(request.param, tmp_path) as store:
        yield store


def test_any_order_of_teaching_and_undoing(store: Store) -> None:
    machine = type("MemoryOfThisStore", (Memory,), {"store": store})
    settings = hypothesis_settings(max_examples=12, stateful_step_count=25, deadline=None, phases=[Phase.generate])
    run_state_machine_as_test(machine, settings=settings)


def test_reverting_gives_back_what_was_replaced_with_its_dates(store: Store) -> None:
    user = somebody(store)
    a_lesson(store, user, [fact("Mira", "tea")])
    (tea,) = store.facts(user)
    newer = a_lesson(store, user, [fact("Mira", "milk", supersedes=tea.id)])
    publish(store, newer, "milk")
    store.set_default_adapter(user, "milk")
    (milk,) = store.facts(user)
    newest = a_lesson(store, user, [fact("Mira", "mead", supersedes=milk.id)])
    (mead,) = store.facts(user)
    store.revert(newer.id, user)  # between the two
    assert [f.value for f in store.facts(user)] == ["mead"]
    assert store.adapters(user) == []
    assert store.user(user).default_adapter is None
    tea = store.fact(tea.id, user)
    assert (tea.superseded_by, tea.valid_until) == (mead.id, mead.valid_from)
    assert store.history(user)[0].detail["folder"] == "/adapters/milk"
    assert [f.value for f in store.facts(user, newer.id, current=False)] == ["milk"]  # can be looked at
    assert store.passages(user, newer.id) == []
    assert len(store.passages(user, newer.id, current=False)) == 1
    store.revert(newest.id, user)
    assert [(f.value, f.superseded_by) for f in store.facts(user)] == [("tea", None)]
    lines = len(store.history(user))
    store.revert(newest.id, user)
    assert len(store.history(user)) == lines


def test_what_is_forgotten_is_gone_from_passages_and_adapters_at_once(store: Store) -> None:
    user, other = somebody(store), somebody(store)
    lesson = a_lesson(store, user, [fact("Mira", "tea", 0), fact("Ole", "rye", 1)], ["Mira: tea.", "Ole: rye."])
    neighbour = a_lesson(store, user, [fact("Eva", "milk")])
    publish(store, lesson, "both")
    publish(store, neighbour, "eva")
    whole = a_lesson(store, user, [], [], settings={"lessons": [lesson.id, neighbour.id]}, kind="consolidation")
    publish(store, whole, "whole")
    mira, _, _ = store.facts(user)
    first, second, others = store.passages(user)
    store.set_vectors("passages", {first.id: b"v" * 768, second.id: b"v" * 768})
    with pytest.raises(NotFound):
        store.forget_facts([mira.id], user, "", {others.id: ""})  # another lesson's
    with pytest.raises(NotFound):
        store.forget_facts([mira.id, 10**6], user, "")
    assert {a.name for a in store.adapters(user)} == {"both", "eva", "whole"}  # nothing of these was done
    (changed,) = store.forget_facts([mira.id, mira.id], user, "asked to", {first.id: ""})
    assert (changed.id, changed.state, changed.receipt) == (lesson.id, "queued", None)
    assert [f.value for f in store.facts(user)] == ["rye", "milk"]
    assert [p.text for p in store.passages(user)] == ["Ole: rye.", "A passage."]
    assert store.passage(first.id, user).vector is None
    assert store.passage(second.id, user).vector is not None
    assert [a.name for a in store.adapters(user)] == ["eva"]
    assert store.lesson(whole.id, user).state == "reverted"  # it knew the fact, too
    forgot = next(line for line in store.history(user) if line.kind == "forgot")
    assert (forgot.lesson_id, forgot.detail["facts"], forgot.detail["reason"]) == (lesson.id, [mira.id], "asked to")
    assert "tea" not in "".join(str(line.detail) for line in store.history(user))
    assert store.history(other) == []


def test_a_lesson_that_is_being_taught_a_forgotten_fact_begins_anew(store: Store) -> None:
    user = somebody(store)
    lesson = a_lesson(store, user, [fact("Mira", "tea"), fact("Ole", "rye")])
    assert store.claim("w", 60) is not None
    mira, _ = store.facts(user)
    store.forget_facts([mira.id], user, "")
    assert not store.beat(lesson.id, "w", {}, 60)
    assert not store.finish(lesson.id, "w", "published", {}, adapter=("knows", "/knows", "b", "c"))
    again = store.claim("v", 60)
    assert again is not None
    assert (again.id, again.attempt) == (lesson.id, 1)
    assert [f.value for f in store.facts(user, lesson.id)] == ["rye"]
