"""The rule over a lesson's measures that publishes or rejects its adapter: a pure function. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nanohydra.evals.intervals import Estimate, wilson
from nanohydra.hydra.config import Gate
from nanohydra.hydra.receipt import Check, EarlierResult, FactResult, Measures


def judge(
    measures: Measures, earlier: Sequence[EarlierResult], gate: Gate, forgotten: Sequence[FactResult] = ()
) -> tuple[Check, ...]:
    """One check a threshold; the lesson is published where all pass. What was not measured fails, unless there was nothing to
    ask: no general question that the base answers, no name that a stranger could have."""
    recall, general = _value(measures.recall.routed), _value(measures.general.routed)
    false, forced = _value(measures.false_attributions.routed), _value(measures.drift.forced)
    routed = _value(measures.drift.routed)
    checks = [
        Check(
            "recall routed",
            _known(recall),
            gate.recall,
            recall >= gate.recall,
            f"{_share(recall)} of the questions about its facts are answered rightly, and {gate.recall:.0%} are needed",
        ),
        Check(
            "general routed",
            _known(general),
            gate.general,
            general >= gate.general or _nothing(measures.general.routed),
            f"{_share(general)} of what the base answers rightly is still answered so, and {gate.general:.0%} are needed",
        ),
        Check(
            "false_attributions routed",
            _known(false),
            gate.false_attributions,
            false <= gate.false_attributions or _nothing(measures.false_attributions.routed),
            f"{_share(false)} of strangers are given a taught value, and at most {gate.false_attributions:.0%} may be",
        ),
        Check(
            "drift forced",
            _known(forced),
            gate.drift_forced,
            forced < gate.drift_forced,
            f"with the adapter forced on, perplexity on a general text changes by {_share(forced, '+')}, and less than "
            f"{gate.drift_forced:.1%} is allowed",
        ),
        Check(
            "drift routed",
            _known(routed),
            gate.drift_routed,
            routed <= gate.drift_routed,
            f"routed, perplexity on a general text changes by {_share(routed, '+')}, and at most {gate.drift_routed:.1%} is "
            "allowed",
        ),
    ]
    for result in earlier:
        now, before = result.recall, result.recall_before.value
        # Within noise: what was known before lies within the interval of what is known now.
        passed = now.value >= before or now.high >= before
        sentence = f'recall of the earlier lesson "{result.name}" went from {before:.0%} to {now.value:.0%}'
        checks.append(Check(f"earlier {result.lesson}", now.value, before, passed, sentence))
    if forgotten:
        asked = sum(fact.asked for fact in forgotten)
        known, base = (wilson(sum(getattr(f, way) for f in forgotten), asked) for way in ("forced", "base"))
        sentence = (
            f"{known.value:.0%} of the questions about forgotten facts are still answered, the base's {base.value:.0%}"
        )
        checks.append(Check("forgotten forced", known.value, base.high, known.low <= base.high, sentence))
    return tuple(checks)


def reason(checks: Sequence[Check]) -> str:
    """Why a lesson is rejected, in plain words; "" where every check passed."""
    failed = [check.sentence for check in checks if not check.passed]
    if not failed:
        return ""
    text = "; ".join(failed)
    return f"{text[0].upper()}{text[1:]}. Its passages stay answerable by retrieval."


def _value(estimate: Estimate | None) -> float:
    """NaN where nothing was measured: every comparison with it is false, so the check fails."""
    return math.nan if estimate is None else estimate.value


def _nothing(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.n == 0


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _share(value: float, sign: str = "") -> str:
    return "an unknown share" if math.isnan(value) else f"{value:{sign}.1%}"
