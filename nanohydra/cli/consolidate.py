"""`nanohydra consolidate`: one adapter of all lessons, through the same gate."""

from __future__ import annotations

from dataclasses import asdict

from nanohydra.cli.lessons import find_base, memory, memory_parser, title
from nanohydra.cli.parsing import parse
from nanohydra.hydra.config import LearnConfig


def main(argv: list[str]) -> None:
    """Queues a consolidation and trains it."""
    p = memory_parser("consolidate", "Make one adapter of all published lessons. The old ones stay, for revert.")
    p.add_argument("--base", type=str, default="demo", help="a name under the bases folder, or a model folder")
    p.add_argument("--later", action="store_true", help="only queue it; a server trains it, or: nanohydra learn")
    p.add_class_arguments(LearnConfig, as_group=False)
    args = parse(p, argv)
    config = LearnConfig(**{name: args[name] for name in LearnConfig.__dataclass_fields__})
    with memory(args.database) as (store, user_id):
        from nanohydra.cli.learn import train
        from nanohydra.hydra import history

        name, base_id = find_base(args.base)
        lesson = history.consolidate(store, user_id, base_id, name, **asdict(config))
        if args.later:
            print(f"{title(lesson)} waits to be trained: by the server, or with: nanohydra learn")
        else:
            train(store, user_id, [lesson.id])
