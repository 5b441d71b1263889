"""`nanohydra log`: what happened to what was taught, newest first."""

from __future__ import annotations

from nanohydra.cli.lessons import memory, memory_parser, minute, rows
from nanohydra.cli.parsing import parse


def main(argv: list[str]) -> None:
    """Prints the history's newest lines."""
    p = memory_parser(
        "log", "What was taught, published, reverted and forgotten, newest first. Lines are only ever added."
    )
    p.add_argument("--limit", type=int, default=30, help="how many lines")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra import history

        lines = history.log(store, user_id, max(1, args.limit))
        table = [
            (minute(line["at"]), f"lesson {line['lesson']}" if line["lesson"] else "", line["text"]) for line in lines
        ]
        print(rows(table, "") if table else "Nothing was taught yet. Begin: nanohydra learn notes.txt")
