"""Where the time of a training step goes: torch's profiler over a few steps, as a hook.

    Trainer(..., hooks=[Profile(start=10, steps=3)])

Leaves in the run folder `profile/trace.json` (open it in chrome://tracing or ui.perfetto.dev), `profile/table.md` and the same
numbers as `profile/table.json`. Profiled steps run slower than others: compare shares, not seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from nanohydra.errors import UserError
from nanohydra.files import atomic_path, write_json, write_text
from nanohydra.train.hooks import Hook
from nanohydra.train.parallel import rank

if TYPE_CHECKING:
    from nanohydra.train.trainer import Trainer

GROUPS = {  # the first group whose pattern is found in an operator's name counts
    "attention": r"scaled_dot_product|flash_attention|efficient_attention",
    "matrix products": r"::(addmm|mm|bmm|baddbmm|linear|matmul|addmv|mkldnn_linear)|gemm|cutlass|nvjet",
    "optimizer": r"^Optimizer|_foreach|_fused_adam|addcdiv|addcmul|lerp|zeropower",
    "softmax and loss": r"softmax|nll_loss|cross_entropy|logsumexp",
    "norms": r"norm|rsqrt|::mean",
    "embedding": r"embedding|index_put|gather",
    "copies and casts": r"copy_|_to_copy|::clone|::cat$|contiguous|::stack|memcpy|memset|::fill_|::zero_|::empty",
    "elementwise": r"::(add|mul|sub|div|neg|silu|gelu|relu|tanh|sigmoid|square|pow|sqrt|exp|where|dropout|threshold|sum)",
}
OTHER = "other"


@dataclass(frozen=True)
class Row:
    """One line of the table: an operator or a group of them."""

    name: str
    group: str
    milliseconds: float
    """Time per step in the operator itself, not in those it calls: the GPU's, where there is one, else the CPU's."""
    share: float
    calls: float
    """Calls per step."""


class Profile(Hook):
    """Profiles `steps` steps from step `start` on (counted from where this process starts, so that a resumed run warms up
    too), then goes on without. folder: for its files; None for the run folder's `profile`."""

    def __init__(self, start: int = 5, steps: int = 3, folder: Path | None = None) -> None:
        if start < 0 or steps < 1:
            raise UserError(
                f"Profiling {steps} steps from step {start} is not possible. Give 1 or more, from 0 or later."
            )
        self.start, self.steps = start, steps
        self.folder = folder
        self._profiler: profile | None = None
        self._seen = 0
        self._clock = 0.0
        self._phases = {"forward and backward": 0.0, "optimizer step": 0.0}

    def on_start(self, trainer: Trainer) -> None:
        if self.folder is None:
            if trainer.run is None:
                raise UserError("A profile needs a folder: train in a run folder, or name one.")
            self.folder = trainer.run.folder / "profile"

    def before_step(self, trainer: Trainer) -> None:
        if rank() == 0 and self._seen == self.start:
            activities = [ProfilerActivity.CPU]
            if trainer.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities)
            self._profiler.start()
        self._seen += 1
        self._tick(trainer)

    def after_backward(self, trainer: Trainer) -> None:
        self._phases["forward and backward"] += self._tick(trainer)

    def after_step(self, trainer: Trainer) -> None:
        self._phases["optimizer step"] += self._tick(trainer)
        if self._profiler is not None and self._seen == self.start + self.steps:
            self._profiler.stop()
            folder = self._write(self._profiler)
            self._profiler = None
            trainer.say(f"Profile of {self.steps} steps: {folder / 'table.md'}, {folder / 'trace.json'}")

    def _tick(self, trainer: Trainer) -> float:
        """Seconds since the last tick, while profiling."""
        if self._profiler is None:
            return 0.0
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before

    def _write(self, profiler: profile) -> Path:
        assert self.folder is not None
        operators = operator_table(profiler.key_averages(), self.steps)
        groups = group_table(operators)
        phases = {name: 1000 * seconds / self.steps for name, seconds in self._phases.items()}
        with atomic_path(self.folder / "trace.json") as temporary:
            profiler.export_chrome_trace(str(temporary))
        tables = {"groups": [asdict(r) for r in groups], "operators": [asdict(r) for r in operators]}
        write_json(self.folder / "table.json", {"steps": self.steps, "phases_ms": phases, **tables})
        write_text(self.folder / "table.md", markdown(phases, groups, operators))
        return self.folder


class Event(Protocol):
    """What is read of the profiler's averages over equally named operators (microseconds)."""

    key: str
    count: int
    self_cpu_time_total: float
    self_device_time_total: float


def operator_table(events: Iterable[Event], steps: int) -> list[Row]:
    """The operators by time, longest first."""
    events = list(events)
    on_device = any(event.self_device_time_total > 0 for event in events)
    times = [event.self_device_time_total if on_device else event.self_cpu_time_total for event in events]
    total = sum(times) or 1.0
    rows = [
        Row(event.key, group_of(event.key), t / steps / 1000, t / total, event.count / steps)
        for event, t in zip(events, times)
        if t > 0
    ]
    return sorted(rows, key=lambda row: -row.milliseconds)


def group_table(operators: Iterable[Row]) -> list[Row]:
    """The same time by group."""
    operators = list(operators)
    rows = []
    for group in [*GROUPS, OTHER]:
        members = [row for row in operators if row.group == group]
        if members:
            sums = (sum(getattr(row, field) for row in members) for field in ("milliseconds", "share", "calls"))
            rows.append(Row(group, group, *sums))
    return sorted(rows, key=lambda row: -row.milliseconds)


def group_of(operator: str) -> str:
    """The group that an operator's (or GPU kernel's) name belongs to."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, operator)), OTHER)


def markdown(phases: dict[str, float], groups: Iterable[Row], operators: Iterable[Row], longest: int = 15) -> str:
    """The tables for a reader: phases by the clock, groups, and the `longest` operators."""
    lines = ["# Where the time goes", "", "| phase | ms a step |", "|---|---:|"]
    lines += [f"| {name} | {ms:.2f} |" for name, ms in phases.items()]
    for title, rows in (("operators of kind", list(groups)), ("operator", list(operators)[:longest])):
        lines += ["", f"| {title} | ms a step | share | calls a step |", "|---|---:|---:|---:|"]
        lines += [f"| {r.name[:60]} | {r.milliseconds:.2f} | {r.share:.1%} | {r.calls:.0f} |" for r in rows]
    return "\n".join(lines) + "\n"
