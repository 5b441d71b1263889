"""Charts as inline SVG and heat maps as tiny PNGs: drawn here, so that they need no script and follow the theme."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

Points = Sequence[tuple[float, float]]
COLOURS = 8


@dataclass(frozen=True)
class Frame:
    """Where things stand in a chart's own units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: int
    y_ticks: int


WIDE = Frame(860, 300, 58, 842, 14, 262, 7, 5)
SMALL = Frame(290, 172, 44, 284, 10, 138, 4, 4)


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Points
    colour: int = 0
    """Which of the theme's colours."""
    faint: bool = False
    """Background of another line: drawn thin, without values under the pointer."""
    legend: bool = True
    """Whether the legend names it."""


@dataclass(frozen=True)
class _Scale:
    """From values to places in the frame; logarithmic values are in decades."""

    frame: Frame
    x0: float
    x1: float
    y0: float
    y1: float
    log_y: bool
    whole_x: bool = False

    def x(self, value: float) -> float:
        return self.frame.left + (value - self.x0) / (self.x1 - self.x0) * (self.frame.right - self.frame.left)

    def y(self, value: float) -> float:
        share = (value - self.y0) / (self.y1 - self.y0)
        share = min(max(share, -0.02), 1.02)  # spikes of a faint line are cut off at the frame
        return self.frame.bottom - share * (self.frame.bottom - self.frame.top)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return round(self.x(x), 1), round(self.y(math.log10(y) if self.log_y else y), 1)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    small: bool = False,
    whole_x: bool = False,
    show_y: Sequence[float] = (),
) -> str:
    """HTML of a chart with axes, legend and, under the pointer, the values (static/app.js). whole_x: x is a count. show_y:
    values that the vertical axis holds in any case."""
    if log_y:
        series = [replace(s, points=[(x, y) for x, y in s.points if y > 0]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return '<p class="soft">Nothing was measured yet.</p>'
    frame = SMALL if small else WIDE
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series if not s.faint for _, y in s.points] or [y for s in series for _, y in s.points]
    ys += show_y
    if log_y:
        ys = [math.log10(y) for y in ys]
    scale = _Scale(frame, *_widened(min(xs), max(xs), 0), *_widened(min(ys), max(ys), 0.06), log_y, whole_x)
    parts = [*_grid(scale), *_labels(frame, x_label, y_label), *(_line(s, scale) for s in series)]
    lines = [_values(s, scale, x_label) for s in series if not s.faint]
    data = escape(json.dumps({"width": frame.width, "top": frame.top, "bottom": frame.bottom, "lines": lines}))
    words = escape(_spoken(series, x_label, y_label))
    svg = f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
    return f'<div class="chart{"" if small else " broad"}" data-plot="{data}">{svg}</div>{_legend(series)}'


def _line(series: Series, scale: _Scale) -> str:
    placed = [scale.place(x, y) for x, y in series.points]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in placed)
    colour = f"var(--c{series.colour % COLOURS})"
    line = f'<path class="{"faint" if series.faint else "line"}" d="{path}" stroke="{colour}"/>'
    if series.faint or len(placed) > 12:
        return line
    return line + "".join(f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="4" fill="{colour}"/>' for x, y in placed)


def _values(series: Series, scale: _Scale, x_label: str) -> dict[str, object]:
    """What the script shows of a line: places, and the values there as text."""
    points = [[*scale.place(x, y), f"{x_label} {x:,.6g}", f"{y:.4g}"] for x, y in series.points]
    return {"name": series.name, "colour": f"var(--c{series.colour % COLOURS})", "points": points}


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """An interval that is not empty, with a margin."""
    if high == low == 0:
        return 0.0, 1.0
    if high == low:
        return low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    return low - share * (high - low), high + share * (high - low)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within an interval, about `count`."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(scale: _Scale) -> list[str]:
    frame, parts = scale.frame, []
    for value in ticks(scale.y0, scale.y1, frame.y_ticks):
        y = scale.y(value)
        shown = f"{10**value:.2g}" if scale.log_y else _short(value)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>')
    for value in ticks(scale.x0, scale.x1, frame.x_ticks):
        if scale.whole_x and value != round(value):
            continue
        x = scale.x(value)
        parts.append(f'<text x="{x:.1f}" y="{frame.bottom + 18}" text-anchor="middle">{_short(value)}</text>')
    return parts


def _labels(frame: Frame, x_label: str, y_label: str) -> list[str]:
    middle = (frame.top + frame.bottom) / 2
    across = (frame.left + frame.right) / 2
    parts = [f'<text x="{across}" y="{frame.height - 2}" text-anchor="middle">{escape(x_label)}</text>']
    if y_label:
        turned = f'text-anchor="middle" transform="rotate(-90 14 {middle})"'
        parts.append(f'<text x="14" y="{middle}" {turned}>{escape(y_label)}</text>')
    return parts


def _legend(series: Sequence[Series]) -> str:
    shown = [s for s in series if not s.faint and s.legend]
    if len(shown) < 2:
        return ""
    rows = (f'<span><i style="background:var(--c{s.colour % COLOURS})"></i>{escape(s.name)}</span>' for s in shown)
    return f'<div class="legend">{"".join(rows)}</div>'


def _spoken(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """The chart in words."""
    words = [f"{s.name} from {s.points[0][1]:.3g} to {s.points[-1][1]:.3g}" for s in series if not s.faint]
    return f"{y_label or 'value'} over {x_label}: {'; '.join(words)}"


def _short(value: float) -> str:
    """An axis label: 1,500,000 as 1.5M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.4g}"


def data_table(series: Sequence[Series], x_label: str, unit: str = "") -> str:
    """The same values as a table, for those who cannot see the chart."""
    xs = sorted({x for s in series for x, _ in s.points})
    heads = "".join(f'<th scope="col" class="number">{escape(s.name)}</th>' for s in series)
    values = [dict(s.points) for s in series]
    rows = "".join(
        f'<tr><th scope="row">{x:g}</th>'
        + "".join(f'<td class="number">{f"{v[x]:.4g}{unit}" if x in v else "–"}</td>' for v in values)
        + "</tr>"
        for x in xs
    )
    head = f'<thead><tr><th scope="col">{escape(x_label)}</th>{heads}</tr></thead>'
    return (
        f'<details class="as-table"><summary>As a table</summary><div class="scroll-x" tabindex="0">'
        f'<table class="table">{head}<tbody>{rows}</tbody></table></div></details>'
    )


def interval_bar(value: float, low: float, high: float, first: float, last: float) -> str:
    """A value with its interval on a scale from `first` to `last`, as SVG."""
    span = (last - first) or 1.0
    a, v, b = (2 + 96 * min(max((x - first) / span, 0), 1) for x in (low, value, high))
    return (
        '<svg class="interval" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect x="0" y="4.5" width="100" height="1" fill="var(--line)"/>'
        f'<rect x="{a:.2f}" y="3" width="{max(b - a, 0.5):.2f}" height="4" rx="1" fill="var(--accent)" opacity=".35"/>'
        f'<rect x="{v - 0.7:.2f}" y="1" width="1.4" height="8" rx=".5" fill="var(--accent)"/></svg>'
    )


def heat_map(columns: Sequence[Sequence[float]]) -> str:
    """A PNG as a data address: each column a sample, each row a bin (the first at the foot), brightness the logarithm of the
    share in thousandths."""
    height = len(columns[0])
    rows = b""
    for y in reversed(range(height)):
        rows += b"\0" + bytes(_level(column[y]) for column in columns)
    header = struct.pack(">IIBBBBB", len(columns), height, 8, 3, 0, 0, 0)  # 8 bits, a palette
    palette = b"".join(bytes(_colour(i / 255)) for i in range(256))
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _level(share: float) -> int:
    return round(255 * min(max(math.log10(max(share, 1)) / 3, 0), 1))


def _colour(x: float) -> tuple[int, int, int]:
    """From night through the house green to paper."""
    stops = ((0.0, (17, 24, 23)), (0.45, (12, 106, 91)), (0.8, (116, 206, 183)), (1.0, (250, 248, 236)))
    for (a, low), (b, high) in pairwise(stops):
        if x <= b:
            t = (x - a) / (b - a)
            r, g, bl = (round(p + t * (q - p)) for p, q in zip(low, high))
            return r, g, bl
    return stops[-1][1]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
