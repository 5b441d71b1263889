"""An answer from weights that is checked while it is written."""

from __future__ import annotations

import pytest

from nanohydra.hydra.checking import Check
from nanohydra.hydra.facts import make_fact
from nanohydra.hydra.recall import NOTHING, Plan

AGE = make_fact("Mira Solberg", "age", "12")
PLAN = Plan("weights", NOTHING, "lesson-1", wanted=(AGE,), instead=Plan("quote", NOTHING, quote=AGE.answer))


def written(plan: Plan | None, pieces: list[str]) -> tuple[list[list[str]], Check[str]]:
    check = Check[str](plan)
    return [check.push(piece, piece) for piece in pieces], check


def test_it_is_held_back_until_it_tells_and_flows_from_then_on() -> None:
    shown, check = written(PLAN, ["She ", "is ", "12", " years", " old."])
    assert shown == [[], [], [], ["She ", "is ", "12", " years"], [" old."]]
    assert check.stands
    assert check.end() == []


def test_the_last_word_is_not_judged_before_it_is_whole() -> None:
    shown, check = written(PLAN, ["She is 12", "5."])
    assert shown == [[], []]
    assert not check.stands
    shown, check = written(PLAN, ["She is ", "12"])
    assert shown == [[], []]
    assert check.stands
    assert check.end() == ["She is ", "12"]


@pytest.mark.parametrize("plan", [None, Plan("base", NOTHING), Plan("weights", NOTHING, "lesson-1", wanted=(AGE,))])
def test_nothing_is_held_back_where_there_is_nothing_to_hold_it_against(plan: Plan | None) -> None:
    shown, check = written(plan, ["I ", "cannot ", "say."])
    assert shown == [["I "], ["cannot "], ["say."]]
    assert check.stands
