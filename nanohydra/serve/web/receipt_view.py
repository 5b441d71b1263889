"""A lesson's receipt on a page: the verdict, each measure beside its threshold, each fact, and what can be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanohydra.hydra.receipt import table
from nanohydra.serve.web.lesson_words import counted, duration
from nanohydra.serve.web.theme import el

_WAYS = (
    ("base", "Before", "The base alone, without this lesson."),
    ("forced", "Always on", "“Forced”: the lesson's adapter answers everything, asked about the lesson or not."),
    (
        "routed",
        "As you meet it",
        "“Routed”: the adapter answers only what is recognised as its own. So it is used here.",
    ),
)
_ADVICE = {
    "recall": "Give it more time, or teach fewer facts at once: short, plain sentences are learned best.",
    "general": "Teach fewer facts at once, so that less of what the model knew is disturbed.",
    "drift": "Teach fewer facts at once, so that less of what the model knew is disturbed.",
    "false_attributions": "Its names are much like others: write them out in full, with what tells them apart.",
    "earlier": "It disturbs an earlier lesson: consolidate your lessons first, then teach it again.",
}


def receipt_view(receipt: Mapping[str, Any]) -> None:
    """Everything that was measured, most telling first."""
    with el("section", "card", aria_label="Receipt"):
        el("h2", text="The exam")
        facts, seconds = receipt["facts"], receipt["seconds"]
        el("p", "soft", f"{counted(len(facts), 'fact')}, learned and examined in {duration(seconds['total'])}.")
        _measures(receipt)
        with el("dl", "facts ways"):
            for _, title, meaning in _WAYS:
                el("dt", text=title)
                el("dd", text=meaning)
    if receipt["facts"]:
        with el("section", "card", aria_label="Each fact"):
            el("h2", text="Each fact")
            el("p", "soft", "Asked in wordings that were set aside before and never learned from.")
            _facts(receipt["facts"])
    if receipt["forgotten"]:
        with el("section", "card", aria_label="Forgotten"):
            el("h2", text="Forgotten")
            el("p", "soft", "What was to be forgotten was asked, too: the model should know no more of it than before.")
            _facts(receipt["forgotten"])
    with el("section", "card", aria_label="How it was made"):
        _details(receipt)


def advice(receipt: Mapping[str, Any]) -> list[str]:
    """What can be done about the checks that failed."""
    failed = [check["name"].split(" ")[0] for check in receipt["checks"] if not check["passed"]]
    return list(dict.fromkeys(_ADVICE[name] for name in failed if name in _ADVICE))


def _measures(receipt: Mapping[str, Any]) -> None:
    with el("div", "scroll-x", tabindex="0"), el("table", "table measures"):
        el("caption", "unseen", "What was measured, and what the gate asks for")
        with el("thead"), el("tr"):
            el("th", text="Measure", scope="col")
            for _, title, _ in _WAYS:
                el("th", "number", title, scope="col")
            el("th", text="Must be", scope="col")
            el("th", text="", aria_label="Passed")
        with el("tbody"):
            for line in table(receipt):
                with el("tr"):
                    with el("th", scope="row"):
                        el("span", "measure", line.label)
                        el("small", "soft", line.meaning)
                    for way, _, _ in _WAYS:
                        value, _, interval = str(getattr(line, way)).partition(" ")
                        with el("td", "number"):
                            el("span", text=value or "–")
                            if interval:
                                el("small", "soft", interval.strip("[]").replace(", ", " to "), title="95% interval")
                    el("td", "bound", line.bound)
                    with el("td"):
                        if line.passed is not None:
                            el("span", "badge good" if line.passed else "badge bad", "ok" if line.passed else "failed")


def _facts(facts: Sequence[Mapping[str, Any]]) -> None:
    with el("div", "scroll-x", tabindex="0"), el("table", "table"):
        with el("thead"), el("tr"):
            for title, kind in (("Question", ""), ("Answer", ""), ("Before", "number"), ("Now", "number")):
                el("th", kind, title, scope="col")
        with el("tbody"):
            for fact in sorted(facts, key=lambda f: f["routed"] / max(f["asked"], 1)):
                with el("tr"):
                    el("td", text=fact["question"])
                    el("td", text=fact["value"])
                    el("td", "number soft", f"{fact['base']} of {fact['asked']}")
                    el("td", "number", f"{fact['routed']} of {fact['asked']}")


def _details(receipt: Mapping[str, Any]) -> None:
    with el("details"):
        el("summary", text="How it was made: times, seeds, hashes, settings")
        attempts = receipt["attempts"]
        rows = {
            "base": f"{receipt['base']['name']} ({receipt['base']['id'][:12]})",
            "adapter": (receipt["adapter"] or "")[:12],
            "tries": " · ".join(
                f"{attempt['settings'].get('steps', '?')} steps in {duration(attempt['seconds'])}, "
                f"{'passed' if attempt['passed'] else 'not passed'}"
                for attempt in attempts
            ),
            **{f"seconds, {name}": f"{value:.1f}" for name, value in receipt["seconds"].items()},
            **{f"seed, {name}": str(value) for name, value in receipt["seeds"].items()},
            **{f"hash, {name}": str(value)[:16] for name, value in receipt["hashes"].items()},
        }
        with el("dl", "facts"):
            for name, value in rows.items():
                if value:
                    el("dt", text=name)
                    el("dd", text=value)
        if receipt["merges"]:
            el("p", "soft", "The old adapters merged without training, for comparison:")
            _merges(receipt["merges"])


def _merges(merges: Mapping[str, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for values in merges.values() for name in values))
    with el("table", "table"):
        with el("thead"), el("tr"):
            el("th", text="Merge", scope="col")
            for name in names:
                el("th", "number", name, scope="col")
        with el("tbody"):
            for method, values in merges.items():
                with el("tr"):
                    el("th", text=method, scope="row")
                    for name in names:
                        el("td", "number", f"{values[name]:.1%}" if name in values else "–")
