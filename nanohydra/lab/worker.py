"""One run, in a process of its own: `python -m nanohydra.lab.worker RUN_FOLDER`.

The process ends when its lab does, in whatever way: the lab holds the other end of its standard input.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nanohydra.errors import UserError
from nanohydra.files import write_json


class Execute(Protocol):
    """What trains one recipe.

    `run_dir` may hold what a killed execution left: go on from there. The result has the metrics (at the top or under
    "metrics") and what is known of parameters, flops, tokens and seconds. A run that diverges returns
    {"status": "diverged", "step": ..., "reason": ...}. Scores by evaluation item go to run_dir/items.jsonl, each line
    {"item": id, metric: score, ...}; the loss curve to run_dir/metrics.jsonl (step, tokens, loss, val_loss).
    """

    def __call__(self, recipe: dict[str, Any], run_dir: Path) -> Mapping[str, Any]: ...


def result_path(folder: Path) -> Path:
    """Where the result of the run in `folder` is written once it is finished: beside the folder."""
    return folder.with_name(folder.name + ".json")


def run_job(folder: Path) -> None:
    """Executes the run that `folder`/job.json describes and writes its result. Waits while another process does."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with (folder / ".job.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the worker of a lab killed just now may still be ending
        if not result_path(folder).exists():
            result = dict(load_execute(job["execute"])(job["recipe"], folder))
            result = {"status": "finished", **result, "variant": job["variant"], "seed": job["seed"]}
            write_json(result_path(folder), result)


def load_execute(name: str) -> Execute:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    try:
        found: Execute = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise UserError(
            f'execute: "{name}" cannot be loaded ({e}). Write module:function, from an installed module.'
        ) from e
    return found


def launch(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a worker for `folder`; what it prints goes to log.txt there."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nanohydra.lab.worker", str(folder)],
            stdin=subprocess.PIPE,  # closed by the system when this process ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def failure(folder: Path, status: int) -> str | None:
    """Why a worker that ended with `status` has no result: the last line that it printed. None where it has one."""
    if status == 0 and result_path(folder).exists():
        return None
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"{last} (exit status {status}; see {folder / 'log.txt'})"


def _end_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock, held here, would break the interpreter's shutdown
        pass
    os._exit(1)


def main() -> int:
    """The process's whole life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_job(Path(sys.argv[1]))
    except UserError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
