"""`nanohydra revert`: takes a lesson back."""

from __future__ import annotations

from nanohydra.cli.lessons import counted, find_lesson, memory, memory_parser, title
from nanohydra.cli.parsing import parse


def main(argv: list[str]) -> None:
    """Reverts one lesson and says what holds again."""
    p = memory_parser("revert", "Take a lesson back: its adapter, facts and passages. What it replaced holds again.")
    p.add_argument("lesson", type=str, help="its number or its name")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        lesson = find_lesson(store, user_id, args.lesson)
        if lesson.state == "reverted":
            print(f"{title(lesson)} was reverted already.")
            return
        before = {fact.id for fact in store.facts(user_id)}
        store.revert(lesson.id, user_id)
        after = store.facts(user_id)
        print(f"Reverted {title(lesson)}: {counted(len(before - {fact.id for fact in after}), 'fact')} taken back.")
        for fact in after:
            if fact.id not in before:
                print(f"Holds again: {fact.answer} (lesson {fact.lesson_id})")
        again = [
            one
            for one in store.lessons(user_id)
            if one.state == "queued" and lesson.id in one.settings.get("lessons", ())
        ]
        for one in again:
            print(f"{title(one)} held its knowledge and is trained again: nanohydra learn")
