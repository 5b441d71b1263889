"""The report of a study: markdown, one HTML file, and the pictures that they show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from nanohydra.files import write_json, write_text
from nanohydra.lab import stories
from nanohydra.lab.checks import percent
from nanohydra.lab.compare import Analysis, Comparison
from nanohydra.lab.config import Metric
from nanohydra.lab.document import Block, Bullets, Code, Heading, Picture, Table, Text, to_html, to_markdown
from nanohydra.lab.plots import draw_curves, draw_differences, draw_points
from nanohydra.lab.study import Study
from nanohydra.lab.verdict import headline, number, p_value, power_sentence, sentence

Form = Literal["report", "blog", "retro"]

METHOD = (
    "Runs are paired by {unit}: variants that share a {unit} share its luck, and the luck cancels in the difference. "
    "Improvements are signed so that positive is better. The interval and p-value that decide are those of the paired "
    "t test; where evaluation items are shared by all {unit}s, their choice is a second source of chance (two-way "
    "random effects). A p-value is never below 2 / 4^n with n {unit}s: runs that either learn a thing or do not can all "
    "fall one way by chance. Each interval holds for its comparison alone; the verdicts hold for all of them at once (Holm). "
    "Bootstrap intervals (hierarchical, over {unit}s and items) and the sign-flip permutation p-value stand beside for "
    "comparison: with few {unit}s the former are too narrow and the latter cannot be small."
)


def write_report(study: Study, folder: Path, form: Form = "report") -> Path:
    """Writes report.md, report.html, their pictures and analysis.json (for programs) into `folder`, and beside them the
    draft that `form` asks for. The same study gives the same bytes. Returns the path of the markdown file asked for."""
    pictures = _draw(study, folder)
    write_json(folder / "analysis.json", {"name": study.name, "runs": study.runs, **study.analysis.to_dict()})
    writers = {"report": report_blocks, "blog": stories.blog, "retro": stories.retro}
    for name in dict.fromkeys(["report", form]):
        blocks = writers[name](study, pictures)
        write_text(folder / f"{name}.md", to_markdown(blocks))
        write_text(folder / f"{name}.html", to_html(blocks, folder))
    return folder / f"{form}.md"


def report_blocks(study: Study, pictures: Mapping[str, Picture]) -> list[Block]:
    """The whole report."""
    analysis = study.analysis
    unit = analysis.unit_name
    powers = [f"{c.variant} against {c.baseline}, {c.metric.name}: {p}" for c, p in _powers(analysis)]
    blocks: list[Block] = [Heading(study.name, 1)]
    if study.question:
        blocks.append(Text(study.question))
    blocks += [Heading("Verdict"), Text(headline(analysis))]
    blocks.append(Bullets([sentence(c, unit) for c in analysis.comparisons]))
    if powers:
        blocks += [Heading(f"What these {unit}s can show"), Bullets(powers)]
    blocks += [*_notes(study), Heading("Scores"), _scores_table(analysis), pictures["points"]]
    for metric in analysis.metrics:
        blocks += [Heading(f"Every {unit}: {metric.name}", 3), _units_table(analysis, metric)]
    blocks += [Heading("Differences"), Text(METHOD.format(unit=unit)), *_difference_tables(analysis)]
    blocks += [pictures[name] for name in ("differences", "curves") if name in pictures]
    blocks += [*_checks(analysis), *_tuning(study), *_origin(study)]
    return blocks


def _powers(analysis: Analysis) -> list[tuple[Comparison, str]]:
    told = [(c, power_sentence(c, analysis.unit_name)) for c in analysis.comparisons]
    return [(c, text) for c, text in told if text]


def _notes(study: Study) -> list[Block]:
    notes = [*study.notes, *study.analysis.notes]
    return [Heading("To be known before reading on"), Bullets(notes)] if notes else []


def _scores_table(analysis: Analysis) -> Table:
    """Variants by metrics: mean over seeds and its interval."""
    header = ["variant", *(f"{m.name} ({m.direction} is better), n" for m in analysis.metrics)]
    cells = {
        (s.variant, s.metric): _interval(s.mean.value, s.mean.low, s.mean.high, s.mean.n) for s in analysis.summaries
    }
    return Table(header, [[v, *(cells[v, m.name] for m in analysis.metrics)] for v in analysis.variants])


def _units_table(analysis: Analysis, metric: Metric) -> Table:
    by_variant = {s.variant: s.by_unit for s in analysis.summaries if s.metric == metric.name}
    rows = [
        [unit, *(number(runs[unit]) if unit in runs else "none" for runs in by_variant.values())]
        for unit in analysis.units
    ]
    return Table([analysis.unit_name, *by_variant], rows)


def _difference_tables(analysis: Analysis) -> list[Table]:
    """What decides, then what stands beside it."""
    names = [f"{c.metric.name}: {c.variant} against {c.baseline}" for c in analysis.comparisons]
    decides = [
        [
            name,
            number(c.difference.value),
            _pair((c.difference.low, c.difference.high)),
            _p(c.p),
            _p(c.p_family),
            str(len(c.units)),
            str(c.items) if c.items > 1 else "none",
        ]
        for name, c in zip(names, analysis.comparisons)
    ]
    beside = [
        [
            name,
            _pair(c.percentile),
            _pair(c.bca),
            _p(c.p_sign_flip),
            _interval(c.chance_better.value, c.chance_better.low, c.chance_better.high),
            number(c.effect_size),
            number(c.spread),
        ]
        for name, c in zip(names, analysis.comparisons)
    ]
    unit = analysis.unit_name
    return [
        Table(["improvement", "mean", "95% interval", "p", "p (Holm)", f"{unit}s", "shared items"], decides),
        Table(
            [
                "improvement",
                "percentile interval",
                "BCa interval",
                "p (sign flips)",
                "P(better)",
                "Hedges' g",
                "spread",
            ],
            beside,
        ),
    ]


def _checks(analysis: Analysis) -> list[Block]:
    if not analysis.budgets:
        return []
    rows = [
        [
            f"{b.budget} of {b.variant}",
            _count(b.mean),
            percent(b.deviation) if math.isfinite(b.deviation) else "unknown",
            ("yes" if b.equal else "NO") if b.held else "not asked",
        ]
        for b in analysis.budgets
    ]
    text = (
        f"Measured in the runs. Distance: the furthest run from the mean of {analysis.baseline}; equal means within "
        f"{percent(analysis.tolerance)}."
    )
    return [Heading("Was it held equal?"), Text(text), Table(["budget", "mean", "distance", "equal"], rows)]


def _tuning(study: Study) -> list[Block]:
    if not study.trials:
        return []
    rows = [[f"{t.variant}: {_patch(t.patch)}", number(t.score), "yes" if t.chosen else ""] for t in study.trials]
    text = "Every variant had the same number of trials, on seeds that are not used above."
    return [Heading("Tuning"), Text(text), Table(["trial", "mean score", "chosen"], rows)]


def _origin(study: Study) -> list[Block]:
    """Where the numbers come from and how to have them again."""
    blocks: list[Block] = []
    if study.changes:
        blocks += [
            Heading("Variants"),
            Table(["variant", "changes to the base recipe"], [[v, _patch(p)] for v, p in study.changes.items()]),
        ]
    blocks.append(Heading("How to have it again"))
    if study.runs:
        blocks.append(Text(study.runs))
    blocks += [Code("\n".join(study.commands)), Heading("Environment")]
    blocks.append(Bullets([f"{key}: {' / '.join(values)}" for key, values in study.environment.items()]))
    if study.base:
        blocks += [Heading("Base recipe"), Code(_yaml(study.base))]
    return blocks


def _draw(study: Study, folder: Path) -> dict[str, Picture]:
    unit = study.analysis.unit_name
    pictures = {"points": Picture("points.png", f"every {unit} as a point, and each variant's mean with its interval")}
    draw_points(study.analysis, folder / "points.png")
    if draw_differences(study.analysis, folder / "differences.png"):
        pictures["differences"] = Picture("differences.png", "bootstrap histograms of the mean improvements")
    if study.curves:
        draw_curves(study.curves, *study.curve_axes, folder / "curves.png")
        pictures["curves"] = Picture("curves.png", "mean loss curves, with bands from the lowest to the highest run")
    return pictures


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text.rstrip()


def _interval(value: float, low: float, high: float, n: int | None = None) -> str:
    text = number(value) if not math.isfinite(low) else f"{number(value)} [{number(low)}, {number(high)}]"
    return text if n is None else f"{text}, {n}"


def _pair(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{number(low)} to {number(high)}" if math.isfinite(low) else "unknown"


def _p(p: float) -> str:
    return p_value(p).removeprefix("p ").removeprefix("= ")


def _count(x: float) -> str:
    return "unknown" if not math.isfinite(x) else f"{x:,.0f}" if x >= 1000 else number(x)


def _patch(patch: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in _dotted(patch)) or "none"


def _dotted(patch: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in patch.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
