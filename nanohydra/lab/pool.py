"""Where runs take place: side by side in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError
from nanohydra.lab.worker import failure, launch

Outcome = tuple[Path, str | None]
"""A run's folder, and why it failed (None: it has a result)."""


def run_local(folders: Sequence[Path], jobs: int, gpus: Sequence[str]) -> Iterator[Outcome]:
    """Runs workers, `jobs` at a time, and yields each as it ends. Ends the running ones when the caller stops.

    The cores are shared out evenly: busy threads of two trainings on one core would wait for each other. With `gpus`
    each worker sees one of them, in turn.
    """
    waiting = list(folders)
    running: dict[int, tuple[Path, subprocess.Popen[bytes]]] = {}  # by place: 0 to jobs - 1
    threads = str(max(1, cores() // jobs))
    try:
        while waiting or running:
            for place in range(jobs):
                if waiting and place not in running:
                    folder = waiting.pop(0)
                    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
                    if gpus:
                        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
                    running[place] = folder, launch(folder, environment)
            for place, (folder, process) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[place]
                    yield folder, failure(folder, status)
            time.sleep(0.02)
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()


def run_ray(folders: Sequence[Path], address: str) -> Iterator[Outcome]:
    """Runs the same workers as Ray tasks, one core (and one GPU where the cluster has any) each.

    Args:
        address: of a running cluster ("auto", "ray://host:10001"), or "local" for one on this machine. All its machines
            must see the lab's folder under the same path.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as e:
        raise UserError("Ray is not installed. Run: pip install 'nanohydra[ray]', or leave --ray out.") from e
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as e:
        raise UserError(f"No Ray cluster answers at {address} ({' '.join(str(e).split())[:200]}).") from e
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus)(_ray_task)
        pending: dict[Any, Path] = {task.remote(str(folder.resolve())): folder for folder in folders}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            folder = pending.pop(done[0])
            try:
                yield folder, ray.get(done[0])
            except ray.exceptions.RayError as e:
                yield folder, " ".join(str(e).split())[-300:]
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _ray_task(folder: str) -> str | None:
    process = launch(Path(folder), {"OMP_NUM_THREADS": "1"})
    return failure(Path(folder), process.wait())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them; asked of the driver, without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU")]
