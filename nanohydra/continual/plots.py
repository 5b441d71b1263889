"""The pictures of an experiment: a heat map of every row's matrix, and what becomes of each domain over the stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanohydra.continual.results import Results
from nanohydra.files import atomic_path
from nanohydra.lab.plots import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":")


def draw_matrices(results: Results, metric: str, target: Path) -> None:
    """R[i, j], its mean over seeds, for every row: stages downward, domains to the right."""
    rows = [row for row in results.rows if any(metric in run.matrices for run in results.of(row).values())]
    means = [_mean_matrix(results, row, metric) for row in rows]
    domains = next(run.matrices[metric].domains for run in results.runs if metric in run.matrices)
    low, high = min(float(m.min()) for m in means), max(float(m.max()) for m in means)
    figure, axes = _grid(len(rows), columns=4, size=(0.62 * len(domains) + 1.1, 0.42 * len(means[0]) + 0.9))
    dark = results.recipe.metric != "loss" and metric != "loss"
    for ax, row, matrix in zip(axes, rows, means):
        ax.imshow(matrix, cmap="viridis" if dark else "viridis_r", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(matrix):
            place = (value - low) / max(high - low, 1e-12)
            color = "white" if (place < 0.6) == dark else "black"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
        ax.set_title(row, fontsize=9)
        ax.set_xticks(range(len(domains)), domains, fontsize=6, rotation=30, ha="right")
        ax.set_yticks(range(len(matrix)), [str(i) for i in range(len(matrix))], fontsize=6)
    _save(figure, target)


def draw_curves(results: Results, metric: str, target: Path) -> None:
    """One picture a domain: every row's mean over seeds after each stage; a line marks the stage that trains it."""
    sample = next(run.matrices[metric] for run in results.runs if metric in run.matrices)
    figure, axes = _grid(len(sample.domains), columns=3, size=(4.0, 3.0))
    for j, (ax, domain) in enumerate(zip(axes, sample.domains)):
        for i, row in enumerate(results.rows):
            matrix = _mean_matrix(results, row, metric)
            style = STYLES[i // len(COLORS) % len(STYLES)]
            ax.plot(matrix[:, j], style, color=COLORS[i % len(COLORS)], linewidth=1.2, label=row)
        ax.axvline(sample.trained[j], color="#bbbbbb", linewidth=0.8, zorder=0)
        ax.set_title(domain, fontsize=9)
        ax.set_xlabel("after stage", fontsize=8)
        ax.set_ylabel(metric, fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    _save(figure, target)


def _mean_matrix(results: Results, row: str, metric: str) -> Any:
    return np.mean([run.matrices[metric].values for run in results.of(row).values() if metric in run.matrices], axis=0)


def _grid(n: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(n, columns)
    lines = -(-n // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * lines + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Any] = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def _save(figure: Figure, target: Path) -> None:
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
