"""Bases and adapters on disk, described without reading their weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanohydra.serve.web.run_files import read_json

_HEADER_LIMIT = 100_000_000  # the format's own bound on a header


@dataclass(frozen=True)
class BaseInfo:
    """A base as the page shows it."""

    name: str
    bytes: int
    parameters: int
    family: str
    layers: int
    width: int
    context: int
    source: dict[str, Any]
    """What `pull` noted: source, when, revision or package, license; empty for a base that was trained here."""


def find_bases(root: Path) -> list[BaseInfo]:
    """Every base in the bases folder, by name."""
    return [read_base(file.parent) for file in sorted(root.glob("*/config.json"))]


def read_base(folder: Path) -> BaseInfo:
    """One base."""
    config = read_json(folder / "config.json")
    first = next(iter(config.get("architectures") or ()), None)

    def number(*names: str) -> int:
        return next((int(config[n]) for n in names if isinstance(config.get(n), int)), 0)

    return BaseInfo(
        name=folder.name,
        bytes=folder_bytes(folder),
        parameters=sum(_parameters(file) for file in folder.glob("*.safetensors")),
        family=str(config.get("model_type") or first or "unknown"),
        layers=number("num_hidden_layers", "n_layer"),
        width=number("hidden_size", "n_embd"),
        context=number("max_position_embeddings", "n_positions"),
        source=read_json(folder / "source.json"),
    )


def folder_bytes(folder: Path) -> int:
    """What a folder's own files take on disk."""
    return sum(file.stat().st_size for file in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (file for file in folder.iterdir() if file.is_file())


def _parameters(file: Path) -> int:
    """How many numbers a safetensors file holds: its header tells the shapes."""
    try:
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(min(length, _HEADER_LIMIT)))
    except (OSError, ValueError, struct.error):
        return 0
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def adapter_facts(folder: Path) -> dict[str, str]:
    """What an adapter's own files say of it."""
    config, sidecar = read_json(folder / "adapter_config.json"), read_json(folder / "nanohydra.json")
    facts = {"method": str(config.get("peft_type", "")).lower()}
    if config.get("r"):
        facts["rank"] = str(config["r"])
    targets = config.get("target_modules")
    if targets:
        facts["layers"] = ", ".join(sorted(targets)) if isinstance(targets, list) else str(targets)
    if lessons := sidecar.get("lessons"):
        facts["lessons"] = str(len(lessons))
    return {name: value for name, value in facts.items() if value}
