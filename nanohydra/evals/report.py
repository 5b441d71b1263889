"""The report card of a run: report.json for programs, report.md for people, and a plot of the loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanohydra.evals.intervals import Estimate
from nanohydra.files import atomic_path, write_json, write_text


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, oldest first; a last line that was cut off by a crash is left out."""
    rows = []
    path = run_dir / "metrics.jsonl"
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_report(
    folder: Path,
    title: str,
    estimates: Mapping[str, Estimate],
    *,
    meaning: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
    samples: Sequence[tuple[str, str]] = (),
    run_dir: Path | None = None,
) -> None:
    """Writes `report.json` (each estimate as value, n, low, high), `report.md` and, with a run, `loss.png`.

    Args:
        folder: where the files go.
        title: heading of report.md.
        estimates: the measurements.
        meaning: what a measurement's name means, a line each, for report.md.
        details: what else belongs in report.json (seed, config, versions).
        samples: (prompt, answer) pairs, shown as they came.
        run_dir: the run whose metrics.jsonl is plotted.
    """
    meaning = meaning or {}
    plotted = run_dir is not None and plot_loss(run_dir, folder / "loss.png")
    report: dict[str, Any] = {name: e.to_dict() for name, e in estimates.items()}
    report["details"] = dict(details or {})
    report["samples"] = [{"prompt": p, "answer": a} for p, a in samples]
    write_json(folder / "report.json", report)
    lines = [f"# {title}", "", "| measure | value | 95% interval | n | what it is |", "|---|---:|---|---:|---|"]
    for name, e in estimates.items():
        interval = f"{_number(e.low)} to {_number(e.high)}" if e.to_dict()["low"] is not None else "one measurement"
        lines.append(f"| {name} | {_number(e.value)} | {interval} | {e.n:,} | {meaning.get(name, '')} |")
    if plotted:
        lines += ["", "![loss](loss.png)"]
    if samples:
        lines += ["", "## Samples", ""]
        for prompt, answer in samples:
            lines += [f"**{prompt}**", "", *(f"> {line}" for line in (answer or "(nothing)").splitlines()), ""]
    if details:
        lines += ["", "## Details", "", *(f"- {name}: {value}" for name, value in details.items())]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def plot_loss(run_dir: Path, target: Path) -> bool:
    """Draws the training loss (and val_loss where there is one) over tokens; False when nothing was logged."""
    rows = read_metrics(run_dir)
    train = [(row["tokens"], row["loss"]) for row in rows if row.get("loss") is not None]
    held_out = [(row["tokens"], row["val_loss"]) for row in rows if row.get("val_loss") is not None]
    if not train:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*train, strict=True), color="#9db4c0", linewidth=0.8, label="training batch")
    smooth = _smoothed([loss for _, loss in train])
    axes.plot([tokens for tokens, _ in train], smooth, color="#253237", label="training, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="#c8553d", markersize=4, label="validation")
    axes.set(xlabel="tokens", ylabel="loss (nats a token)")
    axes.legend(frameon=False)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return True


def _smoothed(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start (as Adam corrects its moments)."""
    average, out = 0.0, []
    for i, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**i))
    return out


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"
