"""The runs pages: the list, one run with live curves, diagnostics and report card, and runs side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.element import Element
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.home import runs_dir
from nanohydra.serve.web.charts import COLOURS, Series, line_chart
from nanohydra.serve.web.run_files import (
    RunInfo,
    Tail,
    find_runs,
    flat,
    open_run,
    read_config,
    read_json,
    smoothed,
    thinned,
)
from nanohydra.serve.web.run_parts import diagnostics, metric_value, report_card, samples
from nanohydra.serve.web.theme import BUILD_SECONDS, button, choice, el, empty, page, raw, sheet, short_number
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of

LIVE_SECONDS = 2.0
"""How often curves look for new lines."""
AXES = {"step": "steps", "tokens": "tokens", "seconds": "seconds"}
_CHARTS = (
    ("grad_norm", "gradient norm", True),
    ("lr", "learning rate", False),
    ("tokens_per_second", "tokens a second", False),
)


_COLUMNS = (
    ("Run", ""),
    ("State", "wide"),
    ("Step", "number"),
    ("Loss", "number"),
    ("Val loss", "number wide"),
    ("Tokens", "number wide"),
    ("Last line", "wide"),
)


def _page(visitor: Visitor) -> Any:
    return page("runs", visitor.principal.name, visitor.principal.token_id is not None)


@ui.page("/runs", title="Runs · nanohydra", response_timeout=BUILD_SECONDS)
async def runs_page(request: Request) -> Response | None:
    """All runs."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    found = await run_in_threadpool(find_runs, runs_dir())
    with (
        _page(visitor),
        sheet("Runs", "Every training on this machine. Choose two or more to lay their curves over each other."),
    ):
        if not found:
            empty("Nothing was trained here yet.", "nanohydra speedrun")
        else:
            _table(found)
    return None


def _table(found: Sequence[RunInfo]) -> None:
    chosen: list[str] = []
    with el("div", "card"):
        with el("div", "row"):
            hint = el("span", "soft", f"{len(found)} runs")
            go = el("a", "primary", "Compare", href="#")
        go.set_visibility(False)

        def choose(name: str, yes: bool) -> None:
            if yes and name not in chosen:
                chosen.append(name)
            elif not yes and name in chosen:
                chosen.remove(name)
            go.set_visibility(len(chosen) > 1)
            go.props["href"] = "/compare?" + urlencode([("run", n) for n in chosen])
            hint.set_text(f"{len(chosen)} chosen" if chosen else f"{len(found)} runs")

        with el("div", "scroll-x"), el("table", "table"):
            with el("thead"), el("tr"):
                el("th").props["aria-label"] = "Choose"
                for title, kind in _COLUMNS:
                    el("th", kind, title, scope="col")
            with el("tbody"):
                for run in found:
                    _row(run, choose)


def _row(run: RunInfo, choose: Any) -> None:
    last = run.last
    with el("tr"):
        with el("td"):
            box = el("input", type="checkbox", aria_label=f"Compare {run.name}")
            box.on(
                "change", lambda e, name=run.name: choose(name, bool(e.args)), js_handler="e => emit(e.target.checked)"
            )
        with el("td"):
            el("a", text=run.name, href=_address(run.name))
        with el("td", "wide"):
            _badge(run)
        el("td", "number", f"{last['step']:,}" if "step" in last else "–")
        el("td", "number", metric_value(last.get("loss")))
        el("td", "number wide", metric_value(last.get("val_loss")))
        el("td", "number wide", short_number(last["tokens"]) if "tokens" in last else "–")
        el("td", "soft wide", _ago(run.changed))


def _badge(run: RunInfo) -> None:
    el("span", {"finished": "badge", "training": "badge good", "stopped": "badge"}[run.state], run.state)


def _address(name: str) -> str:
    return "/runs/" + quote(name)


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


@ui.page("/runs/{name:path}", title="Run · nanohydra", response_timeout=BUILD_SECONDS)
async def run_page(request: Request, name: str) -> Response | None:
    """One run."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    run = await run_in_threadpool(open_run, runs_dir(), name)
    with _page(visitor):
        if run is None:
            with sheet("No such run"):
                empty(f'There is no run "{name}".', "nanohydra runs list")
            return None
        with sheet(run.name):
            await _run(run, visitor)
    return None


async def _run(run: RunInfo, visitor: Visitor) -> None:
    tail = Tail(run.folder / "metrics.jsonl")
    await run_in_threadpool(tail.read)
    with el("div", "row"):
        _badge(run)
        figures = el("span", "soft", _summary(run, tail))
    with el("section", "card", aria_label="Loss"):
        loss = raw(_loss([(run.name, tail)], "step"))
    if tail.rows:
        with el("section", "cards", aria_label="More curves"):
            small = {}
            for name, title, log in _CHARTS:
                with el("div", "card"):
                    el("h3", text=title[0].upper() + title[1:])
                    small[name] = raw(_curve(tail, name, title, log))

    async def look() -> None:
        if await run_in_threadpool(tail.read):
            figures.set_text(_summary(run, tail))
            loss.content = _loss([(run.name, tail)], "step")
            for name, title, log in _CHARTS:
                small[name].content = _curve(tail, name, title, log)

    if run.state != "finished" and tail.rows:
        visitor.watch(LIVE_SECONDS, look)
    await report_card(run.folder)
    await samples(run.folder)
    await diagnostics(run.folder)
    el("h2", text="Recipe")
    config = await run_in_threadpool((run.folder / "config.yaml").read_text, "utf-8")
    el("pre", "plain", config, tabindex="0", aria_label="Recipe")
    _machine(read_json(run.folder / "environment.json"))


def _summary(run: RunInfo, tail: Tail) -> str:
    last = tail.rows[-1] if tail.rows else {}
    words = [f"step {last['step']:,}"] if "step" in last else ["no step yet"]
    if "tokens" in last:
        words.append(f"{short_number(last['tokens'])} tokens")
    if "seconds" in last:
        words.append(f"{last['seconds'] / 60:.1f} minutes")
    if "progress" in last and run.state == "training":
        words.append(f"{last['progress']:.0%} done")
    return " · ".join(words)


def _loss(runs: Sequence[tuple[str, Tail]], axis: str) -> str:
    alone = len(runs) == 1
    series = []
    for i, (name, tail) in enumerate(runs):
        points = tail.series(axis, "loss")
        if alone:
            series.append(Series(name, thinned(points), i, faint=True))
        series.append(Series("training, smoothed" if alone else name, thinned(smoothed(points)), i))
        held_out = thinned(tail.series(axis, "val_loss"))
        series.append(
            Series("validation" if alone else f"{name}, validation", held_out, i + 1 if alone else i, legend=alone)
        )
    return line_chart(series, axis, "loss (nats a token)")


def _curve(tail: Tail, field: str, title: str, log: bool) -> str:
    return line_chart([Series(title, thinned(tail.series("step", field), 300))], "step", "", log_y=log, small=True)


def _machine(environment: dict[str, Any]) -> None:
    shown = {k: environment.get(k) for k in ("time", "cpu", "gpus", "threads", "python", "torch", "nanohydra")}
    if any(shown.values()):
        el("h2", text="Machine")
        with el("dl", "facts"):
            for name, value in shown.items():
                if value:
                    el("dt", text=name)
                    el("dd", text=", ".join(value) if isinstance(value, list) else str(value))


@ui.page("/compare", title="Compare · nanohydra", response_timeout=BUILD_SECONDS)
async def compare_page(request: Request) -> Response | None:
    """Runs side by side."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    names = request.query_params.getlist("run")[:COLOURS]
    opened = [await run_in_threadpool(open_run, runs_dir(), name) for name in names]
    runs = [run for run in opened if run is not None]
    with _page(visitor), sheet("Compare"):
        if len(runs) < 2:
            empty("Choose two runs or more in the list of runs.")
            button("To the runs", on_click=lambda: ui.navigate.to("/runs"), classes="primary")
            return None
        tails = [(run.name, Tail(run.folder / "metrics.jsonl")) for run in runs]
        for _, tail in tails:
            await run_in_threadpool(tail.read)
        _overlay(tails, visitor)
        el("h2", text="Where they differ")
        await _differences(runs)
    return None


def _overlay(tails: Sequence[tuple[str, Tail]], visitor: Visitor) -> None:
    axis = {"x": "tokens"}
    with el("section", "card", aria_label="Loss"):
        with el("div", "row"):
            el("h3", text="Loss")
            place = el("span")
        chart = raw(_loss(tails, axis["x"]))

    async def look() -> None:
        if any([await run_in_threadpool(tail.read) for _, tail in tails]):
            chart.content = _loss(tails, axis["x"])

    async def over(name: str) -> None:
        if await visitor.known():
            axis["x"] = name
            chart.content = _loss(tails, name)

    with place:
        choice({key: f"over {word}" for key, word in AXES.items()}, "tokens", over, aria_label="Horizontal axis")
    visitor.watch(LIVE_SECONDS, look)


async def _differences(runs: Sequence[RunInfo]) -> None:
    columns = [await run_in_threadpool(_facts, run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [name for name in names if len({str(column.get(name)) for column in columns}) > 1]
    with el("div", "card"), el("div", "scroll-x", tabindex="0"), el("table", "table"):
        with el("thead"), el("tr"):
            el("th", text="Setting or measure", scope="col")
            for run in runs:
                with el("th", scope="col"):
                    el("a", text=run.name, href=_address(run.name))
        with el("tbody") as body:
            for name in rows:
                _difference(name, columns)
        if not rows:
            body.clear()


def _difference(name: str, columns: Sequence[dict[str, Any]]) -> Element:
    with el("tr") as row:
        el("th", text=name, scope="row")
        for column in columns:
            value = column.get(name)
            el(
                "td",
                text="–" if value is None else metric_value(value) if isinstance(value, int | float) else str(value),
            )
    return row


def _facts(run: RunInfo) -> dict[str, Any]:
    """The settings by their dotted names, the report card's values, and the last step's numbers."""
    facts = flat(read_config(run.folder))
    report = read_json(run.folder / "report.json")
    facts |= {f"report: {k}": v["value"] for k, v in report.items() if isinstance(v, dict) and "value" in v}
    return facts | {f"last: {k}": v for k, v in run.last.items()}
