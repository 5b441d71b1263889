"""`nanohydra info`: versions, machine and folders, for a person and for a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nanohydra import __version__, home
from nanohydra.cli.parsing import parser


def main(argv: list[str]) -> None:
    """Prints what is installed, what the machine offers and where files go."""
    parser("info", "Versions, machine and folders.").parse_args(argv)
    import torch

    rows = {
        "nanohydra": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in ("tokenizers", "safetensors", "transformers", "peft")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
        "home": f"{home.home()} (NANOHYDRA_HOME)",
        "mirror": f"{home.mirror_dir() or 'none: corpora come from the hub'} (NANOHYDRA_MIRROR)",
        "bases": ", ".join(_folders(home.bases_dir())) or "none yet: nanohydra speedrun, or nanohydra pull smollm2",
    }
    width = max(map(len, rows))
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in rows.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _folders(folder: Path) -> list[str]:
    return sorted(file.parent.name for file in folder.glob("[!.]*/config.json"))
