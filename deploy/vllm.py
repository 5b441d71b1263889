"""Prints the command with which vLLM serves a base and its adapters, or says why it cannot.

    python deploy/vllm.py ~/.local/share/nanohydra/bases/smollm2 birds=adapters/birds trees=adapters/trees

Both folders are vLLM's formats already: a Hugging Face model, PEFT adapters. What it cannot serve is refused here, as it
would fail late or, worse, be passed over in silence.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
LORA_FAMILIES = ("llama", "qwen3")  # of the families that we write, those that vLLM adapts


def command(base: Path, adapters: dict[str, Path]) -> list[str]:
    """The words of the command line. UserError where vLLM could not serve one of the folders."""
    from nanohydra.model.hub import base_id

    family = _json(base / "config.json").get("model_type")
    if family == "nanohydra":
        raise UserError(f"{base} has an architecture of nanohydra's own, which vLLM does not know.")
    words = ["vllm", "serve", str(base.resolve()), "--served-model-name", base.resolve().name]
    if not adapters:
        return words
    if family not in LORA_FAMILIES:
        raise UserError(f"vLLM has no adapters for models of the family {family}.")
    id = base_id(base)
    rank = max(_rank(folder, id) for folder in adapters.values())
    words += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank), "--lora-modules"]
    return words + [f"{name}={folder.resolve()}" for name, folder in adapters.items()]


def _rank(folder: Path, base: str) -> int:
    """The smallest of vLLM's ranks that holds an adapter which vLLM can serve."""
    config = _json(folder / "adapter_config.json")
    sidecar = _json(folder / "nanohydra.json") if (folder / "nanohydra.json").exists() else {}
    reasons = {
        f"it is {config.get('peft_type')}, not LoRA": config.get("peft_type") != "LORA",
        "it uses DoRA": config.get("use_dora"),
        "its modules differ in rank or alpha": config.get("rank_pattern") or config.get("alpha_pattern"),
        "it lies over other adapters": sidecar.get("over"),
        "it is of another base": sidecar.get("base") not in (None, base),
        f"its rank is above {RANKS[-1]}": config["r"] > RANKS[-1],
    }
    for reason, true in reasons.items():
        if true:
            raise UserError(f"vLLM cannot serve {folder}: {reason}.")
    return next(rank for rank in RANKS if rank >= config["r"])


def _json(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{file} cannot be read: give a base folder, then NAME=ADAPTER_FOLDER.") from e
    return values


def main(argv: list[str]) -> None:
    """Prints the command for the folders named on the command line."""
    base, *adapters = argv or [""]
    try:
        print(shlex.join(command(Path(base), {n: Path(f) for n, _, f in (a.partition("=") for a in adapters)})))
    except UserError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main(sys.argv[1:])
