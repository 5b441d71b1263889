"""The floors of the house: a room imports only rooms below it, and what the command line's help needs never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nanohydra"
FLOORS = [
    "foundations",
    "data",
    "model",
    "train",
    "adapt",
    "store",
    "agent",
    "infer",
    "evals",
    "jobs",
    "lab",
    "continual",
    "hydra",
    "serve",
    "cli",
]
LESSONS_PROCESS = (
    "training",
    "measuring",
    "probes",
    "lesson",
    "consolidate",
    "maker",
)  # hydra's files that may load torch


def imported(file: Path) -> set[str]:
    """The rooms of nanohydra that a file imports, at its top or inside a function, for types or for use."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {parts[1] for name in names if (parts := name.split("."))[0] == "nanohydra" and len(parts) > 1}


def test_every_room_has_a_floor() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_downward_only(room: str) -> None:
    above = set(FLOORS[FLOORS.index(room) + 1 :])
    upward = {
        str(f.relative_to(PACKAGE)): up for f in sorted((PACKAGE / room).rglob("*.py")) if (up := imported(f) & above)
    }
    assert not upward


def test_the_ladder_stands_alone() -> None:
    assert set().union(*(imported(f) for f in (PACKAGE / "foundations").rglob("*.py"))) <= {
        "foundations",
        "errors",
        "home",
        "files",
    }


def test_the_store_imports_no_room() -> None:
    assert set().union(*(imported(f) for f in (PACKAGE / "store").rglob("*.py"))) <= {
        "store",
        "errors",
        "files",
        "home",
        "strict",
    }


def load_without_torch(files: Iterable[Path]) -> None:
    modules = [".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for f in files]
    code = "import importlib, sys\n"
    code += f"for name in {sorted(modules)!r}:\n    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configs_and_packages_load_no_torch() -> None:
    load_without_torch(f for f in PACKAGE.rglob("*.py") if f.name in ("config.py", "__init__.py"))


def test_what_the_server_needs_of_lessons_loads_no_torch() -> None:
    """All of hydra but what runs in a process of its own."""
    files = [f for room in ("store", "hydra") for f in (PACKAGE / room).rglob("*.py") if "migrations" not in f.parts]
    load_without_torch([f for f in files if f.stem not in LESSONS_PROCESS] + [PACKAGE / "agent" / "retrieval.py"])
