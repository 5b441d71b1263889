"""`nanohydra forget`: drops a fact, trains its lesson without it, and shows that it is gone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nanohydra.cli.lessons import counted, memory, memory_parser, rows, title
from nanohydra.cli.parsing import parse
from nanohydra.errors import UserError

if TYPE_CHECKING:
    from nanohydra.store import LessonFact


def main(argv: list[str]) -> None:
    """Forgets facts and proves it."""
    p = memory_parser(
        "forget",
        "Drop a fact for good: from retrieval at once, from the weights by training its lesson without it. The receipt then "
        "shows that its recall fell to the base's.",
    )
    p.add_argument("fact", type=str, help='its number, its question, or words of it (see: nanohydra known "Mira")')
    p.add_argument("--reason", type=str, default="", help="why, for the history")
    p.add_argument("--yes", action="store_true", help="do not ask, also where several facts are meant")
    p.add_argument("--later", action="store_true", help="train the lesson later")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra import history

        facts = history.find_facts(store, user_id, args.fact)
        if len(facts) > 1 and not args.yes:
            agree(facts)
        before = {
            row["key"]: row for lesson in store.lessons(user_id) for row in (lesson.receipt or {}).get("facts", ())
        }
        lessons = history.forget(store, user_id, [fact.id for fact in facts], args.reason)
        for fact in facts:
            print(f"Forgotten: {fact.answer} (lesson {fact.lesson_id})")
        for lesson in lessons:
            if lesson.state == "reverted":
                print(f"{title(lesson)} held nothing else and is reverted.")
        again = [lesson.id for lesson in store.open_lessons() if lesson.user_id == user_id]
        if again and args.later:
            print(f"{counted(len(again), 'lesson')} to be trained without it: by the server, or with: nanohydra learn")
        elif again:
            from nanohydra.cli.learn import train

            keys = {fact.key for fact in facts}
            for lesson in train(store, user_id, again):
                print(proof(before, [row for row in (lesson.receipt or {}).get("forgotten", ()) if row["key"] in keys]))


def proof(before: Mapping[str, Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """How often each forgotten fact was told before and is now, with its lesson's adapter forced on, and by the base."""
    lines = []
    for row in after:
        old = before.get(row["key"])
        was = f"{old['forced']} of {old['asked']} times before, " if old else ""
        now = f"{row['forced']} of {row['asked']} now; the base alone: {row['base']} of {row['asked']}"
        lines.append(f"{row['question']} Told {was}{now}.")
    return "\n".join(lines)


def agree(facts: list[LessonFact]) -> None:
    """Asks whether all of these are meant. Raises UserError where they are not, or nobody can be asked."""
    table = rows([(f"fact {fact.id}", fact.answer) for fact in facts])
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        numbers = ", ".join(str(fact.id) for fact in facts)
        raise UserError(f"Facts {numbers} are meant. Give one number, or --yes for all of them.")
    print(table)
    if input(f"Forget all {len(facts)}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was forgotten. Give the number of one fact.")
