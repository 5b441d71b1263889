"""Requests that a fuzzer invents from the API's own description: none may end in a 5xx: python bench/fuzz.py [--cases 10000]

schemathesis draws bodies that fit the description and bodies that do not, in equal parts, for every operation; the server
runs a tiny base with random weights. Told are the answers' statuses; the exit status is 1 where one was a 5xx.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from serving import nanohydra, random_base

REFUSED = ("model", "presence_penalty", "frequency_penalty", "logit_bias", "suffix", "best_of", "dimensions")
SETTINGS: dict[str, Any] = {
    "phases": [Phase.generate],
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", type=int, default=10_000, help="about how many requests")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = random_base(Path(name) / "tiny", context=128)
        options = ("--max_tokens", "8", "--max_choices", "4", "--engine.max_seq_len", "128")
        with nanohydra(base, Path(name), *options) as served:
            report = fuzz(served.url, args.cases, args.seed)
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["failures"] else 0


def fuzz(url: str, cases: int, first_seed: int) -> dict[str, object]:
    """Sends about `cases` requests; what came back."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    bodies = sum(operation.method.upper() == "POST" for operation in operations)  # the rest has little to vary
    each = settings(max_examples=max(1, -(-cases // (2 * bodies))), **SETTINGS)
    told = Told()
    with requests.Session() as session:
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                send = told.sender(url, session, operation.label)
                try:
                    seed(first_seed)(each(given(operation.as_strategy(mode))(send)))()
                except Unsatisfiable:  # nothing to draw: an operation without parameters has no bad ones
                    continue
    return {
        "requests": told.statuses.total(),
        "slowest_seconds": round(told.slowest, 2),
        "statuses": dict(sorted(told.statuses.items())),
        "failures": told.failures[:20],
    }


@dataclass
class Told:
    """What the server answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def sender(self, url: str, session: requests.Session, label: str) -> Callable[[Case], None]:
        """Sends a case to an operation. In every other one what is refused at once is left out, so that it gets further."""

        def send(case: Case) -> None:
            if self.statuses.total() % 2 and isinstance(case.body, dict):
                case.body = {name: value for name, value in case.body.items() if name not in REFUSED}
            began = time.monotonic()
            response = case.call(base_url=url, session=session, timeout=60)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.statuses[f"{label} {response.status_code}"] += 1
            if response.status_code >= 500:
                self.failures.append(case.as_curl_command())

        return send


if __name__ == "__main__":
    sys.exit(main())
