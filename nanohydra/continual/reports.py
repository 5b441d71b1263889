"""The report of an experiment: what was kept, what was forgotten, what it cost, and what the seeds can tell of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nanohydra.continual.measures import LOWER
from nanohydra.continual.plots import draw_curves, draw_matrices
from nanohydra.continual.results import Results, Run, mean
from nanohydra.evals.intervals import Estimate
from nanohydra.files import write_json, write_text
from nanohydra.lab.compare import Analysis, compare
from nanohydra.lab.config import Metric
from nanohydra.lab.document import Block, Bullets, Code, Heading, Picture, Table, Text, to_html, to_markdown
from nanohydra.lab.study import ENVIRONMENT
from nanohydra.lab.table import write_csv
from nanohydra.lab.verdict import headline, power_sentence, sentence

METHOD = (
    "Each row starts from the same base and seed as the others. After every stage every domain is measured: R[i, j] is "
    "the metric on domain j after stage i, and row 0 is measured before the first stage. average: mean over all domains "
    "at the end. worst: the domain known worst at the end. forgetting: what a domain has lost since it was known best, mean "
    "over the domains trained before the last stage. backward: the same since it was trained. zero-shot: what earlier stages did "
    "for a domain before it was trained. forward: what a domain gained, when trained, against learning it alone. "
    "intransigence: what joint training reaches on a new domain and the row does not. Losses are in nats a token, the rise of "
    "the perplexity is exp(rise of the loss) - 1. Brackets hold 95% t intervals over seeds."
)


def write_report(results: Results, folder: Path) -> Path:
    """Writes report.md, report.html, pictures, results.json and scores.csv into `folder`; returns report.md's path."""
    pictures: list[Block] = []
    for metric in results.metrics:
        draw_matrices(results, metric, folder / f"matrix-{metric}.png")
        draw_curves(results, metric, folder / f"curves-{metric}.png")
        pictures += [
            Heading(f"{metric}: every row's matrix, and every domain over the stages", 3),
            Picture(
                f"matrix-{metric}.png", f"{metric} on each domain (right) after each stage (down), mean over seeds"
            ),
            Picture(f"curves-{metric}.png", f"{metric} of each domain after each stage, mean over seeds"),
        ]
    scores = score_rows(results)
    analysis = verdicts(results, scores)
    blocks = report_blocks(results, analysis, pictures)
    write_csv(scores, folder / "scores.csv")
    write_json(folder / "results.json", list(_numbers(results)))
    write_text(folder / "report.md", to_markdown(blocks))
    write_text(folder / "report.html", to_html(blocks, folder))
    return folder / "report.md"


def report_blocks(results: Results, analysis: Analysis | None, pictures: Sequence[Block]) -> list[Block]:
    """The whole report."""
    recipe = results.recipe
    blocks: list[Block] = [Heading(recipe.name, 1)]
    if recipe.question:
        blocks.append(Text(recipe.question))
    blocks += [Heading("In short"), Bullets(in_short(results))]
    if results.missing or results.diverged:
        blocks += [Heading("To be known before reading on"), Bullets(_notes(results))]
    for metric in results.metrics:
        blocks += [
            Heading(f"{metric} ({'lower' if metric in LOWER else 'higher'} is better)"),
            _measures(results, metric),
        ]
    blocks += [Heading("At the end, by domain")]
    blocks += [block for metric in results.metrics for block in (Heading(metric, 3), _by_domain(results, metric))]
    blocks += [Heading("What it cost"), Text(COST), _costs(results)]
    if analysis is not None:
        blocks += [Heading("Verdicts"), Text(headline(analysis)), Bullets([sentence(c) for c in analysis.comparisons])]
        powers = [f"{c.variant}: {p}" for c in analysis.comparisons if (p := power_sentence(c))]
        blocks += [Heading("What these seeds can show", 3), Bullets(powers)] if powers else []
    blocks += [Heading("Pictures"), *pictures, Heading("How it was measured"), Text(METHOD)]
    return [
        *blocks,
        Heading("How to have it again"),
        Text(f"{len(recipe.seeds)} seeds: {', '.join(map(str, recipe.seeds))}. The recipe lies beside this page."),
        Code("nanohydra continual run recipe.yaml --out AGAIN"),
        Heading("Environment"),
        Bullets(_environment(results.environments)),
    ]


COST = (
    "Bytes are what is kept at the end beside one model of the base's size, over the number of new domains. Seconds are those "
    "of training a domain and of what the strategy does around it, measuring apart; of the wall's clock, which runs on "
    "where the machine is shared, and of the processor's."
)


def in_short(results: Results) -> list[str]:
    """The best rows in figures, each beside the baseline's."""
    recipe = results.recipe
    told = []
    metric = recipe.metric
    sign = -1 if metric in LOWER else 1
    rows = [row for row in results.rows if row not in _references(results)]
    averages = {row: results.over_seeds(row, lambda run: run.matrices[metric].average()) for row in rows}
    best = max(averages, key=lambda row: sign * averages[row].value)
    told.append(
        f"Best {metric} at the end over all domains: {best}, {show(averages[best])}; {_beside(results, averages)}."
    )
    worst = {row: results.over_seeds(row, lambda run: run.matrices[metric].worst()) for row in rows}
    best = max(worst, key=lambda row: sign * worst[row].value)
    told.append(
        f"Best {metric} on the domain that is known worst: {best}, {show(worst[best])}; {_beside(results, worst)}."
    )
    if any("loss" in run.matrices for run in results.runs):
        rises = {row: results.over_seeds(row, first_rise) for row in rows}
        first = next(run.matrices["loss"].domains[0] for run in results.runs if "loss" in run.matrices)
        told.append(
            f"The perplexity of the first domain ({first}) rose by: "
            + "; ".join(
                f"{row} {show(rises[row], percent=True)}" for row in sorted(rows, key=lambda row: rises[row].value)
            )
            + "."
        )
    return told


def first_rise(run: Run) -> float:
    """By what share the perplexity of the first domain rose from its own stage's end to the last; NaN without a loss."""
    matrix = run.matrices.get("loss")
    return math.nan if matrix is None else math.exp(matrix.values[-1, 0] - matrix.when_trained()[0]) - 1


def score_rows(results: Results) -> list[dict[str, Any]]:
    """One line a run, for `lab compare` and for spreadsheets."""
    alone, joint = results.reference("alone"), results.reference("joint")
    lines = []
    for run in results.runs:
        line: dict[str, Any] = {"variant": run.row, "seed": run.seed}
        for metric, matrix in run.matrices.items():
            values = {
                name: measure(run.seed, matrix) for name, measure in _measure_functions(metric, alone, joint).items()
            }
            line |= {f"{metric} {name}": value for name, value in values.items() if not math.isnan(value)}
        line |= {"first domain's perplexity rise": first_rise(run)} if "loss" in run.matrices else {}
        line |= {"bytes per domain": run.bytes_per_domain(), "seconds per domain": run.seconds_per_domain()}
        lines.append(line)
    lines += [
        {"variant": row, "seed": seed, "status": "diverged", "reason": why} for row, seed, why in results.diverged
    ]
    return lines


def verdicts(results: Results, scores: Sequence[dict[str, Any]]) -> Analysis | None:
    """The lab's comparison of rows with the baseline in the recipe's metric; None where there is nothing to compare."""
    recipe, name = results.recipe, f"{results.recipe.metric} average"
    rows = [row for row in results.rows if row not in _references(results)]
    if recipe.compared:
        rows = [row for row in rows if row in recipe.compared or row.split(" ")[0] in recipe.compared]
    wanted = {recipe.baseline, *rows}
    lines = [{k: v for k, v in line.items() if k in ("variant", "seed", "status", "reason", name)} for line in scores]
    lines = [line for line in lines if line["variant"] in wanted]
    if recipe.baseline not in {line["variant"] for line in lines} or len({line["variant"] for line in lines}) < 2:
        return None
    direction = "lower" if recipe.metric in LOWER else "higher"
    return compare(lines, [Metric(name, direction)], baseline=recipe.baseline)  # type: ignore[arg-type]


# ---------------------------------------------------------------- tables


def _measure_functions(
    metric: str, alone: dict[int, Run], joint: dict[int, Run]
) -> dict[str, Callable[[int, Any], float]]:
    """The columns of a metric's table: name -> f(seed, matrix)."""

    def plain(name: str) -> Callable[[int, Any], float]:
        return lambda _, matrix: getattr(matrix, name)()

    def against(reference: dict[int, Run], name: str) -> Callable[[int, Any], float]:
        def measure(seed: int, matrix: Any) -> float:
            other = reference[seed].matrices.get(metric) if seed in reference else None
            return math.nan if other is None else getattr(matrix, name)(other)

        return measure

    columns = {name: plain(name) for name in ("average", "worst", "forgetting")}
    columns |= {"backward": plain("backward_transfer"), "zero-shot": plain("zero_shot_transfer")}
    if alone:
        columns["forward"] = against(alone, "forward_transfer")
    if joint:
        columns["intransigence"] = against(joint, "intransigence")
    return columns


def _measures(results: Results, metric: str) -> Table:
    columns = _measure_functions(metric, results.reference("alone"), results.reference("joint"))
    lines = []
    for row in results.rows:
        runs = {seed: run.matrices[metric] for seed, run in results.of(row).items() if metric in run.matrices}
        cells = [show(mean(measure(seed, matrix) for seed, matrix in runs.items())) for measure in columns.values()]
        lines.append([row, *cells])
    return Table(["row", *columns], lines)


def _by_domain(results: Results, metric: str) -> Table:
    sample = next(run.matrices[metric] for run in results.runs if metric in run.matrices)
    lines = []
    for row in results.rows:
        runs = [run.matrices[metric] for run in results.of(row).values() if metric in run.matrices]
        lines.append([row, *(show(mean(float(m.values[-1, j]) for m in runs)) for j in range(len(sample.domains)))])
    return Table(["row", *sample.domains], lines)


def _costs(results: Results) -> Table:
    kinds = list(dict.fromkeys(kind for run in results.runs for kind in run.stored[-1]))
    lines = []
    for row in results.rows:
        by_kind = [
            results.over_seeds(row, lambda run, kind=kind: run.stored[-1].get(kind, 0) / run.stages).value
            for kind in kinds
        ]
        lines.append(
            [
                row,
                f"{results.over_seeds(row, Run.bytes_per_domain).value:,.0f}",
                ", ".join(f"{kind} {value:,.0f}" for kind, value in zip(kinds, by_kind) if value) or "nothing",
                show(results.over_seeds(row, Run.seconds_per_domain)),
                show(results.over_seeds(row, lambda run: run.seconds_per_domain(cpu=True))),
            ]
        )
    return Table(["row", "bytes a domain", "of these", "seconds a domain", "processor's seconds a domain"], lines)


def show(estimate: Estimate, percent: bool = False) -> str:
    """A mean with its interval, in 3 digits."""
    scale, unit = (100.0, "%") if percent else (1.0, "")

    def text(x: float) -> str:
        return f"{scale * x:.3g}{unit}"

    if math.isnan(estimate.value):
        return ""
    if not math.isfinite(estimate.low):
        return text(estimate.value)
    return f"{text(estimate.value)} [{text(estimate.low)}, {text(estimate.high)}]"


def _beside(results: Results, found: dict[str, Estimate]) -> str:
    baseline = results.recipe.baseline
    return f"{baseline}'s is {show(found[baseline])}" if baseline in found else "no baseline was run"


def _references(results: Results) -> set[str]:
    """Rows that are no strategies to choose: joint training and learning alone."""
    return {
        row
        for row, settings in results.recipe.strategies.items()
        if settings.get("strategy", row) in ("joint", "alone")
    }


def _notes(results: Results) -> list[str]:
    notes = [f"{row} seed {seed} diverged: {why}" for row, seed, why in results.diverged]
    if results.missing:
        first = ", ".join(results.missing[:5])
        notes.append(f"{len(results.missing)} runs have no result yet ({first}): the experiment is not finished.")
    return notes


def _numbers(results: Results) -> Iterable[dict[str, Any]]:
    """Every run in full, for programs."""
    for run in results.runs:
        yield {
            "row": run.row,
            "seed": run.seed,
            "matrices": {m: {"domains": x.domains, "R": x.values.tolist()} for m, x in run.matrices.items()},
            "stored": list(run.stored),
            "stage_seconds": list(run.stage_seconds),
            "cpu_seconds": list(run.cpu_seconds),
        }


def _environment(paths: Iterable[Path]) -> list[str]:
    """Every property of the runs' machines and versions, with all values met."""
    found: dict[str, dict[str, None]] = {}
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for key in ENVIRONMENT:
            value = values.get(key)
            if key == "git" and value:
                value = value["revision"][:10] + (" with uncommitted changes" if value["dirty"] else "")
            if value not in (None, [], ""):
                found.setdefault(key, {})[str(value)] = None
    return [f"{key}: {' / '.join(values)}" for key, values in found.items()]
