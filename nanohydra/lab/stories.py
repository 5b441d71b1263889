"""Drafts for people: a post and a retrospective. Every number in them is a number of the report."""

from __future__ import annotations

from collections.abc import Mapping

from nanohydra.lab.compare import Comparison
from nanohydra.lab.document import Block, Bullets, Code, Heading, Picture, Text
from nanohydra.lab.study import Study
from nanohydra.lab.verdict import headline, power_sentence, sentence


def blog(study: Study, pictures: Mapping[str, Picture]) -> list[Block]:
    """A post: the question, the answer, how sure it is, how to check it."""
    analysis = study.analysis
    unit = analysis.unit_name
    found = [c for c in analysis.comparisons if c.finding in ("better", "worse")]
    open_ones = [c for c in analysis.comparisons if c.finding not in ("better", "worse")]
    names = ", ".join(m.name for m in analysis.metrics)
    setting = f"We compared {_listed(list(analysis.variants))} by {names}, each with the same {unit}s. {study.runs}"
    blocks: list[Block] = [
        Heading(study.question or study.name, 1),
        Text(headline(analysis)),
        Heading("What we did"),
        Text(setting.strip()),
        pictures["points"],
    ]
    if found:
        blocks += [Heading("What holds"), Bullets([sentence(c, unit) for c in found])]
    if open_ones:
        blocks += [Heading("What we could not show"), Bullets([sentence(c, unit) for c in open_ones])]
    blocks += [pictures[name] for name in ("differences", "curves") if name in pictures]
    blocks += [Heading("How sure can one be?"), Bullets(_limits(study))]
    return [*blocks, Heading("Check it yourself"), Code("\n".join(study.commands))]


def retro(study: Study, pictures: Mapping[str, Picture]) -> list[Block]:
    """A retrospective: what was asked, what went as planned, what did not, what to do next."""
    analysis = study.analysis
    unit = analysis.unit_name
    held = [b for b in analysis.budgets if b.held]
    unequal = sorted({b.budget for b in held if not b.equal})
    equal = [b for b in dict.fromkeys(b.budget for b in held) if b not in unequal]
    went_well = [study.runs] if study.runs else []
    went_well += [f"Held equal as planned: {_listed(equal)}."] if equal else []
    went_well += [sentence(c, unit) for c in analysis.comparisons if c.finding in ("better", "worse")]
    trouble = [*study.notes, *analysis.notes]
    trouble += [sentence(c, unit) for c in analysis.comparisons if c.finding in ("unsettled", "unknown")]
    return [
        Heading(f"Retrospective: {study.name}", 1),
        Heading("What was asked"),
        Text(study.question or f"How {_listed(list(analysis.variants))} compare."),
        Heading("What came out"),
        Text(headline(analysis)),
        *([Bullets(went_well)] if went_well else []),
        pictures["points"],
        Heading("What did not go as planned"),
        Bullets(trouble) if trouble else Text("Nothing that the runs or the checks could tell."),
        Heading("What next"),
        Bullets(_next(study, unequal)),
    ]


def _limits(study: Study) -> list[str]:
    """What qualifies the answer."""
    unit = study.analysis.unit_name
    powers = [
        f"{c.variant} against {c.baseline} in {c.metric.name}: {text}"
        for c in study.analysis.comparisons
        if (text := power_sentence(c, unit))
    ]
    return [*study.notes, *study.analysis.notes, *powers] or [f"There is too little to say: more {unit}s are needed."]


def _next(study: Study, unequal: list[str]) -> list[str]:
    """What the analysis itself asks for."""
    analysis = study.analysis
    steps = [
        f"Make {budget} equal and run again: until then the comparison is of two things at once." for budget in unequal
    ]
    steps += [
        f"Find out why {variant} lost runs before it is compared again." for variant in _losers(analysis.comparisons)
    ]
    for c in analysis.comparisons:
        pair = f"{c.variant} and {c.baseline} in {c.metric.name}"
        if c.finding == "none" and c.metric.effect and c.seeds_for_effect and c.seeds_for_effect > len(c.units):
            steps.append(
                f"To settle {pair}: {c.seeds_for_effect} {analysis.unit_name}s would show a difference that matters."
            )
        elif c.finding == "none" and c.seeds_for_observed and not c.metric.effect:
            steps.append(
                f"To settle {pair}: {c.seeds_for_observed} {analysis.unit_name}s, should the difference be as large as "
                f"it looks; or let it rest, if that is too small to matter."
            )
        elif c.finding == "unknown":
            steps.append(f"To compare {pair} at all: more {analysis.unit_name}s.")
    return steps or ["Nothing is open: the question has its answer."]


def _losers(comparisons: tuple[Comparison, ...]) -> list[str]:
    return list(dict.fromkeys(v for c in comparisons for v, runs in c.lost.items() if runs))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
