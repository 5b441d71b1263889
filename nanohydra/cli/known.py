"""`nanohydra known`: the facts that are known about something, and since when."""

from __future__ import annotations

from typing import Any

from nanohydra.cli.lessons import day, memory, memory_parser, rows
from nanohydra.cli.parsing import parse


def main(argv: list[str]) -> None:
    """Prints facts by what they are about."""
    p = memory_parser("known", "What was taught about somebody or something.", "nanohydra known [ABOUT] [--past true]")
    p.add_argument("about", type=str, nargs="?", default="", help="words of a fact (default: every fact)")
    p.add_argument("--past", type=bool, default=False, help="also facts that no longer hold")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra import history

        facts = history.known(store, user_id, args.about, args.past)
        if not facts:
            print(f'Nothing that was taught is about "{args.about}".' if args.about else "Nothing was taught yet.")
        else:
            print(rows([row(fact) for fact in facts], ""))


def row(fact: dict[str, Any]) -> tuple[str, str, str, str]:
    """A fact as columns: its number, what it says, its lesson, since or from when until when."""
    if fact["forgotten"]:
        return f"fact {fact['id']}", "(forgotten)", f"lesson {fact['lesson']}", f"until {day(fact['valid_until'])}"
    held = f"since {day(fact['valid_from'])}"
    if fact["valid_until"]:
        held = f"{day(fact['valid_from'])} to {day(fact['valid_until'])}"
    return f"fact {fact['id']}", fact["answer"], f"lesson {fact['lesson']}", held
