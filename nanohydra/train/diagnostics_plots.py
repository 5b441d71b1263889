"""Pictures of a run's diagnostics: curves for each layer over time, and activation histograms as heat maps."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanohydra.errors import UserError
from nanohydra.files import atomic_path
from nanohydra.train.diagnostics_log import DiagnosticsLog, histogram_edges, read_diagnostics
from nanohydra.train.diagnostics_rules import layer_name

CURVES = {  # (group, field): title
    ("layers", "std"): "activation standard deviation",
    ("layers", "mean"): "activation mean",
    ("layers", "saturated"): "saturated share",
    ("layers", "dead"): "dead share",
    ("parameters", "gradient"): "gradient norm",
    ("parameters", "update"): "update / weight",
    ("attention", "entropy"): "attention entropy (nats)",
}
_LOGARITHMIC = ("gradient", "update")
_LEGEND = 12  # more lines than this get no legend: only the colour, from the first layer to the last


def plot_diagnostics(folder: Path, out: Path | None = None) -> list[Path]:
    """Draws diagnostics.jsonl of a run folder into `out` (the run folder itself when None); returns the files written.

    diagnostics-curves.png: one panel for each measurement. diagnostics-histograms.png: one heat map for each layer,
    steps across, activation values up, brightness the share. UserError where there is nothing to draw.
    """
    log = read_diagnostics(folder)
    if not log.records:
        raise UserError(f"{folder} has no diagnostics. Train with the Diagnostics hook to get some.")
    target = Path(out or folder)
    files = [target / "diagnostics-curves.png", target / "diagnostics-histograms.png"]
    for path, figure in zip(files, (draw_curves(log), draw_histograms(log))):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return files


def draw_curves(log: DiagnosticsLog) -> Figure:
    """Loss, logit scale and each measurement of CURVES that the run has, over steps."""
    panels = {title: log.series(*key) for key, title in CURVES.items()}
    panels = {title: series for title, series in panels.items() if series}
    panels["logit standard deviation"] = {"": [(r["step"], r["logits"]["std"]) for r in log.records if r["logits"]]}
    panels["loss"] = {"": [(r["step"], r["loss"]) for r in log.records]}
    figure = Figure(figsize=(15, 3.6 * -(-len(panels) // 3)), layout="constrained")
    for i, (title, series) in enumerate(panels.items()):
        axes = figure.add_subplot(-(-len(panels) // 3), 3, i + 1, title=title, xlabel="step")
        _draw_lines(axes, series)
        if any(title == CURVES[key] and key[1] in _LOGARITHMIC for key in CURVES):
            axes.set_yscale("log", nonpositive="mask")
    for finding in log.findings:
        for axes in figure.axes:
            axes.axvline(finding.step, color="red", linewidth=0.8, alpha=0.3)
    if log.findings:
        figure.suptitle("\n".join(f"step {f.step}: {f.text}" for f in log.findings[:5]), fontsize=9, color="red")
    return figure


def _draw_lines(axes: Axes, series: dict[str, list[tuple[int, float]]]) -> None:
    colours = matplotlib.colormaps["viridis"]
    for i, (name, points) in enumerate(series.items()):
        steps, values = zip(*points)
        axes.plot(steps, values, color=colours(i / max(len(series) - 1, 1)), label=layer_name(name), linewidth=1)
    if 1 < len(series) <= _LEGEND:
        axes.legend(fontsize=6)


def draw_histograms(log: DiagnosticsLog) -> Figure:
    """One heat map a layer: log share of activations in each bin, over the sampled steps."""
    names = list(dict.fromkeys(name for record in log.records for name in record["layers"]))
    columns = min(4, max(len(names), 1))
    rows = -(-len(names) // columns) or 1
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    edges = histogram_edges()
    for i, name in enumerate(names):
        records = [r for r in log.records if name in r["layers"]]
        layers = [record["layers"][name] for record in records]
        shares = numpy.array([layer["histogram"] for layer in layers], dtype=float).T / 1000
        axes = figure.add_subplot(rows, columns, i + 1, title=f"{layer_name(name)} ({layers[0]['kind']})")
        # Samples stand side by side, not to scale: the first, dense ones would vanish.
        axes.imshow(numpy.log10(shares + 1e-3), origin="lower", aspect="auto", cmap="magma", vmin=-3, vmax=0)
        values = (-10, -1, -0.1, 0, 0.1, 1, 10)
        places = numpy.interp(values, edges, numpy.arange(len(edges)) - 0.5)
        axes.set_yticks(places, [f"{value:g}" for value in values], fontsize=6)
        shown = range(0, len(records), max(1, len(records) // 6))
        axes.set_xticks(list(shown), [str(records[j]["step"]) for j in shown], fontsize=6)
    return figure
