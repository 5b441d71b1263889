"""Running a lab: what is not finished yet, side by side, until all is."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nanohydra.errors import UserError
from nanohydra.files import disk_errors
from nanohydra.lab.config import LabSpec
from nanohydra.lab.pool import cores, run_local, run_ray, visible_gpus
from nanohydra.lab.runs import Job, LabFolder
from nanohydra.lab.statistics import fewest_seeds

Say = Callable[[str], None]


def run_lab(
    spec: LabSpec, out: Path, *, jobs: int | None = None, ray: str | None = None, say: Say = print
) -> LabFolder:
    """Runs what is missing of `spec` in the folder `out`: tuning trials first, then variants x seeds.

    Killed at any moment, it goes on from there when called again: finished runs have a result file and are not
    repeated, an unfinished one is given its folder again.

    Args:
        jobs: how many runs at a time (default: one a GPU, or one a core where there is none).
        ray: address of a Ray cluster that takes the runs instead of this machine.
    Raises:
        UserError: some runs failed (not: diverged). All others are finished then.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}.")
    folder = LabFolder(out, spec)
    with _only_one(folder.path):
        folder.write_spec()
        _tell_if_too_few(spec, say)
        try:
            _run_all(folder.tuning_jobs(), "tuning runs", spec, jobs, ray, say)
            _run_all(folder.jobs(), "runs", spec, jobs, ray, say)
        except KeyboardInterrupt:
            say("Interrupted. The same command goes on from here.")
            raise
    return folder


def _tell_if_too_few(spec: LabSpec, say: Say) -> None:
    variants = len(spec.variants)
    family = len(spec.metrics) * (variants - 1 if spec.pairs == "baseline" else variants * (variants - 1) // 2)
    needed = fewest_seeds(family)
    if len(spec.seeds) < needed:
        say(
            f"{spec.name}: {len(spec.seeds)} seeds cannot show any difference "
            f"{f'over {family} comparisons' if family > 1 else 'at all'}: use at least {needed}."
        )


def _run_all(planned: Sequence[Job], what: str, spec: LabSpec, jobs: int | None, ray: str | None, say: Say) -> None:
    open_jobs = {job.folder: job for job in planned if job.result is None}
    if not planned:
        return
    say(f"{spec.name}: {len(planned)} {what}, {len(planned) - len(open_jobs)} finished before.")
    for job in open_jobs.values():
        job.prepare(spec.execute)
    gpus = visible_gpus() if open_jobs and not ray else []
    width = min(jobs or len(gpus) or cores(), max(1, len(open_jobs)))
    outcomes = run_ray(list(open_jobs), ray) if ray else run_local(list(open_jobs), width, gpus)
    failed: list[str] = []
    start = time.monotonic()
    for done, (folder, error) in enumerate(outcomes if open_jobs else [], 1):
        job = open_jobs[folder]
        left = (time.monotonic() - start) / done * (len(open_jobs) - done)
        name = f"{folder.parent.name} seed {job.seed}"
        if error:
            failed.append(f"{job.variant} seed {job.seed}: {error}")
        status = "FAILED" if error else (job.result or {}).get("status", "finished")
        say(f"  {done}/{len(open_jobs)}  {name}: {status}{f': {error}' if error else ''}  (about {_clock(left)} left)")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(planned)} {what} failed: {failed[0]}. Mend it and run the same command: finished "
            f"runs are kept."
        )


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds the lab's folder for this process; the system lets go of it when the process ends in whatever way."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UserError(
                f"Another process is running the lab in {path}. Wait for it, or choose another --out."
            ) from e
        yield


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
