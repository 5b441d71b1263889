"""Where metrics go besides metrics.jsonl. A sink has `log` and `close`; each imports its library when it is made."""

from __future__ import annotations

import hashlib
import importlib
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nanohydra.errors import UserError
from nanohydra.home import home


class Sink(Protocol):
    """Takes each logged step's numbers."""

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Passes on one line of metrics."""

    def close(self) -> None:
        """Flushes and ends the connection."""


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, folder: Path, step: int) -> None:
        module = _load("torch.utils.tensorboard", "tensorboard")
        # purge_step hides what a killed run had written after the checkpoint it resumes from.
        self.writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, numbers.Real):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases; offline with WANDB_MODE=offline (then its files stay in the run folder)."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        module = _load("wandb", "wandb")
        self.run = module.init(
            project="nanohydra",
            name=folder.name,
            id=_identity(folder),
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        self.run.log(_without_step(record), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """Trackio, which keeps its data on this machine: `TRACKIO_DIR=NANOHYDRA_HOME/trackio trackio show`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(home() / "trackio"))
        self.module = _load("trackio", "trackio")
        self.module.init(project="nanohydra", name=_identity(folder), config=dict(config), resume="allow")

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        self.module.log(_without_step(record), step=step)

    def close(self) -> None:
        self.module.finish()


def _identity(folder: Path) -> str:
    """A name for the run that no run in another folder has, and that is the same when it is resumed."""
    return f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def _without_step(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "step"}


def make_sink(name: str, folder: Path, config: Mapping[str, Any], step: int) -> Sink:
    """The sink `name` for the run in `folder`, which goes on after `step`."""
    if name == "tensorboard":
        return TensorBoard(folder, step)
    return Wandb(folder, config) if name == "wandb" else Trackio(folder, config)


def _load(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UserError(
            f'{extra} is not installed: pip install "nanohydra[{extra}]", or leave it out of train.sinks.'
        ) from e
