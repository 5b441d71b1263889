"""The run folder: all there is to know about one training. Reports, dashboards and resume read it.

config.yaml         what was asked for
environment.json    versions, processor, threads, git revision, seed, command; one more entry for each resume
metrics.jsonl       one line a logged step
checkpoints/        see checkpoint.py
result.json         written when the training is finished
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy
import torch
import yaml

import nanohydra
from nanohydra.errors import UserError
from nanohydra.files import atomic_path, disk_errors, write_json, write_text
from nanohydra.train.checkpoint import Checkpoint, latest_checkpoint, prune, read_checkpoint, set_aside, step_folder
from nanohydra.train.checkpoint import write_checkpoint as _write
from nanohydra.train.parallel import rank

TIMING_FIELDS = frozenset({"seconds", "tokens_per_second"})
"""The fields of metrics.jsonl that differ between two equal runs."""


class Run:
    """One run folder. Only the first process of a distributed training writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self._metrics: IO[str] | None = None
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any]) -> Run:
        """Starts a new run; `config` is plain data (the whole recipe). Refuses a folder that already holds a run."""
        run = cls(folder)
        if rank() == 0:
            if run.config_path.exists():
                raise UserError(f"{folder} already holds a run. Resume it, or choose another folder.")
            write_json(run.folder / "environment.json", {**environment(), "seed": _seed(config), "resumed": []})
            write_text(run.config_path, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run, to be resumed or read."""
        run = cls(folder)
        if not run.config_path.exists():
            raise UserError(f"{folder} holds no run (no config.yaml). Name the folder of a run.")
        return run

    @property
    def config_path(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as plain data."""
        return dict(yaml.safe_load(self.config_path.read_text(encoding="utf-8")))

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote; None while the training is not finished."""
        path = self.folder / "result.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl (a last line torn by a kill is left out)."""
        path = self.folder / "metrics.jsonl"
        records: list[dict[str, Any]] = []
        if path.exists():
            with path.open(encoding="utf-8") as f:
                for line in f:
                    with contextlib.suppress(ValueError):
                        records.append(json.loads(line))
        return records

    def start(self) -> Checkpoint | None:
        """Claims the run for this process and returns the checkpoint to go on from; later metrics are dropped.

        Damaged checkpoints are passed over with a word on stderr; UserError when no good one is left, or when another
        process is training in this folder.
        """
        self._claim()
        checkpoint, damaged = latest_checkpoint(self.checkpoints)
        for folder in damaged:
            print(f"{folder.name} is damaged (hashes differ): going back to an older checkpoint.", file=sys.stderr)
        set_aside(damaged)
        self._truncate(checkpoint.state["step"] if checkpoint else 0)
        if checkpoint:
            path = self.folder / "environment.json"
            record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {**environment(), "resumed": []}
            record["resumed"].append({"step": checkpoint.state["step"], **environment()})
            write_json(path, record)
        (self.folder / "result.json").unlink(missing_ok=True)
        return checkpoint

    def _claim(self) -> None:
        """Takes the folder's lock, which the system releases when this process ends in whatever way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UserError(
                f"Another process is training in {self.folder}. Wait for it, or choose another folder."
            ) from e

    def _truncate(self, step: int) -> None:
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [r for r in self.metrics() if r["step"] <= step]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl; it survives a kill of this process at once, and a power cut from the next
        checkpoint on."""
        with disk_errors(self.folder / "metrics.jsonl"):
            if self._metrics is None:
                self._metrics = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._metrics.write(json.dumps(record) + "\n")
            self._metrics.flush()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
        *,
        keep_last: int,
        keep: set[int],
    ) -> Path:
        """Writes the checkpoint of `step`; of the others only the newest `keep_last` and the steps in `keep` stay."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        folder = step_folder(self.checkpoints, step)
        _write(folder, tensors, state)
        prune(self.checkpoints, keep_last, keep)
        return folder

    def best_checkpoint(self) -> Checkpoint | None:
        """The good checkpoint with the lowest val_loss, where `keep_best` was asked for."""
        latest, _ = latest_checkpoint(self.checkpoints)
        best = latest.state.get("best") if latest else None
        return read_checkpoint(step_folder(self.checkpoints, best["step"])) if best else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Marks the training as finished."""
        write_json(self.folder / "result.json", dict(result))

    def close(self) -> None:
        """Closes files and releases the folder."""
        for f in (self._metrics, self._lock):
            if f is not None:
                # What a full disk did not take was reported when it was written.
                with contextlib.suppress(OSError):
                    f.close()
        self._metrics = self._lock = None


def _plain(value: Any) -> Any:
    """`value` as YAML can hold it: tuples become lists, paths text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _seed(config: Mapping[str, Any]) -> Any:
    train = config.get("train")
    return train.get("seed") if isinstance(train, Mapping) else config.get("seed")


def environment() -> dict[str, Any]:
    """The machine, the versions and the command: what another person needs to repeat the run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "nanohydra": nanohydra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _git() -> dict[str, Any] | None:
    """Revision of the source tree that this code runs from, and whether it has changes; None for an installed copy."""
    root = Path(nanohydra.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": answers[0].strip(), "dirty": bool(answers[1].strip())}
