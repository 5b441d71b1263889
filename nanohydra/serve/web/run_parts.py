"""Parts of a run's page: report card, samples, diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from nanohydra.serve.web.charts import Series, heat_map, interval_bar, line_chart
from nanohydra.serve.web.run_files import read_json, thinned
from nanohydra.serve.web.theme import el, raw
from nanohydra.train.diagnostics_log import DiagnosticsLog, histogram_edges, read_diagnostics
from nanohydra.train.diagnostics_rules import layer_name

_MEASURES = (
    ("layers", "std", "Activation standard deviation", False),
    ("parameters", "gradient", "Gradient norm", True),
    ("parameters", "update", "Update over weight", True),
    ("attention", "entropy", "Attention entropy (nats)", False),
    ("layers", "dead", "Dead share", False),
    ("layers", "saturated", "Saturated share", False),
)
_LINES = 8
"""Most lines in one chart: of more layers, evenly chosen ones are drawn."""


def metric_value(value: Any) -> str:
    """A number as tables show it."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


async def report_card(folder: Path) -> None:
    """The measurements with their 95% intervals."""
    report = await run_in_threadpool(read_json, folder / "report.json")
    rows = {name: v for name, v in report.items() if isinstance(v, dict) and "value" in v}
    if not rows:
        return
    el("h2", text="Report card")
    with el("div", "card"), el("div", "scroll-x"), el("table", "table"):
        with el("thead"), el("tr"):
            for title, kind in (
                ("Measure", ""),
                ("Value", "number"),
                ("", "wide"),
                ("95% interval", "wide"),
                ("n", "number wide"),
            ):
                el("th", kind, title, scope="col" if title else None)
        with el("tbody"):
            for name, value in rows.items():
                _measure(name, value)


def _measure(name: str, estimate: dict[str, Any]) -> None:
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    with el("tr"):
        el("th", text=name.replace("_", " "), scope="row")
        el("td", "number", metric_value(value))
        if low is None or high is None:
            el("td", "wide")
            el("td", "soft wide", "one measurement")
        else:
            share = low >= 0 and high <= 1
            with el("td", "wide"):
                raw(interval_bar(value, low, high, 0, 1 if share else high * 1.2 or 1))
            el("td", "soft wide", f"{metric_value(low)} to {metric_value(high)}")
        el("td", "number wide", f"{estimate.get('n', 0):,}")


async def samples(folder: Path) -> None:
    """What the model answered at the end, as it came."""
    found = (await run_in_threadpool(read_json, folder / "report.json")).get("samples")
    if not isinstance(found, list) or not found:
        return
    el("h2", text="Samples")
    with el("div", "cards"):
        for sample in found[:12]:
            with el("div", "card sample"):
                el("p", "soft", str(sample.get("prompt", "")))
                el("p", text=str(sample.get("answer", "")) or "(nothing)")


async def diagnostics(folder: Path) -> None:
    """Warnings, curves of the layers, and activation histograms over the steps."""
    log = await run_in_threadpool(read_diagnostics, folder)
    if not log.records and not log.findings:
        return
    el("h2", text="Diagnostics")
    for finding in log.findings[:10]:
        el("p", "finding", f"Step {finding.step:,}: {finding.text}")
    with el("div", "cards broad"):
        for group, field, title, log_y in _MEASURES:
            series = _layer_series(log, group, field)
            if series:
                with el("div", "card"):
                    el("h3", text=title)
                    raw(line_chart(series, "step", "", log_y=log_y, small=True))
    if any(record["layers"] for record in log.records):
        _histograms(log.records)


def _layer_series(log: DiagnosticsLog, group: str, field: str) -> list[Series]:
    found = log.series(group, field)
    names = list(found)
    chosen = (
        sorted({round(i * (len(names) - 1) / (_LINES - 1)) for i in range(_LINES)})
        if len(names) > _LINES
        else range(len(names))
    )
    return [Series(layer_name(names[i]), thinned(found[names[i]], 200), n) for n, i in enumerate(chosen)]


def _histograms(records: Sequence[dict[str, Any]]) -> None:
    edges = histogram_edges()
    names = list(dict.fromkeys(name for record in records for name in record["layers"]))
    el("h3", text="Activations")
    ends = f"{edges[0]:.0f} to {edges[-1]:.0f}"
    el("p", "soft", f"Steps go to the right, values from {ends} up, fine near zero in the middle; bright is frequent.")
    with el("div", "heats"):
        for name in names:
            of_layer = [r for r in records if name in r["layers"]]
            columns = [r["layers"][name]["histogram"] for r in of_layer]
            label = f"{layer_name(name)} ({of_layer[0]['layers'][name]['kind']})"
            first, last = of_layer[0]["step"], of_layer[-1]["step"]
            with el("figure", "heat"):
                el("figcaption", text=label)
                raw(f'<img src="{heat_map(columns)}" alt="Histogram of {escape(label)} over steps {first} to {last}">')
                with el("div", "ends"):
                    el("span", text=f"step {first:,}")
                    el("span", text=f"step {last:,}")
