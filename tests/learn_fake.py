"""A stand-in for the process that makes a lesson: it does as the lesson's settings say, without a model.

Settings: `seconds` to take, `crash` (ends with status 3), `silent` (tells nothing), `state` of the outcome, `once` (a file: the
crash or silence happens only until it is there). What is taught goes into the adapter's files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any


def main() -> None:
    folder = Path(sys.argv[1])
    Thread(target=end_with_stdin, daemon=True).start()
    job = json.loads((folder / "job.json").read_text())
    if job["kind"] == "retest":
        right = {id: 3 if "forgotten" not in fact["value"] else 0 for id, fact in job["facts"].items()}
        write_json(folder / "outcome.json", {"state": "asked", "right": right, "job": job["digest"]})
        return
    settings = job["settings"]
    again = "once" in settings and Path(settings["once"]).exists()
    if "once" in settings:
        Path(settings["once"]).touch()
    if settings.get("silent") and not again:
        time.sleep(60)
    end = time.monotonic() + settings.get("seconds", 0)
    while True:
        print(json.dumps({"stage": "train", "step": 1, "of": 2, "seconds_left": 1.0, "detail": ""}), flush=True)
        if time.monotonic() >= end:
            break
        time.sleep(0.02)
    if settings.get("crash") and not again:
        sys.exit(3)
    write_json(folder / "outcome.json", {**outcome(job, folder), "job": job["digest"]})


def outcome(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    state = job["settings"].get("state", "published")
    if state == "published":
        adapter = folder / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_text(json.dumps(job.get("material") or job["lessons"]))
    return {"state": state, "receipt": {"state": state}, "reason": "" if state == "published" else "too weak"}


def write_json(target: Path, value: Any) -> None:
    target.with_suffix(".tmp").write_text(json.dumps(value))
    target.with_suffix(".tmp").replace(target)


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
