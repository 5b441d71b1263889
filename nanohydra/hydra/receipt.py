"""A lesson's receipt: what was measured of it, as plain JSON, as text and as rows for a table. No torch here.

Three ways of answering are compared. *base*: the frozen base alone. *forced*: the lesson's adapter on for every request.
*routed*: what the user meets; the router picks an adapter, or none, for each request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nanohydra.evals.intervals import Estimate

FORMAT = 1


@dataclass(frozen=True)
class ThreeWays:
    """One measure, three ways; None where it was not measured that way."""

    base: Estimate | None = None
    forced: Estimate | None = None
    routed: Estimate | None = None

    def to_data(self) -> dict[str, Any]:
        """`{"base": {"value", "n", "low", "high"} | None, "forced": ..., "routed": ...}`."""
        return {way: estimate and estimate.to_dict() for way, estimate in vars(self).items()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> ThreeWays:
        """The inverse of `to_data`."""
        return ThreeWays(
            **{way: None if data[way] is None else _read(data[way]) for way in ("base", "forced", "routed")}
        )


@dataclass(frozen=True)
class Measures:
    """What the gate looks at."""

    recall: ThreeWays
    """Share of right answers to set-aside wordings of the lesson's facts."""
    drift: ThreeWays
    """Relative rise of perplexity on a general text: 0.01 is 1%. base: against the same text before the lesson."""
    general: ThreeWays
    """Share of general questions still answered rightly, of those that the base answers rightly."""
    false_attributions: ThreeWays
    """Share of questions about near-miss and unseen names that are answered with a taught value."""

    def to_data(self) -> dict[str, Any]:
        """By name, each as of ThreeWays."""
        return {name: ways.to_data() for name, ways in vars(self).items()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Measures:
        """The inverse of `to_data`."""
        return Measures(**{name: ThreeWays.from_data(data[name]) for name in Measures.__dataclass_fields__})


@dataclass(frozen=True)
class FactResult:
    """One fact: how many of its set-aside wordings were answered rightly."""

    key: str
    question: str
    value: str
    asked: int
    base: int
    forced: int
    routed: int


@dataclass(frozen=True)
class EarlierResult:
    """One earlier lesson, measured again."""

    lesson: str
    name: str
    recall_before: Estimate
    """Routed, without the new lesson."""
    recall: Estimate
    """Routed, with the new lesson."""
    drift: ThreeWays
    """Relative rise of perplexity on the earlier lesson's own chats: base path, new adapter forced on, routed."""

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "lesson": self.lesson,
            "name": self.name,
            "recall_before": self.recall_before.to_dict(),
            "recall": self.recall.to_dict(),
            "drift": self.drift.to_data(),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> EarlierResult:
        """The inverse of `to_data`."""
        before, now = _read(data["recall_before"]), _read(data["recall"])
        return EarlierResult(data["lesson"], data["name"], before, now, ThreeWays.from_data(data["drift"]))


@dataclass(frozen=True)
class Check:
    """One line of the gate's verdict."""

    name: str
    """What is checked, such as "recall"."""
    value: float | None
    """None where it was not measured."""
    bound: float
    passed: bool
    sentence: str
    """The same in plain words."""


@dataclass(frozen=True)
class Attempt:
    """One training and what came of it."""

    settings: dict[str, Any]
    """Those of LessonTraining, as they were used, with `steps` done."""
    measures: Measures
    passed: bool
    seconds: float


@dataclass(frozen=True)
class Receipt:
    """The measurements of one lesson or consolidation."""

    kind: Literal["lesson", "consolidation"]
    state: Literal["published", "rejected"]
    reason: str
    """Why it was rejected, in plain words; "" where it was published."""
    base: dict[str, str]
    """`name` and `id` (content hash)."""
    adapter: str | None
    """Content hash of the adapter's folder; None where it was rejected."""
    measures: Measures
    facts: tuple[FactResult, ...]
    earlier: tuple[EarlierResult, ...]
    forgotten: tuple[FactResult, ...]
    """Facts that the lesson once had, asked of an adapter trained without them."""
    checks: tuple[Check, ...]
    attempts: tuple[Attempt, ...]
    seconds: dict[str, float]
    """By stage (prepare, train, measure) and `total`; `cpu` is processor time of all."""
    seeds: dict[str, int]
    hashes: dict[str, str]
    """Content hashes of the `material`, the `settings` and the `weights` of the base after the lesson."""
    settings: dict[str, Any]
    """LearnConfig as data: thresholds among them."""
    merges: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of a consolidation: recall and drift of the old adapters' mean, TIES and DARE, for comparison."""

    def to_data(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "state": self.state,
            "reason": self.reason,
            "base": dict(self.base),
            "adapter": self.adapter,
            "measures": self.measures.to_data(),
            "facts": [asdict(fact) for fact in self.facts],
            "earlier": [result.to_data() for result in self.earlier],
            "forgotten": [asdict(fact) for fact in self.forgotten],
            "checks": [asdict(check) for check in self.checks],
            "attempts": [{**vars(a), "measures": a.measures.to_data()} for a in self.attempts],
            "seconds": dict(self.seconds),
            "seeds": dict(self.seeds),
            "hashes": dict(self.hashes),
            "settings": self.settings,
            "merges": self.merges,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Receipt:
        """The inverse of `to_data`; raises ValueError for another format."""
        if data.get("format") != FORMAT:
            raise ValueError(f"This receipt has format {data.get('format')}, and {FORMAT} is known.")
        values = {name: data[name] for name in Receipt.__dataclass_fields__}
        return Receipt(
            **{
                **values,
                "measures": Measures.from_data(data["measures"]),
                "facts": tuple(FactResult(**fact) for fact in data["facts"]),
                "earlier": tuple(EarlierResult.from_data(result) for result in data["earlier"]),
                "forgotten": tuple(FactResult(**fact) for fact in data["forgotten"]),
                "checks": tuple(Check(**check) for check in data["checks"]),
                "attempts": tuple(
                    Attempt(**{**a, "measures": Measures.from_data(a["measures"])}) for a in data["attempts"]
                ),
            }
        )


@dataclass(frozen=True)
class Outcome:
    """What came of teaching. `folder`: the adapter's, where the lesson was published."""

    state: Literal["published", "rejected"]
    receipt: dict[str, Any]
    folder: str | None
    reason: str


@dataclass(frozen=True)
class Line:
    """A row of a receipt's table: texts, ready to be shown."""

    label: str
    meaning: str
    base: str
    forced: str
    routed: str
    bound: str
    passed: bool | None
    """None where the gate does not look at it."""


LABELS = {
    "recall": ("Recall", "right answers to questions in wordings never trained on"),
    "drift": ("Drift", "rise of perplexity on a general text"),
    "general": ("General answers kept", "of the questions that the base answers rightly"),
    "false_attributions": (
        "False attributions",
        "taught values given about near-miss and unseen names (less is better)",
    ),
}


def table(receipt: Mapping[str, Any]) -> list[Line]:
    """The rows of a receipt (plain data): the four measures three ways, then each earlier lesson."""
    checks: dict[str, list[Mapping[str, Any]]] = {}
    for check in receipt["checks"]:
        checks.setdefault(check["name"].split(" ")[0], []).append(check)
    lines = []
    for name, (label, meaning) in LABELS.items():
        own = checks.get(name, [])
        bound = ", ".join(_bound(check) for check in own)
        ways = receipt["measures"][name]
        base, forced, routed = (_shown(ways[way], signed=name == "drift") for way in ("base", "forced", "routed"))
        lines.append(Line(label, meaning, base, forced, routed, bound, all(c["passed"] for c in own) if own else None))
    for result in receipt["earlier"]:
        own = [c for c in receipt["checks"] if c["name"] == f"earlier {result['lesson']}"]
        before, now = _shown(result["recall_before"]), _shown(result["recall"])
        meaning = "recall of an earlier lesson, before and with this one"
        passed = all(c["passed"] for c in own) if own else None
        lines.append(Line(result["name"], meaning, before, "", now, "unchanged within noise", passed))
    return lines


def as_text(receipt: Mapping[str, Any]) -> str:
    """A receipt (plain data) as lines for a terminal."""
    header = ("", "base", "adapter forced on", "routed", "must be", "")
    marks = {True: "ok", False: "FAILED", None: ""}
    rows = [header] + [(r.label, r.base, r.forced, r.routed, r.bound, marks[r.passed]) for r in table(receipt)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    seconds, facts = receipt["seconds"], receipt["facts"]
    missed = [f for f in facts if f["routed"] < f["asked"]]
    text.append(
        f"{len(facts)} facts, {seconds['total']:.0f} s, base {receipt['base']['name']}, seed {receipt['seeds']['lesson']}"
    )
    text += [f"  {f['routed']} of {f['asked']} wordings right: {f['question']} ({f['value']})" for f in missed]
    text.append("Published." if receipt["state"] == "published" else f"Rejected: {receipt['reason']}")
    return "\n".join(text)


def _read(data: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if data[name] is None else data[name] for name in ("value", "low", "high"))
    return Estimate(value, data["n"], low, high)


def _shown(data: Mapping[str, Any] | None, signed: bool = False) -> str:
    if data is None or data["value"] is None:
        return ""
    shares = [data[name] for name in ("value", "low", "high")]
    form = "{:+.2%}" if signed else "{:.1%}"
    value, low, high = (None if share is None else form.format(share) for share in shares)
    return f"{value}" if low is None or signed else f"{value} [{low}, {high}]"


def _bound(check: Mapping[str, Any]) -> str:
    way = check["name"].partition(" ")[2]
    least = check["name"].split(" ")[0] in ("recall", "general")
    return f"{'at least' if least else 'at most'} {check['bound']:.1%}" + (f" {way}" if way else "")
