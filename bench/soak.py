"""A server under many unruly clients: python bench/soak.py [--minutes 10] [--clients 50] [--out F.json]

Clients ask for whole answers and streams, hang up in the middle, send what no server should accept; half-way the engine's
process is killed. Every whole answer is compared with offline decoding of the same prompt and settings. Told are wrong
answers, requests that got stuck, errors by kind, and how the memory of the server and its engine grew; the exit status is 1
where an answer was wrong, a request was stuck, an unforeseen error came, or memory grew by more than 5%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serving import Served, children, nanohydra, random_base

STUCK_SECONDS = 60
BAD = (
    {"prompt": []},
    {"prompt": "x" * 100_000},
    {"prompt": "x", "temperature": 99},
    {"prompt": "x", "model": "nobody"},
    {"prompt": [999_999_999]},
    {"messages": 3},
)
TOLD_OF_KILL = (500, 503)


@dataclass
class Tally:
    """What happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unforeseen: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    killed: float | None = None

    def excused(self) -> bool:
        """Whether the engine was killed a short while ago, so that answers may fail."""
        return self.killed is not None and time.monotonic() - self.killed < STUCK_SECONDS


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--clients", type=int, default=50)
    p.add_argument("--prompts", type=int, default=40, help="different prompts, of which many share beginnings")
    p.add_argument("--tokens", type=int, default=32, help="most tokens of an answer")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = random_base(Path(name) / "tiny", context=512)
        asked = questions(args.prompts, args.tokens, args.seed)
        expected = offline(base, asked)
        with nanohydra(
            base, Path(name), "--engine.max_seq_len", "512", "--max_open_per_user", str(args.clients + 16)
        ) as served:
            tally = asyncio.run(soak(served, asked, expected, args))
    report = summary(tally, args)
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["passed"] else 1


def questions(count: int, tokens: int, seed: int) -> list[dict[str, Any]]:
    """Bodies of completions: greedy and drawn, with few beginnings among them."""
    chooser = random.Random(seed)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
    beginnings = [" ".join(chooser.choices(words, k=30)) for _ in range(4)]
    bodies = []
    for i in range(count):
        prompt = f"{chooser.choice(beginnings)} {' '.join(chooser.choices(words, k=chooser.randint(1, 20)))}"
        drawn = {"temperature": 1.0, "top_p": 0.9, "seed": i} if i % 2 else {"temperature": 0.0}
        bodies.append({"prompt": prompt, "max_tokens": chooser.randint(2, tokens), **drawn})
    return bodies


def offline(base: Path, bodies: list[dict[str, Any]]) -> list[str]:
    """The right answers."""
    from nanohydra.infer.config import SamplingParams
    from nanohydra.jobs.bases import open_engine

    engine = open_engine(str(base))
    texts = []
    for body in bodies:
        params = SamplingParams(**{name: value for name, value in body.items() if name != "prompt"})
        texts.append(engine.generate([engine.tokenizer.encode(body["prompt"])], params)[0].text)
    return texts


async def soak(served: Served, bodies: list[dict[str, Any]], expected: list[str], args: argparse.Namespace) -> Tally:
    """The clients, until the time is over."""
    tally, end = Tally(), time.monotonic() + 60 * args.minutes
    limits = httpx.Limits(max_connections=args.clients + 8)
    async with httpx.AsyncClient(base_url=served.url, timeout=STUCK_SECONDS, limits=limits) as http:
        clients = [client(http, bodies, expected, tally, end, args.seed + n) for n in range(args.clients)]
        await asyncio.gather(*clients, watch(served, tally, end), kill(served, tally, 30 * args.minutes))
        metrics = (await http.get("/metrics")).text
    left = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_")]
    if any(float(line.rsplit(" ", 1)[1]) for line in left):
        tally.unforeseen.append(f"requests are left in the engine: {left}")
    return tally


async def client(
    http: httpx.AsyncClient, bodies: list[dict[str, Any]], expected: list[str], tally: Tally, end: float, seed: int
) -> None:
    """One client: asks, hangs up, misbehaves."""
    chooser = random.Random(seed)
    while time.monotonic() < end:
        number = chooser.randrange(len(bodies))
        what = chooser.choices(("whole", "stream", "hang up", "abandon", "bad"), (4, 4, 1, 1, 1))[0]
        try:
            if what == "bad":
                status = (await http.post("/v1/completions", json=chooser.choice(BAD))).status_code
                outcome = "bad, refused" if 400 <= status < 500 or tally.excused() else f"bad, status {status}"
            elif what == "abandon":
                outcome = await abandon(http, bodies[number], chooser.uniform(0.01, 0.5))
            else:
                outcome, text = await ask(http, bodies[number], what)
                if outcome in ("whole", "stream") and text != expected[number]:
                    tally.wrong.append(f"{bodies[number]}: {text!r}, not {expected[number]!r}")
                elif what == "hang up" and not expected[number].startswith(text):
                    tally.wrong.append(f"{bodies[number]}: began {text!r}")
        except httpx.TimeoutException:
            outcome = "stuck"
        except httpx.TransportError as e:
            outcome = f"transport {type(e).__name__}"
        tally.outcomes[outcome] += 1
        untold = outcome == "told of the kill" and not tally.excused()
        if untold or outcome.startswith(("transport", "bad, status", "status")):
            tally.unforeseen.append(outcome)
        await asyncio.sleep(chooser.expovariate(20))


async def abandon(http: httpx.AsyncClient, body: dict[str, Any], seconds: float) -> str:
    """Asks for a whole answer and does not wait for it."""
    try:
        await http.post("/v1/completions", json=body, timeout=httpx.Timeout(STUCK_SECONDS, read=seconds))
    except httpx.ReadTimeout:
        return "abandoned"
    return "abandoned too late"


async def ask(http: httpx.AsyncClient, body: dict[str, Any], what: str) -> tuple[str, str]:
    """What became of it, and the text as far as it was read."""
    if what == "whole":
        response = await http.post("/v1/completions", json=body)
        if response.status_code == 200:
            return "whole", response.json()["choices"][0]["text"]
        return told(response.status_code), ""
    text, pieces = "", 0
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        if response.status_code != 200:
            return told(response.status_code), ""
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return "stream", text
            if line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return "told of the kill", text
                text += chunk["choices"][0]["text"]
                pieces += 1
                if what == "hang up" and pieces == 2:
                    return "hung up", text
    return "stream without an end", text


def told(status: int) -> str:
    """A refusal that a kill explains, or another."""
    return "told of the kill" if status in TOLD_OF_KILL else f"status {status}"


async def watch(served: Served, tally: Tally, end: float) -> None:
    """Notes the memory."""
    while time.monotonic() < end:
        await asyncio.sleep(1)
        tally.memory.append((time.monotonic(), served.memory()))


async def kill(served: Served, tally: Tally, seconds: float) -> None:
    """Kills the engine's process half-way."""
    await asyncio.sleep(seconds)
    for pid in children(served.process.pid):
        os.kill(pid, signal.SIGKILL)
    tally.killed = time.monotonic()


def summary(tally: Tally, args: argparse.Namespace) -> dict[str, Any]:
    """The numbers. Memory: the new engine's, as the old one's is gone; its first third is for warming up."""
    after = [size for when, size in tally.memory if tally.killed and when > tally.killed]
    third = max(1, len(after) // 3)
    early, late = (float(np.median(part)) if part else 0.0 for part in (after[third : 2 * third], after[-third:]))
    growth = late / early - 1 if early else 0.0
    stuck = tally.outcomes["stuck"] + tally.outcomes["stream without an end"]
    return {
        "minutes": args.minutes,
        "clients": args.clients,
        "requests": tally.outcomes.total(),
        "outcomes": dict(tally.outcomes.most_common()),
        "wrong_answers": len(tally.wrong),
        "stuck": stuck,
        "unforeseen": sorted(set(tally.unforeseen)),
        "memory_mib": [round(early / 2**20, 1), round(late / 2**20, 1)],
        "memory_growth": round(growth, 4),
        "examples": tally.wrong[:3],
        "passed": not (tally.wrong or stuck or tally.unforeseen) and growth <= 0.05,
    }


if __name__ == "__main__":
    sys.exit(main())
