"""Checkpoints: a folder written whole or not at all, with the hash of every file, so that a torn one is never believed.

step-00001000/
    model.safetensors       what training changes: trainable parameters and buffers (frozen weights are not repeated)
    optimizer.safetensors   optimizer state by parameter name
    ema.safetensors, hooks.safetensors (where there are any)
    state.json              step, tokens, elapsed seconds, hooks' plain values, ...
    manifest.json           SHA-256 of the files above
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.files import atomic_folder, sha256_file, write_json

NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes were checked."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `name`.safetensors on the CPU; none where the file was not written."""
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}


def write_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Writes `tensors` (file name -> tensor name -> tensor) and the JSON-able `state` into the new folder `folder`."""
    with atomic_folder(folder) as temporary:
        for name, group in tensors.items():
            if group:
                with _rust_errors():
                    save_file({k: v.detach().contiguous() for k, v in group.items()}, temporary / f"{name}.safetensors")
        write_json(temporary / "state.json", dict(state))
        write_json(temporary / "manifest.json", {f.name: sha256_file(f) for f in sorted(temporary.iterdir())})


@contextmanager
def _rust_errors() -> Iterator[None]:
    """The safetensors library reports a full disk as text; this makes it an OSError again."""
    try:
        yield
    except SafetensorError as e:
        code = re.search(r"os error (\d+)", str(e))
        raise OSError(int(code.group(1)) if code else errno.EIO, str(e)) from e


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None when a file is missing or its hash is wrong."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if any(sha256_file(folder / name) != digest for name, digest in manifest.items()):
            return None
        return Checkpoint(folder, json.loads((folder / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return None


def steps_saved(root: Path) -> list[int]:
    """The steps that have a checkpoint in `root`, oldest first."""
    found = (NAME.fullmatch(f.name) for f in root.iterdir()) if root.is_dir() else ()
    return sorted(int(m.group(1)) for m in found if m)


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` is."""
    return root / f"step-{step:08d}"


def latest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest good checkpoint in `root` (None where none was ever written) and the damaged newer ones."""
    damaged: list[Path] = []
    for step in reversed(steps_saved(root)):
        if checkpoint := read_checkpoint(step_folder(root, step)):
            return checkpoint, damaged
        damaged.append(step_folder(root, step))
    if damaged:
        raise UserError(
            f"Every checkpoint in {root} is damaged (hashes differ). "
            "Restore one from a backup, or train anew in another folder."
        )
    return None, damaged


def set_aside(damaged: list[Path]) -> None:
    """Renames damaged checkpoints to *.damaged, so that they are neither read nor counted again."""
    for folder in damaged:
        target = folder.with_name(folder.name + ".damaged")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


def prune(root: Path, keep_last: int, keep: set[int]) -> None:
    """Deletes all but the newest `keep_last` checkpoints and the steps in `keep`, and what killed writes left."""
    for step in steps_saved(root)[:-keep_last]:
        if step not in keep:
            shutil.rmtree(step_folder(root, step))
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Splits a tree of dicts and lists into JSON (returned) and tensors (put into `tensors` by their path)."""
    if isinstance(tree, Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[path] = tree.detach().clone()
        return {"__tensor__": path}
    if isinstance(tree, Mapping):
        return {str(k): pack(v, tensors, f"{path}/{k}") for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [pack(v, tensors, f"{path}/{i}") for i, v in enumerate(tree)]
    return tree


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack` (tuples come back as lists, keys as text)."""
    if isinstance(tree, dict):
        if tree.keys() == {"__tensor__"}:
            return tensors[tree["__tensor__"]]
        return {k: unpack(v, tensors) for k, v in tree.items()}
    return [unpack(v, tensors) for v in tree] if isinstance(tree, list) else tree
