"""The report's pictures, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanohydra.files import atomic_path
from nanohydra.lab.compare import Analysis, Array
from nanohydra.lab.verdict import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
"""Told apart by colour-blind readers too (Okabe and Ito 2008)."""

Curve = tuple[Array, Array]
"""Tokens (or steps) and losses of one run."""


def draw_points(analysis: Analysis, target: Path) -> None:
    """Every seed as a point, runs of one seed joined by a line; beside them each variant's mean with its interval."""
    figure, axes = _grid(len(analysis.metrics), columns=2, width=max(4.5, 1.1 * len(analysis.variants) + 1))
    for ax, metric in zip(axes, analysis.metrics):
        summaries = [s for s in analysis.summaries if s.metric == metric.name]
        for unit in analysis.units:
            have = [(x, s.by_unit[unit]) for x, s in enumerate(summaries) if unit in s.by_unit]
            ax.plot(*zip(*have), color="#bbbbbb", linewidth=0.7, zorder=1) if have else None
        for x, s in enumerate(summaries):
            color = COLORS[x % len(COLORS)]
            ax.scatter([x] * len(s.by_unit), list(s.by_unit.values()), s=18, color=color, alpha=0.8, zorder=2)
            if math.isfinite(s.mean.low):
                error = [[s.mean.value - s.mean.low], [s.mean.high - s.mean.value]]
                ax.errorbar([x + 0.18], [s.mean.value], error, fmt="o", color=color, capsize=3, markersize=5, zorder=3)
        ax.set_xticks(range(len(summaries)), [s.variant for s in summaries], rotation=30, ha="right")
        ax.set(ylabel=metric.name, title=f"{metric.name} ({metric.direction} is better)")
        ax.set_xlim(-0.5, len(summaries) - 0.5)
    _save(figure, target)


def draw_differences(analysis: Analysis, target: Path) -> bool:
    """The bootstrap distribution of each mean improvement, with its t interval; False when none could be had."""
    shown = [c for c in analysis.comparisons if len(c.histogram[1]) > 1]
    if not shown:
        return False
    figure, axes = _grid(len(shown), columns=2 if len(shown) == 4 else 3, width=4.0)
    for ax, c in zip(axes, shown):
        edges, counts = np.array(c.histogram[0]), np.array(c.histogram[1])
        color = COLORS[analysis.variants.index(c.variant) % len(COLORS)]
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=color, alpha=0.5)
        ax.axvline(0, color="black", linewidth=0.8)
        height = 1.06 * counts.max()
        ax.plot(
            [c.difference.low, c.difference.high], [height, height], color=color, linewidth=3, solid_capstyle="butt"
        )
        ax.plot([c.difference.value], [height], "o", color=color)
        ax.set(title=f"{c.metric.name}: {c.variant} against {c.baseline}", yticks=[])
        ax.set_xlabel(f"improvement {number(c.difference.value)} (right of 0: {c.variant} is better)", fontsize=8)
        ax.title.set_fontsize(9)
    _save(figure, target)
    return True


def draw_curves(curves: Mapping[str, Sequence[Curve]], x_name: str, y_name: str, target: Path) -> None:
    """Each variant's mean curve over its runs, and the band from the lowest to the highest of them."""
    figure, (ax,) = _grid(1, columns=1, width=7.0)
    for i, (variant, runs) in enumerate(curves.items()):
        x, losses = on_one_grid(runs)
        color = COLORS[i % len(COLORS)]
        ax.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.18, linewidth=0)
        ax.plot(x, losses.mean(axis=0), color=color, linewidth=1.4, label=f"{variant} ({len(runs)})")
    ax.set(xlabel=x_name, ylabel=y_name)
    ax.legend(frameon=False, title="variant (runs)")
    _save(figure, target)


def on_one_grid(runs: Sequence[Curve], points: int = 200) -> tuple[Array, Array]:
    """Runs logged at different places, interpolated where all of them have values: (points,), (runs, points)."""
    start, end = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    x = np.linspace(start, max(start, end), points)
    return x, np.stack([np.interp(x, own, losses) for own, losses in runs])


def _grid(n: int, columns: int, width: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def _save(figure: Figure, target: Path) -> None:
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
