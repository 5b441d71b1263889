"""`nanohydra diff`: what a lesson changed, or what two lessons know and how their receipts differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanohydra.cli.lessons import find_lesson, memory, memory_parser, rows, title
from nanohydra.cli.parsing import parse


def main(argv: list[str]) -> None:
    """Prints facts with +, - and ~ (another value), then the receipts side by side."""
    p = memory_parser(
        "diff",
        "What one lesson knows that another does not (+), not (-) or otherwise (~), and both receipts. With one lesson: "
        "what it changed.",
        "nanohydra diff LESSON [OTHER]",
    )
    p.add_argument("lesson", type=str, help="a lesson's number or name, or its adapter's name")
    p.add_argument("other", type=str | None, nargs="?", default=None, help="another")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra import history

        first = find_lesson(store, user_id, args.lesson)
        second = None if args.other is None else find_lesson(store, user_id, args.other)
        # Read from the first to the second, as `git diff A B` is.
        newer, older = (first, None) if second is None else (second, first)
        found = history.diff(store, newer.id, user_id, None if older is None else older.id)
        print(f"{title(newer)}" if older is None else f"from {title(older)} to {title(newer)}")
        lines = [f"+ {_said(fact)}" for fact in found["added"]]
        lines += [f"- {_said(fact)}" for fact in found.get("missing", ())]
        lines += [f"~ {_said(change['from'])} -> {_said(change['to'])}" for change in found["changed"]]
        print("\n".join(lines) or "The same facts.")
        if older is not None and older.receipt and newer.receipt:
            print(f"\n{receipts(older.receipt, newer.receipt, f'lesson {older.id}', f'lesson {newer.id}')}")


def receipts(first: Mapping[str, Any], second: Mapping[str, Any], *names: str) -> str:
    """The four measures of two receipts, forced and routed."""
    from nanohydra.hydra.receipt import LABELS, table

    labels = [label for label, _ in LABELS.values()]
    both = [{line.label: line for line in table(receipt) if line.label in labels} for receipt in (first, second)]
    head = ("", f"{names[0]}, forced", f"{names[1]}, forced", f"{names[0]}, routed", f"{names[1]}, routed")
    body = [
        (label, both[0][label].forced, both[1][label].forced, both[0][label].routed, both[1][label].routed)
        for label in labels
    ]
    seconds = [f"{receipt['seconds']['total']:.0f}" for receipt in (first, second)]
    return rows([head, *body, ("Seconds", "", "", *seconds)], "")


def _said(fact: Mapping[str, Any]) -> str:
    return str(fact["answer"] or "(forgotten)")
