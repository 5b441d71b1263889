"""Where nanohydra keeps what it writes: NANOHYDRA_HOME, or the user's data folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The root of everything the program writes unless told otherwise (not created here)."""
    return Path(os.environ.get("NANOHYDRA_HOME") or platformdirs.user_data_dir("nanohydra")).expanduser()


def bases_dir() -> Path:
    """Bases: one Hugging Face model folder each."""
    return home() / "bases"


def runs_dir() -> Path:
    """Runs: one folder for each training."""
    return home() / "runs"


def data_dir() -> Path:
    """Downloaded corpora and token shards."""
    return home() / "data"


def mirror_dir() -> Path | None:
    """An offline mirror of datasets in the hub's layout (NANOHYDRA_MIRROR), or None for the hub itself."""
    value = os.environ.get("NANOHYDRA_MIRROR")
    return Path(value).expanduser() if value else None
