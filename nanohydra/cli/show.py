"""`nanohydra show`: one lesson with its facts, passages and receipt, or all lessons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanohydra.cli.known import row
from nanohydra.cli.lessons import STATES, counted, find_lesson, memory, memory_parser, minute, rows
from nanohydra.cli.parsing import parse

if TYPE_CHECKING:
    from nanohydra.store import Store


def main(argv: list[str]) -> None:
    """Prints a lesson, or a line for each."""
    p = memory_parser(
        "show", "One lesson: its facts, passages and receipt. Without one: all lessons.", "nanohydra show [LESSON]"
    )
    p.add_argument("lesson", type=str | None, nargs="?", default=None, help="its number or its name")
    p.add_argument("--json", type=bool, default=False, help="everything, as JSON")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra import history

        if args.lesson is None:
            listed(store, user_id)
            return
        shown = history.show(store, find_lesson(store, user_id, args.lesson).id, user_id)
        if args.json:
            import json

            print(json.dumps(shown, indent=2, ensure_ascii=False))
        else:
            print_lesson(shown)


def listed(store: Store, user_id: int) -> None:
    """A line for each lesson, newest first."""
    from nanohydra.hydra import history

    lessons = history.lessons(store, user_id)
    table = [
        (one["id"], one["name"], one["kind"], one["base"]["name"], counted(one["facts"], "fact"), STATES[one["state"]])
        for one in lessons
    ]
    print(rows(table, "") if table else "Nothing was taught yet. Begin: nanohydra learn notes.txt")


def print_lesson(shown: dict[str, Any]) -> None:
    """A lesson as a person reads it."""
    from nanohydra.hydra.receipt import as_text

    print(f'{shown["kind"]} {shown["id"]} "{shown["name"]}" on {shown["base"]["name"]}: {STATES[shown["state"]]}')
    print(f"taught {minute(shown['created'])}" + (f", ended {minute(shown['finished'])}" if shown["finished"] else ""))
    if shown["reason"] and not shown["receipt"]:
        print(shown["reason"])
    if shown["facts"]:
        print(f"\n{counted(len(shown['facts']), 'fact')}:")
        print(rows([(number, text, held) for number, text, _, held in map(row, shown["facts"])]))
    if shown["passages"]:
        print(f"\n{counted(len(shown['passages']), 'passage')}:")
        for passage in shown["passages"]:
            print(f"  {passage['source']}: {shortened(passage['text'])}")
    if shown["receipt"]:
        print(f"\nreceipt:\n{as_text(shown['receipt'])}")


def shortened(text: str, length: int = 160) -> str:
    """Text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"
