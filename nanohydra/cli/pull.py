"""`nanohydra pull`: bring open weights into the bases folder."""

from __future__ import annotations

from pathlib import Path

from nanohydra.cli.parsing import parser


def main(argv: list[str]) -> None:
    """Imports a base and prints where it is and how to talk to it."""
    p = parser("pull", "Bring open weights: a hub id, a Hugging Face folder, a file.gguf, or smollm2.")
    p.add_argument("source", type=str, help="hub id, folder, file.gguf, or smollm2")
    p.add_argument("--name", type=str | None, default=None, help="what to call the base (default: from the source)")
    args = p.parse_args(argv)
    from nanohydra.model.hub import pull

    folder: Path = pull(args.source, name=args.name)
    print(f"{folder}\nTalk to it: nanohydra chat --base {folder.name}")
