"""Tables of scores: pairing, items, folds, families; and a clear word for everything that is odd."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanohydra.errors import UserError
from nanohydra.lab.compare import Analysis, Comparison, compare
from nanohydra.lab.config import Metric
from nanohydra.lab.table import read_csv, read_scores, write_csv
from nanohydra.lab.verdict import headline, power_sentence, sentence

LOSS = [Metric("val_loss", "lower")]


def runs(seeds: int, gain: float = 0.0, noise: float = 0.01, **more: Any) -> list[dict[str, Any]]:
    """Variants a and b whose seeds share their luck; b is better by `gain`."""
    rng = np.random.default_rng(seeds)
    rows = []
    for seed in range(seeds):
        luck = rng.normal(0, 0.3)
        for variant, bonus in (("a", 0.0), ("b", gain)):
            rows.append(
                {"variant": variant, "seed": seed, "val_loss": 1.5 + luck - bonus + rng.normal(0, noise), **more}
            )
    return rows


def only(analysis: Analysis) -> Comparison:
    (comparison,) = analysis.comparisons
    return comparison


# ---------------------------------------------------------------- what is computed


def test_pairing_by_seed_is_the_paired_t_test() -> None:
    rows = runs(6, gain=0.02)
    c = only(compare(rows, LOSS))
    a, b = ([row["val_loss"] for row in rows if row["variant"] == v] for v in "ab")
    theirs = stats.ttest_rel(a, b)
    assert c.p == pytest.approx(max(theirs.pvalue, 2 / 4**6))
    assert c.difference.value == pytest.approx(np.mean(a) - np.mean(b))
    assert (c.difference.low, c.difference.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert stats.ttest_ind(a, b).pvalue > 0.5  # the luck of the seeds would hide it
    assert c.finding == "better"


@given(st.randoms(use_true_random=False), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_order_of_rows_and_swap_of_variants(random: Any, seeds: int) -> None:
    rows = runs(seeds, gain=0.01)
    shuffled = sorted(rows, key=lambda _: random.random())
    one, other = only(compare(rows, LOSS, baseline="a")), only(compare(shuffled, LOSS, baseline="a"))
    assert one == other
    swapped = only(compare(rows, LOSS, baseline="b"))
    assert swapped.difference.value == pytest.approx(-one.difference.value)
    assert swapped.p == pytest.approx(one.p)


def test_direction_of_a_metric() -> None:
    rows = runs(8, gain=0.1)
    assert only(compare(rows, LOSS)).finding == "better"
    assert only(compare(rows, [Metric("val_loss", "higher")])).finding == "worse"
    assert only(compare(rows)).metric.direction == "lower"  # from its name, and said so:
    assert "taken as lower is better, from its name" in " ".join(compare(rows).notes)
    assert only(compare(rows, higher=["val_loss"])).metric.direction == "higher"


def test_wide_and_long_tables_are_one() -> None:
    wide = [{**row, "recall": 0.5 + 0.01 * i} for i, row in enumerate(runs(4))]
    long = [
        {"variant": row["variant"], "seed": row["seed"], "metric": name, "value": row[name]}
        for row in wide
        for name in ("val_loss", "recall")
    ]
    assert compare(wide).comparisons == compare(long).comparisons


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        *runs(3),
        {"variant": "a", "seed": 0, "item": "q, 1", "recall": 1},
        {"variant": "b", "seed": 0, "recall": 0},
    ]
    write_csv(rows, tmp_path / "scores.csv")
    again = read_scores(read_csv(tmp_path / "scores.csv"))
    assert again.values == read_scores(rows).values


def item_rows(seeds: int, items: int, gain: float, own: bool = False) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seeds * items)
    hard = rng.random(items)
    return [
        {"variant": v, "seed": s, "item": f"{s if own else ''}q{i}", "recall": int(rng.random() < hard[i] + bonus)}
        for s in range(seeds)
        for v, bonus in (("a", 0.0), ("b", gain))
        for i in range(items)
    ]


def test_items_are_paired_and_count_as_a_source_of_chance() -> None:
    metric = [Metric("recall", "higher")]
    shared = only(compare(item_rows(5, 60, 0.3), metric))
    assert shared.items == 60
    assert shared.finding == "better"
    own = only(compare(item_rows(5, 60, 0.3, own=True), metric))  # each seed has its own exam: its mean has it all
    assert own.items == 1
    assert own.difference.value == pytest.approx(shared.difference.value)
    assert own.percentile[0] < own.difference.value < own.percentile[1]


def test_items_that_some_run_lacks_are_left_out_with_a_word() -> None:
    rows = item_rows(4, 30, 0.2)
    analysis = compare([r for r in rows if not (r["variant"] == "b" and r["seed"] == 2 and r["item"] == "q7")])
    c = only(analysis)
    assert (c.items, c.items_left_out) == (29, 1)
    assert any("1 items of recall are not in all of their runs" in note for note in analysis.notes)


def test_cross_validation_folds() -> None:
    rng = np.random.default_rng(0)
    rows = [{"variant": v, "fold": k, "accuracy": rng.normal(0.8, 0.02)} for k in range(10) for v in "ab"]
    c = only(compare(rows, [Metric("accuracy", "higher")]))
    d = np.array(c.by_unit)
    corrected = d.mean() / math.sqrt(d.var(ddof=1) * (1 / 10 + 1 / 9))  # Nadeau and Bengio 2003, equation 9
    assert c.p == pytest.approx(2 * stats.t.sf(abs(corrected), 9), rel=1e-3)
    assert "Folds share training data" in power_sentence(c, "fold")
    repeated = [{**row, "seed": s, "accuracy": row["accuracy"] + rng.normal(0, 0.01)} for s in range(2) for row in rows]
    analysis = compare(repeated, [Metric("accuracy", "higher")])
    assert (analysis.unit_name, len(only(analysis).units)) == ("fold", 20)


def test_holm_counts_every_comparison() -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"variant": v, "seed": s, "val_loss": rng.normal(), "recall": rng.normal()} for s in range(5) for v in "abcd"
    ]
    assert {c.family for c in compare(rows).comparisons} == {6}
    assert {c.family for c in compare(rows, pairs="all").comparisons} == {12}
    for c in compare(rows).comparisons:
        assert c.p <= c.p_family <= min(1, 6 * c.p) + 1e-12


# ---------------------------------------------------------------- what is said


def test_no_evidence_is_said_plainly_with_what_could_have_been_seen() -> None:
    c = only(compare(runs(5), [Metric("val_loss", "lower", effect=0.001)]))
    assert c.finding == "none"
    assert sentence(c).startswith("No evidence of a difference in val_loss between b and a")
    power = power_sentence(c)
    assert "With 5 seeds only a difference above" in power
    assert f"A true difference of 0.001, that matters to you, needs {c.seeds_for_effect} seeds" in power


def test_a_difference_that_holds() -> None:
    rows = runs(6, gain=0.1)
    third = [{**row, "variant": "c", "val_loss": row["val_loss"] + 0.001} for row in rows if row["variant"] == "a"]
    texts = [sentence(c) for c in compare([*rows, *third], LOSS).comparisons]
    assert texts[0].startswith("b is better than a in val_loss: 0.1")
    assert "after Holm correction over 2 comparisons" in texts[0]


def test_three_seeds_say_how_little_they_show() -> None:
    c = only(compare(runs(3), LOSS))
    assert "3 seeds show little: that is 3.264 times the spread between seeds" in power_sentence(c)
    rows = runs(3, gain=5.0)
    third = [{**row, "variant": "c", "val_loss": 9.0 + 0.01 * row["seed"]} for row in rows if row["variant"] == "a"]
    for c in compare([*rows, *third], LOSS).comparisons:
        assert c.finding == "none"
        assert "With 3 seeds no difference, however large, can pass the correction over 2" in power_sentence(c)


def test_a_change_without_effect_is_noticed() -> None:
    rows = [{**row, "val_loss": row["seed"]} for row in runs(4)]
    c = only(compare(rows, LOSS))
    assert c.finding == "none"
    assert sentence(c).endswith("the very same val_loss in all 4 seeds. Does the change take effect?")


def test_a_difference_smaller_than_what_matters() -> None:
    c = only(compare(runs(8, gain=0.02), [Metric("val_loss", "lower", effect=0.5)]))
    assert c.finding == "better"
    assert "smaller than the 0.5 that matters to you" in sentence(c)


# ---------------------------------------------------------------- bad input: a clear word, never a silent drop


def test_missing_seeds() -> None:
    rows = [row for row in runs(5) if not (row["variant"] == "b" and row["seed"] in (1, 3))]
    analysis = compare(rows, LOSS)
    assert only(analysis).units == ("0", "2", "4")
    assert "b was not scored in val_loss for seed 1, 3: its comparisons leave that out." in analysis.notes


def test_no_seed_in_common() -> None:
    rows = [{**row, "seed": f"{row['variant']}{row['seed']}"} for row in runs(3)]
    c = only(compare(rows, LOSS))
    assert c.finding == "unknown"
    assert sentence(c) == "b and a cannot be compared in val_loss: they have no seed in common."


def test_one_seed_only() -> None:
    c = only(compare(runs(1, gain=0.1), LOSS))
    assert c.finding == "unknown"
    assert math.isnan(c.p)
    assert "one run of each cannot tell a difference from luck" in sentence(c)
    with_items = only(compare(item_rows(1, 50, 0.3), [Metric("recall", "higher")]))
    assert with_items.finding == "unknown"
    assert "over its items, for this one pair of runs" in sentence(with_items)


@pytest.mark.parametrize("bad", [math.nan, "nan", math.inf, "-inf", "n/a"])
def test_scores_that_are_no_numbers(bad: Any) -> None:
    rows = runs(6, gain=0.1)
    rows[3]["val_loss"] = bad  # b, seed 1
    analysis = compare(rows, LOSS)
    c = only(analysis)
    assert c.units == ("0", "2", "3", "4", "5")
    assert "b has no val_loss in 1 of 6 runs (seed 1: its score is not a finite number)." in analysis.notes
    assert c.finding == "unsettled"  # b would win, but only with the runs that did not fail
    assert "what is left may be its luckier ones: not settled" in sentence(c)


def test_item_scores_that_are_no_numbers() -> None:
    rows = item_rows(4, 20, 0.2)
    rows[3]["recall"] = "nan"
    analysis = compare(rows)
    assert any("1 item scores of recall are not numbers" in note for note in analysis.notes)
    assert only(analysis).items == 19


def test_a_variant_that_diverges() -> None:
    rows = runs(6, gain=0.1)
    for row in rows:
        if row["variant"] == "b" and row["seed"] in (2, 4):
            row |= {"val_loss": 0.1, "status": "diverged", "reason": "at step 7: the loss is inf"}
    analysis = compare(rows, LOSS)
    c = only(analysis)
    assert c.units == ("0", "1", "3", "5")
    assert any(
        "b has no val_loss in 2 of 6 runs (seed 2: diverged (at step 7: the loss is inf)" in n for n in analysis.notes
    )
    assert c.finding == "unsettled"
    assert "b lost 2 runs" in sentence(c)
    assert "Not settled, since runs were lost: b against a in val_loss" in headline(analysis)
    worse = [{**row, "val_loss": 3 - row["val_loss"]} for row in rows]  # b loses: its lost runs do not save it
    assert only(compare(worse, LOSS)).finding == "worse"
    everything = [{**row, "status": "diverged"} if row["variant"] == "b" else row for row in rows]
    c = only(compare(everything, LOSS))
    assert c.finding == "unknown"
    assert "b gave no score in any run (diverged" in sentence(c)


def test_duplicates() -> None:
    rows = runs(4)
    same = compare([*rows, rows[0]], LOSS)
    assert any("several equal scores for seed 0: used once" in note for note in same.notes)
    assert only(same) == only(compare(rows, LOSS))
    other = compare([*rows, {**rows[0], "val_loss": rows[0]["val_loss"] + 1}], LOSS)
    assert any("several different scores for seed 0: their mean is used" in note for note in other.notes)
    assert other.summaries[0].by_unit["0"] == pytest.approx(rows[0]["val_loss"] + 0.5)


def test_unequal_budgets() -> None:
    rows = [{**row, "tokens": 1000 if row["variant"] == "a" else 1500, "parameters": 7} for row in runs(4)]
    told = compare(rows, LOSS)
    assert any("Unequal budgets: tokens differ: a run of b is 50% away" in note for note in told.notes)
    held = compare(rows, LOSS, held_equal=["tokens", "parameters", "flops"])
    assert any("tokens should be equal but differ" in note for note in held.notes)
    assert any("flops should be equal, but the scores of b or a do not tell it" in note for note in held.notes)
    assert "What should be held equal was not" in headline(held)
    equal = {(b.budget, b.variant): b.equal for b in held.budgets}
    assert equal["parameters", "b"]
    assert not equal["tokens", "b"]
    assert not compare(rows, LOSS, held_equal=["parameters"]).notes[1:]


def test_a_score_that_is_not_the_mean_of_its_items() -> None:
    rows = item_rows(3, 10, 0.1)
    rows.append({"variant": "a", "seed": 0, "recall": 0.99})
    assert any("recall is 0.99 but the mean of its items is" in note for note in compare(rows).notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"varaint": "a", "seed": 1, "x": 1}], 'no column "variant".* Did you mean "varaint"'),
        ([{"variant": "a", "x": 1}], 'no column "seed"'),
        ([{"variant": "a", "seed": 1}], "No column holds a metric"),
        ([{"variant": "a", "seed": 1, "x": 1}], 'only the variant "a"'),
        ([{"variant": "a", "seed": 1, "x": 1}, {"variant": "b", "x": 1}], "Row 2 has no seed"),
    ],
)
def test_tables_that_cannot_be_read(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(rows)


def test_wrong_names_are_corrected() -> None:
    with pytest.raises(UserError, match=r'no column "val_los".* Did you mean "val_loss"'):
        compare(runs(3), lower=["val_los"])
    with pytest.raises(UserError, match='no variant "c"'):
        compare(runs(3), baseline="c")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no rows"), ("variant,seed,x\n", "has no rows"), ("variant,seed\na,1,2\n", "line 2: more")],
)
def test_csv_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv(tmp_path / "scores.csv")
    with pytest.raises(UserError, match="There is no file"):
        read_csv(tmp_path / "other.csv")


@given(
    st.lists(
        st.fixed_dictionaries(
            {"variant": st.sampled_from("abc"), "seed": st.integers(0, 4)},
            optional={
                "x": st.one_of(st.floats(), st.sampled_from(["", "nan", "oops", 1e308, -1e308])),
                "item": st.sampled_from(["", "p", "q"]),
                "tokens": st.sampled_from([0, 1, 100, "many"]),
                "status": st.sampled_from(["finished", "diverged"]),
            },
        ),
        max_size=25,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_table_gives_an_analysis_or_one_line(rows: list[dict[str, Any]]) -> None:
    """No table breaks it, every run is accounted for, and the result is valid JSON."""
    try:
        analysis = compare(rows, resamples=50)
    except UserError:
        return
    json.dumps(analysis.to_dict(), allow_nan=False)
    for c in analysis.comparisons:
        assert sentence(c)
        power_sentence(c)
    for summary in analysis.summaries:
        if set(analysis.units) - set(summary.by_unit):
            words = (f"{summary.variant} was not scored in x", f"{summary.variant} has no x in")
            assert any(note.startswith(words) for note in analysis.notes)
