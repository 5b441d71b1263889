"""`nanohydra runs`: what was trained, how it went, and how two runs differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanohydra.cli.parsing import choose, parse, parser
from nanohydra.errors import UserError, did_you_mean


def main(argv: list[str]) -> None:
    """Dispatches to one action."""
    choose(
        "runs",
        argv,
        {
            "list": (list_runs, "every run with its last numbers"),
            "show": (show, "one run: recipe, machine, last numbers, report card"),
            "compare": (compare, "the settings and results in which two runs differ"),
        },
    )


def list_runs(argv: list[str]) -> None:
    """Prints a line a run, newest last."""
    parser("runs list", "Every run under the runs folder.").parse_args(argv)
    from nanohydra.home import runs_dir

    folders = sorted(file.parent for file in runs_dir().glob("*/config.yaml"))
    if not folders:
        print(f"No runs in {runs_dir()} yet. Start one: nanohydra speedrun")
    for folder in folders:
        last = _last(folder)
        state = "finished" if (folder / "result.json").exists() else "unfinished"
        numbers = f"step {last['step']:>7,}  loss {last['loss']:.4f}" if last else "no step yet"
        print(f"{folder.name:<40} {state:<11} {numbers}")


def show(argv: list[str]) -> None:
    """Prints the recipe, the environment and the results of one run."""
    p = parser("runs show", "One run: its recipe, machine and results.")
    p.add_argument("run", type=str, help="a run's name, or its folder")
    folder = _find(parse(p, argv).run)
    print(folder)
    print((folder / "config.yaml").read_text("utf-8"))
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    print("\n".join(f"{name}: {value}" for name, value in environment.items() if name != "resumed"))
    if last := _last(folder):
        print("\nlast step: " + ", ".join(f"{k} {v:.6g}" for k, v in last.items() if isinstance(v, int | float)))
    if (folder / "report.md").exists():
        print("\n" + (folder / "report.md").read_text("utf-8"))


def compare(argv: list[str]) -> None:
    """Prints what differs between two runs: settings, then measurements."""
    p = parser("runs compare", "The settings and measurements in which two runs differ.")
    p.add_argument("first", type=str, help="a run's name, or its folder")
    p.add_argument("second", type=str, help="another")
    args = parse(p, argv)
    left, right = (_facts(_find(name)) for name in (args.first, args.second))
    for name in [*left, *(n for n in right if n not in left)]:
        if left.get(name) != right.get(name):
            print(f"{name:<40} {left.get(name, '-')!s:<24} {right.get(name, '-')}")


def _find(name: str) -> Path:
    from nanohydra.home import runs_dir

    for folder in (Path(name).expanduser(), runs_dir() / name):
        if (folder / "config.yaml").is_file():
            return folder
    known = [file.parent.name for file in runs_dir().glob("*/config.yaml")]
    raise UserError(f'There is no run "{name}".{did_you_mean(name, known)}')


def _last(folder: Path) -> dict[str, Any] | None:
    from nanohydra.evals.report import read_metrics

    rows = read_metrics(folder)
    return rows[-1] if rows else None


def _facts(folder: Path) -> dict[str, Any]:
    """The settings by their dotted names, then the report card's values and the last step's numbers."""
    import yaml

    facts = dict(_flat(yaml.safe_load((folder / "config.yaml").read_text("utf-8")), ""))
    if (folder / "report.json").exists():
        report = json.loads((folder / "report.json").read_text("utf-8"))
        facts |= {f"report.{k}": v["value"] for k, v in report.items() if isinstance(v, dict) and "value" in v}
    facts |= {f"last.{k}": v for k, v in (_last(folder) or {}).items()}
    return facts


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows
