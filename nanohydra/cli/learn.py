"""`nanohydra learn`: takes in what is to be taught, answers from it at once, trains it, and shows the receipt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nanohydra.cli.lessons import counted, day, find_base, find_lesson, memory, memory_parser, title
from nanohydra.cli.parsing import parse
from nanohydra.errors import UserError
from nanohydra.hydra.config import LearnConfig

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nanohydra.hydra.material import Material
    from nanohydra.hydra.teaching import Found
    from nanohydra.store import Lesson, Store

SETTINGS = tuple(LearnConfig.__dataclass_fields__)


def main(argv: list[str]) -> None:
    """Teaches one lesson, or goes on with those that wait."""
    p = memory_parser(
        "learn",
        "Teach facts or a document. They can be asked about at once; minutes later they are in an adapter that has passed an "
        "exam, or you are told why not. Without anything to learn: goes on with the lessons that wait.",
        "nanohydra learn [FILE | - | --text TEXT | --pairs FILE] [--setting value ...]",
    )
    p.add_argument(
        "file", type=str | None, nargs="?", default=None, help="txt, md, pdf, html, csv or jsonl; -: standard input"
    )
    p.add_argument("--text", type=str | None, default=None, help="what is to be learned, as text")
    p.add_argument("--pairs", type=str | None, default=None, help='JSON lines of {"question": ..., "answer": ...}')
    p.add_argument("--name", type=str, default="", help="the lesson's name (default: from what it is about)")
    p.add_argument("--base", type=str, default="demo", help="a name under the bases folder, or a model folder")
    p.add_argument(
        "--yes", action="store_true", help="do not ask: where facts contradict earlier ones, the newest hold"
    )
    p.add_argument(
        "--later", action="store_true", help="only keep and queue it; a server trains it, or: nanohydra learn"
    )
    p.add_argument(
        "--again", type=str | None, default=None, help="train this lesson once more, with the settings given"
    )
    p.add_class_arguments(LearnConfig, as_group=False)
    args = parse(p, argv)
    config = LearnConfig(**{name: args[name] for name in SETTINGS})
    given = [name for name in ("file", "text", "pairs", "again") if args[name] is not None]
    if len(given) > 1:
        raise UserError(f"Give one of {', '.join(given)}, not {len(given)}: each lesson is of one piece.")
    with memory(args.database) as (store, user_id):
        if args.again is not None:
            from nanohydra.hydra.teaching import plain_settings

            old = find_lesson(store, user_id, args.again)
            if old.state == "queued":
                store.cancel(old.id, user_id)  # to be queued anew, with these settings
            kept = {name: old.settings[name] for name in ("lessons",) if name in old.settings}
            lesson = store.requeue(old.id, user_id, {**plain_settings(config), **kept})
        elif not given:
            go_on(store, user_id)
            return
        else:
            lesson = teach(store, user_id, take(args), find_base(args.base), config, yes=args.yes)
        if args.later:
            print(f"{title(lesson)} waits to be trained: by the server, or with: nanohydra learn")
        else:
            train(store, user_id, [lesson.id])


def go_on(store: Store, user_id: int) -> None:
    """Trains what waits. Raises UserError where nothing does."""
    waiting = [lesson.id for lesson in store.open_lessons() if lesson.user_id == user_id]
    if not waiting:
        raise UserError("Name something to learn: nanohydra learn FILE, or --text TEXT. No lesson waits to be trained.")
    train(store, user_id, waiting)


def train(store: Store, user_id: int, lesson_ids: list[int]) -> list[Lesson]:
    """Has lessons made in the foreground and prints their receipts; returns them. Raises UserError where one failed."""
    from nanohydra.cli.foreground import make
    from nanohydra.hydra.receipt import as_text

    lessons = make(store, lesson_ids, user_id)
    for lesson in lessons:
        print(f"\n{title(lesson)}: {lesson.state}")
        if lesson.receipt:
            print(as_text(lesson.receipt))
        elif lesson.error:
            print(lesson.error)
    # Without facts there is nothing to train, and retrieval is all that was promised.
    if failed := [one for one in lessons if one.state == "failed" and store.facts(user_id, one.id)]:
        raise UserError(f"{title(failed[0])} failed; it is still answered by retrieval. Again: --again {failed[0].id}")
    return lessons


def take(args: Namespace) -> Material:
    """The material that the command line names. Raises UserError."""
    from nanohydra.hydra.reading import take_in

    if args.pairs is not None:
        return take_in(pairs=read_pairs(Path(args.pairs).expanduser()), name=args.name or Path(args.pairs).stem)
    if args.text is not None or args.file == "-":
        return take_in(text=args.text if args.text is not None else sys.stdin.read(), name=args.name)
    file = Path(args.file).expanduser()
    if not file.is_file():
        raise UserError(f'There is no file {args.file}. To teach a sentence: nanohydra learn --text "..."')
    return take_in(file=file, name=args.name)


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Questions and answers from JSON lines. Raises UserError with the line that is none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"Cannot read {file}: {e}. Give a UTF-8 file of JSON lines.") from e
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pairs.append((str(row["question"]), str(row["answer"])))
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f'{file}, line {number}: write {{"question": "...", "answer": "..."}}.') from e
    return pairs


def teach(
    store: Store, user_id: int, material: Material, base: tuple[str, str], config: LearnConfig, *, yes: bool = False
) -> Lesson:
    """Says what is new, and keeps it as a lesson on the queue. Raises UserError where nothing is new.

    Args: base: its name and content hash; yes: nobody is asked, and the newest holds.
    """
    from nanohydra.hydra import teaching

    found = teaching.look(store, user_id, material)
    tell(found)
    lesson, _ = teaching.add(store, user_id, found, base, config, leave_out=left_out(found, yes))
    print(f"Kept as {title(lesson)}: you can ask about it now (nanohydra chat).")
    return lesson


def tell(found: Found) -> None:
    """Prints what is new, known and contradicting."""
    novelty, material = found.novelty, found.material
    for sign, facts in (("+", novelty.new), ("=", novelty.known)):
        for fact in facts:
            print(f"  {sign} {fact.answer}" + ("   (known)" if sign == "=" else ""))
    for fact, old in novelty.contradicting:
        print(f"  ~ {fact.answer}   (until now, since {day(old.since)}, lesson {old.lesson}: {old.fact.value})")
    for note in material.notes:
        print(f"  note: {note}")
    parts = [
        f"{counted(len(material.facts), 'fact')} in {counted(len(material.passages), 'passage')}",
        f"{len(novelty.new)} new",
        f"{len(novelty.known)} known" if novelty.known else "",
        f"{len(novelty.contradicting)} in place of an earlier one" if novelty.contradicting else "",
        f"{len(novelty.unsure)} unsure" if novelty.unsure else "",
    ]
    print(f'"{material.name}": {", ".join(filter(None, parts))}')
    if material.passages and not material.facts:
        print("No sentence in it is one that facts are read from: it is answered by retrieval alone.")


def left_out(found: Found, yes: bool) -> list[str]:
    """The keys of facts that are not to be taught: unsure ones that a person at the terminal refuses."""
    out = []
    for fact, old in found.novelty.unsure:
        told = f"  ? {fact.answer}   (lesson {old.lesson} has: {old.fact.answer})"
        if yes:
            print(f"{told} Taught too.")
        elif not (sys.stdin.isatty() and sys.stdout.isatty()):
            print(f"{told} Left out, as it may be the same; to teach it: --yes")
            out.append(fact.key)
        elif input(f"{told} Teach it too? [Y/n] ").strip().lower() in ("n", "no"):
            out.append(fact.key)
    return out
