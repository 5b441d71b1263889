"""Diagnostics of any training: its layers, gradients, updates, attention and logits, and what looks wrong with them.

    trainer = Trainer(model, objective, batches, config, run, hooks=[Diagnostics(every=50)])

Each sampled step adds a line to diagnostics.jsonl in the run folder, and each warning one more:

    {"step": 51, "loss": 2.1,
     "layers": {"model.layers.0.mlp": {"kind": "relu", "rows": 512, "mean": 0.1, "std": 0.3, "dead": 0.02,
                                       "histogram": [40 shares in thousandths, between `histogram_edges`]}},
     "parameters": {"model.layers.0.mlp.up_proj.weight": {"gradient": 0.1, "weight": 12.0, "update": 0.001}},
     "attention": {"model.layers.0.self_attn": {"entropy": 2.3, "share": 0.8}},
     "logits": {"std": 1.3, "largest": 7.0, "vocabulary": 4096}}
    {"step": 51, "kind": "dead", "where": "layer 0 mlp", "text": "layer 0 mlp: 71% of ReLU units never fire: ..."}

`step` counts finished steps, as in metrics.jsonl. "saturated" is there for tanh and sigmoid, "dead" for ReLUs, "gradient"
and "weight" are norms; numbers that are not finite are null. Sampled are the first steps 0, 1, 2, 4, 8, ..., where bad
initialisation shows, and then every `every` steps; the steps between pay only for a look at the loss. What that costs
is measured by bench/diagnostics.py.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanohydra.errors import UserError
from nanohydra.files import disk_errors, write_text
from nanohydra.train.diagnostics_log import FILE, read_diagnostics
from nanohydra.train.diagnostics_rules import Finding, LossWatch, examine
from nanohydra.train.diagnostics_sample import Sample
from nanohydra.train.hooks import Hook
from nanohydra.train.parallel import rank

if TYPE_CHECKING:
    from nanohydra.train.trainer import Trainer


class Diagnostics(Hook):
    """Measures every `every` steps and warns in plain words, once for each fault.

    folder: where diagnostics.jsonl goes; None for the trainer's run folder. With neither, `records` and `findings` are
    all there is. Works with the Trainer and with any loop that calls the hook with `model`, `parameters`, `step`,
    `loss`, `run` and `say`. On a sampled step a compiled model runs uncompiled, as compiled layers cannot be looked
    into.
    """

    def __init__(self, every: int = 50, folder: Path | None = None) -> None:
        if every < 1:
            raise UserError(f"diagnostics every {every} steps is not possible. Give 1 or more.")
        self.every = every
        self.folder = None if folder is None else Path(folder)
        self.records: deque[dict[str, Any]] = deque(maxlen=100)
        self.findings: list[Finding] = []
        self._losses = LossWatch()
        self._sample: Sample | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Goes on where the checkpoint was: later lines of the file are dropped."""
        if self.folder is None and trainer.run is not None:
            self.folder = trainer.run.folder
        if self.folder is not None and rank() == 0 and (self.folder / FILE).exists():
            log = read_diagnostics(self.folder, until=trainer.step)
            self.records.extend(log.records)
            self.findings = log.findings
            lines = sorted([*log.records, *(f.as_dict() for f in log.findings)], key=lambda line: line["step"])
            write_text(self.folder / FILE, "".join(_line(line) for line in lines))

    def before_step(self, trainer: Trainer) -> None:
        step = trainer.step
        if rank() == 0 and (step % self.every == 0 or (step < self.every and step & (step - 1) == 0)):
            self._sample = Sample(trainer.model)

    def after_backward(self, trainer: Trainer) -> None:
        if self._sample is not None:
            self._sample.stop_watching()
            self._sample.before_update(trainer.parameters)

    def after_step(self, trainer: Trainer) -> None:
        if rank() != 0:
            return
        found = self._losses.add(trainer.step, trainer.loss)
        if self._sample is not None:
            self._sample.after_update(trainer.parameters)
            record = {"step": trainer.step, "loss": trainer.loss, **self._sample.result()}
            self._sample = None
            self.records.append(record)
            self._write(record)
            found += examine(list(self.records)[-3:])
        said = {(f.kind, f.where) for f in self.findings}
        for finding in found:
            if finding.kind == "spike" or (finding.kind, finding.where) not in said:
                self.findings.append(finding)
                self._write(finding.as_dict())
                trainer.say(f"Diagnostics, step {finding.step}: {finding.text}")

    def state_dict(self) -> dict[str, Any]:
        return self._losses.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses.load_state_dict(state)

    def _write(self, value: Mapping[str, Any]) -> None:
        if self.folder is not None:
            with disk_errors(self.folder / FILE):
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / FILE).open("a", encoding="utf-8") as file:
                    file.write(_line(value))


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
