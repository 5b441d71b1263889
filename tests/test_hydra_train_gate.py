"""The gate as a pure function, and the receipt as plain data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.evals.intervals import Estimate, wilson
from nanohydra.hydra.config import Gate, LearnConfig
from nanohydra.hydra.gate import judge, reason
from nanohydra.hydra.receipt import (
    Attempt,
    EarlierResult,
    FactResult,
    Measures,
    Receipt,
    ThreeWays,
    as_text,
    table,
)

SHARE = st.floats(0, 1)
DRIFT = st.floats(-0.1, 0.2)


def estimate(value: float, n: int = 100) -> Estimate:
    return Estimate(value, n, value - 0.1, value + 0.1)


def measured(recall: float, general: float, false: float, forced: float, routed: float) -> Measures:
    return Measures(
        ThreeWays(estimate(0.0), estimate(recall), estimate(recall)),
        ThreeWays(estimate(0.0), estimate(forced), estimate(routed)),
        ThreeWays(estimate(1.0), estimate(general), estimate(general)),
        ThreeWays(estimate(0.0), estimate(false), estimate(false)),
    )


GOOD = measured(1.0, 1.0, 0.0, 0.0, 0.0)


@given(SHARE, SHARE, SHARE, DRIFT, DRIFT)
def test_a_lesson_passes_where_every_threshold_is_met(
    recall: float, general: float, false: float, forced: float, routed: float
) -> None:
    checks = judge(measured(recall, general, false, forced, routed), (), Gate())
    met = recall >= 0.9 and general >= 0.98 and false <= 0.05 and forced < 0.05 and routed <= 0.005
    assert all(check.passed for check in checks) == met
    assert (reason(checks) == "") == met


@given(SHARE, SHARE, SHARE, DRIFT, DRIFT, st.integers(0, 4), st.floats(0, 0.5))
def test_better_measures_never_fail_what_passed(
    recall: float, general: float, false: float, forced: float, routed: float, which: int, by: float
) -> None:
    values = [recall, general, false, forced, routed]
    better = values.copy()
    better[which] += by if which < 2 else -by
    before = {check.name: check.passed for check in judge(measured(*values), (), Gate())}
    after = {check.name: check.passed for check in judge(measured(*better), (), Gate())}
    assert all(after[name] for name, passed in before.items() if passed)


def test_what_was_not_measured_fails_and_what_cannot_be_asked_does_not() -> None:
    unknown = judge(replace(GOOD, recall=ThreeWays(), general=ThreeWays()), (), Gate())
    assert [c.name for c in unknown if not c.passed] == ["recall routed", "general routed"]
    assert "unknown share" in reason(unknown)
    nothing = ThreeWays(routed=wilson(0, 0))
    assert not reason(judge(replace(GOOD, general=nothing, false_attributions=nothing), (), Gate()))


def earlier(before: int, now: int, asked: int = 20) -> EarlierResult:
    return EarlierResult("7", "first lesson", wilson(before, asked), wilson(now, asked), ThreeWays())


@pytest.mark.parametrize(("now", "passed"), [(20, True), (19, True), (18, True), (10, False), (0, False)])
def test_earlier_lessons_may_change_within_noise_only(now: int, passed: bool) -> None:
    checks = judge(GOOD, (earlier(19, now),), Gate())
    assert checks[-1].passed == passed
    assert ("first lesson" in reason(checks)) != passed


@pytest.mark.parametrize(("still", "passed"), [(0, True), (1, True), (8, False)])
def test_forgotten_facts_must_fall_to_the_base(still: int, passed: bool) -> None:
    gone = FactResult("k", "Where?", "Oslo", 8, 0, still, 0)
    assert judge(GOOD, (), Gate(), (gone,))[-1].passed == passed


def receipt(state: str = "published") -> Receipt:
    config = LearnConfig()
    measures = replace(GOOD, drift=ThreeWays(None, estimate(0.02), estimate(0.0)))
    checks = judge(measures, (earlier(19, 20),), Gate())
    return Receipt(
        kind="lesson",
        state=state,  # type: ignore[arg-type]
        reason="" if state == "published" else "Too little was learned.",
        base={"name": "b", "id": "0" * 64},
        adapter="1" * 64,
        measures=measures,
        facts=(FactResult("k", "Where was Mira born?", "Oslo", 4, 0, 4, 3),),
        earlier=(earlier(19, 20),),
        forgotten=(),
        checks=checks,
        attempts=(Attempt({"steps": 3}, measures, True, 1.5),),
        seconds={"prepare": 1.0, "train": 2.0, "measure": 3.0, "total": 6.0, "cpu": 9.0},
        seeds={"lesson": config.seed},
        hashes={"material": "2" * 64},
        settings={"seconds": 120.0},
        merges={"mean": {"recall": 0.0, "drift": 0.1, "asked": 5.0}},
    )


def test_a_receipt_goes_through_json_and_comes_back() -> None:
    data = json.loads(json.dumps(receipt().to_data(), allow_nan=False))
    assert Receipt.from_data(data) == receipt()
    with pytest.raises(ValueError, match="format"):
        Receipt.from_data({**data, "format": 99})


def test_a_receipt_is_read_by_people() -> None:
    data = receipt("rejected").to_data()
    lines = {line.label: line for line in table(data)}
    assert lines["Recall"].routed.startswith("100.0%")
    assert lines["Drift"].forced == "+2.00%"
    assert lines["first lesson"].passed
    text = as_text(data)
    assert "Rejected: Too little was learned." in text
    assert "3 of 4 wordings right: Where was Mira born? (Oslo)" in text


def test_settings_are_read_strictly() -> None:
    read = LearnConfig.read({"seconds": 30, "gate": {"recall": 0.5}, "train": {"steps": 4}})
    assert (read.seconds, read.gate.recall, read.train.steps) == (30.0, 0.5, 4)
    for wrong in ({"second": 3}, {"seconds": 0}, {"gate": {"recall": 2}}, {"train": {"replay_share": 1.0}}):
        with pytest.raises(UserError):
            LearnConfig.read(wrong)
