"""The process that makes one lesson: `python -m nanohydra.hydra.lesson_process FOLDER`.

It reads FOLDER/job.json, tells its progress as lines of JSON on stdout, and leaves FOLDER/outcome.json as the very last thing
(beside FOLDER/adapter where the lesson passed). It knows no database: killed at any moment, it has changed nothing, and it may
be run again. It ends when stdin does, so it never outlives its worker.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from nanohydra.errors import UserError
from nanohydra.files import write_json
from nanohydra.hydra.config import LearnConfig, Progress
from nanohydra.hydra.material import Fact, Material


def main(argv: list[str] | None = None) -> int:
    """Makes the lesson of the folder. What is the user's to mend is an outcome too; anything else ends with a traceback."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path)
    p.add_argument("--niceness", type=int, default=0)
    args = p.parse_args(argv)
    os.nice(args.niceness)
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to the log
    Thread(target=_end_with_stdin, daemon=True).start()

    def tell(progress: Progress) -> bool:
        told.write(json.dumps(progress.to_data()).encode() + b"\n")
        told.flush()
        return True

    job = json.loads((args.folder / "job.json").read_text(encoding="utf-8"))
    try:
        outcome = make(job, args.folder, tell)
    except UserError as e:
        outcome = {"state": "failed", "reason": str(e)}
    write_json(args.folder / "outcome.json", {**outcome, "job": job["digest"]})
    return 0


def make(job: dict[str, Any], folder: Path, tell: Callable[[Progress], bool]) -> dict[str, Any]:
    """The outcome of a job: what `outcome.json` is to hold. UserError."""
    from nanohydra.model.hub import base_id, find_base

    base = find_base(job["base"]["name"])
    if base_id(base) != job["base"]["id"]:
        raise UserError(f"The base {job['base']['name']} is another one now. Teach it again to teach it to this one.")
    if job["kind"] == "retest":
        from nanohydra.hydra.retest import ask

        return {"state": "asked", "right": ask(base, job, tell)}
    return taught(job, base, folder, tell)


def taught(job: dict[str, Any], base: Path, folder: Path, tell: Callable[[Progress], bool]) -> dict[str, Any]:
    """Makes a lesson or a consolidation; its adapter is in `folder`/adapter where it passed."""
    from nanohydra.hydra.lesson import Earlier, teach

    config = LearnConfig.read(job["settings"])
    before = [
        Earlier(one["lesson"], one["name"], tuple(map(Fact.from_data, one["facts"])), Path(one["folder"]))
        for one in job["lessons" if job["kind"] == "consolidation" else "earlier"]
    ]
    if job["kind"] == "consolidation":
        from nanohydra.hydra.consolidate import consolidate

        outcome = consolidate(base, before, config, folder / "work", tell, lesson=job["lesson"])
    else:
        material = Material.from_data(job["material"])
        forgotten = [Fact.from_data(fact) for fact in job["forgotten"]]
        outcome = teach(
            base, material, before, config, folder / "work", tell, lesson=job["lesson"], forgotten=forgotten
        )
    if outcome.folder is not None:
        Path(outcome.folder).rename(folder / "adapter")
    return {"state": outcome.state, "receipt": outcome.receipt, "reason": outcome.reason}


def _end_with_stdin() -> None:
    """Ends the process with its worker, whatever it is doing."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
