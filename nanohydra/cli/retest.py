"""`nanohydra retest`: asks what was taught again; lessons whose facts fade are taught again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from nanohydra.cli.lessons import counted, memory, memory_parser, minute, rows, title
from nanohydra.cli.parsing import parse
from nanohydra.errors import UserError

if TYPE_CHECKING:
    from nanohydra.hydra.worker import Worker


def main(argv: list[str]) -> None:
    """Asks the facts that are due."""
    p = memory_parser("retest", "Ask the facts that are due again (spaced repetition); what faded is taught again.")
    p.add_argument("--all", action="store_true", help="every fact, due or not")
    p.add_argument("--later", action="store_true", help="only queue lessons whose facts faded")
    args = parse(p, argv)
    with memory(args.database) as (store, user_id):
        from nanohydra.hydra.worker import Worker, WorkerConfig

        worker = Worker(store, WorkerConfig(niceness=0))
        with worker.alone(wait=False) as first:
            if not first:
                from nanohydra.hydra.schedule import WANTED

                store.set_setting(WANTED, {"user_id": user_id, "everything": args.all, "at": minute(datetime.now())})
                print("The server asks them as soon as it trains no lesson. See what came of it: nanohydra log")
                return
            again = asked(worker, user_id, args.all)
        if again and not args.later:
            from nanohydra.cli.learn import train

            train(store, user_id, again)


def asked(worker: Worker, user_id: int, everything: bool) -> list[int]:
    """Asks the facts and prints what is known; the lessons that are to be taught again."""
    from nanohydra.hydra import retest

    store, now = worker.store, datetime.now().astimezone()
    probes = retest.due(store, now, user_id, everything)
    if not probes:
        print("No fact is due. Every fact, due or not: nanohydra retest --all")
    again = []
    for probe in probes:
        right = worker.probe(probe)
        if right is None:
            raise UserError("The process that asks ended early. Is its base still there? See: nanohydra info")
        again += retest.record(store, probe, right, now)
        known = sum(2 * count > retest.WORDINGS for count in right.values())
        print(f"{probe.lessons[0].base_name}: {known} of {counted(len(probe.facts), 'fact')} known")
        print(
            rows([(f"{right[str(fact.id)]} of {retest.WORDINGS}", fact.question, fact.value) for fact in probe.facts])
        )
    for lesson in again:
        print(f"{title(lesson)} fades and is taught again.")
    return [lesson.id for lesson in again]
