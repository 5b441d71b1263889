"""What adapters cost: python bench/adapters.py [--parts decode attach steps] [--out F.json]

decode: a step of eight rows, each with its own adapter of rank 16 on every linear layer, beside the same step without
adapters (to reach: at most 1.10 times the time), in turn, after a step that gathers the rows' factors, on the weights as
loaded, and packed or int8 as for serving.
attach: from a folder on disk to the first use (at most 50 ms); a switch between adapters that are attached.
steps: seconds and memory of a LoRA training step beside a full one (at least 1.5 times as fast, at most 60% of the
memory), each in a process of its own, in turn. The shape is GPT-2's 124M, weights are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanohydra.adapt.attach import Adapters, Row
from nanohydra.adapt.config import AdapterConfig
from nanohydra.data.batch import Batch
from nanohydra.files import write_json
from nanohydra.infer.cache import KVCache
from nanohydra.infer.quantize import pack, quantize
from nanohydra.model.presets import preset
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token
from nanohydra.train.trainer import Trainer

ROWS = 8
KINDS: dict[str, Callable[[Transformer], Transformer]] = {
    "fp32": lambda model: model,
    "bf16": lambda model: model.to(torch.bfloat16),
    "fp32 packed": pack,
    "bf16 packed": lambda model: pack(model.to(torch.bfloat16)),
    "int8": quantize,
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--parts", nargs="+", choices=["decode", "attach", "steps"], default=["decode", "attach", "steps"])
    p.add_argument("--preset", default="gpt2-124m-shape")
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    p.add_argument("--context", type=int, default=256, help="tokens that each row holds already")
    p.add_argument("--runs", type=int, default=30, help="decode steps and attachments of each candidate")
    p.add_argument("--rows", type=int, default=2, help="training rows a step")
    p.add_argument("--length", type=int, default=256, help="tokens of a training row")
    p.add_argument("--pairs", type=int, default=3, help="pairs of training processes")
    p.add_argument("--steps", type=int, default=6, help="training steps of each, the first not counted")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--out", type=Path, help="write the numbers here as JSON")
    p.add_argument("--train", choices=["full", "lora", "top"], help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.train:
        print(json.dumps(train(args.train, args)))
        return
    report: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    report["torch"] = torch.__version__
    print(f"{args.preset}, rank {args.rank}, {args.threads} thread(s)")
    for part in args.parts:
        report[part] = {"decode": decode, "attach": attach, "steps": steps}[part](args)
    if args.out:
        write_json(args.out, report)


def make_adapters(model: Transformer, args: argparse.Namespace, folder: Path | None = None) -> Adapters:
    """Eight adapters with all values random, saved and detached again where a folder is given."""
    adapters = Adapters(model)
    for i in range(ROWS):
        name = f"adapter-{i}"
        adapter = adapters.create(name, AdapterConfig(rank=args.rank), seed=i)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.normal_(std=0.01)
        adapters.freeze(name)
        if folder:
            adapters.save(name, folder / name)
            adapters.remove(name)
    return adapters


def quartiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(values, n=4)


# --- decode ----------------------------------------------------------------------------------------------------------


def decode(args: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for kind in args.kinds:
        torch.manual_seed(0)
        model = KINDS[kind](Transformer(preset(args.preset)).eval())
        adapters = make_adapters(model, args)
        step = make_step(model, adapters, args.context)
        names = adapters.names
        cases: dict[str, list[Row]] = {
            "none": [None] * ROWS,
            "eight": [*names],
            "one row of eight": [names[0], *[None] * (ROWS - 1)],
            "all rows the same": [names[0]] * ROWS,
        }
        times: dict[str, list[float]] = {case: [] for case in (*cases, "eight, the first step")}
        for _ in range(args.runs):
            for case, rows in cases.items():
                first = step(rows)  # gathers the rows' factors, which the steps after it share
                times[case].append(step(rows))
                if case == "eight":
                    times["eight, the first step"].append(first)
        for case, seconds in times.items():
            ratios = quartiles([a / b for a, b in zip(seconds, times["none"], strict=True)])
            results.append({"kind": kind, "case": case, "seconds": statistics.median(seconds), "ratio": ratios})
            spread = f"{ratios[1]:.3f} x none ({ratios[0]:.3f} to {ratios[2]:.3f})"
            print(f"decode {kind:12} {case:18} {1000 * statistics.median(seconds):7.2f} ms  {spread}", flush=True)
    return results


def make_step(model: Transformer, adapters: Adapters, context: int) -> Callable[[list[Row]], float]:
    """A function that decodes one token in every row, and tells the seconds."""
    held = torch.bfloat16 if next(model.model.layers.parameters()).dtype == torch.bfloat16 else torch.float32
    cache = KVCache(model.config, slots=ROWS, dtype=held)
    slots = [cache.allocate() for _ in range(ROWS)]
    ids = torch.randint(0, model.config.vocab_size, (ROWS, context), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model.hidden(ids, cache=cache.rows(slots))

    def step(rows: list[Row]) -> float:
        start = time.perf_counter()
        with torch.inference_mode(), adapters.rows(rows):
            hidden = model.hidden(ids[:, :1], cache=cache.rows(slots))
            model.logits(hidden[:, -1]).argmax(-1).tolist()
        seconds = time.perf_counter() - start
        for slot in slots:
            cache.truncate(slot, context)
        return seconds

    return step


# --- attach ----------------------------------------------------------------------------------------------------------


def attach(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Transformer(preset(args.preset)).eval()
    cold, hot = [], []
    with tempfile.TemporaryDirectory() as name:
        adapters = make_adapters(model, args, Path(name))
        folders = sorted(Path(name).iterdir())
        for i in range(args.runs):
            start = time.perf_counter()
            loaded = adapters.load(folders[i % ROWS])
            with torch.inference_mode(), adapters.rows([loaded]):
                cold.append(time.perf_counter() - start)
            start = time.perf_counter()
            with torch.inference_mode(), adapters.rows([loaded]):
                hot.append(time.perf_counter() - start)
            adapters.remove(loaded)
        size = sum(file.stat().st_size for file in folders[0].iterdir())
    result = {"cold_seconds": quartiles(cold), "hot_seconds": quartiles(hot), "bytes": size}
    for state in ("cold", "hot"):
        low, middle, high = (1000 * value for value in result[f"{state}_seconds"])  # type: ignore[attr-defined]
        print(f"attach {state}: {middle:.3f} ms ({low:.3f} to {high:.3f}), {size / 1e6:.1f} MB", flush=True)
    return result


# --- training steps --------------------------------------------------------------------------------------------------


class Clock(Hook):
    """Notes when each step is over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        self.times.append(time.perf_counter())


class RandomRows:
    """Rows of random tokens: a pure function of the step."""

    def __init__(self, vocabulary: int, rows: int, length: int) -> None:
        self.vocabulary, self.shape = vocabulary, (rows, length + 1)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        ids = torch.randint(0, self.vocabulary, self.shape, generator=torch.Generator().manual_seed(step))
        return Batch(ids[:, :-1], ids[:, 1:])


def train(how: str, args: argparse.Namespace) -> dict[str, float]:
    """One process's work: seconds of a step, and its peak memory in bytes (libraries included)."""
    torch.manual_seed(0)
    model = Transformer(preset(args.preset))
    if how != "full":
        adapters = Adapters(model)
        top = model.config.num_hidden_layers // 4 if how == "top" else None
        adapters.create("new", AdapterConfig(rank=args.rank, top_layers=top))
        adapters.select("new")
    clock = Clock()
    source = RandomRows(model.config.vocab_size, args.rows, args.length)
    config = TrainConfig(steps=args.steps, batch_size=args.rows)
    Trainer(model, next_token, source, config, hooks=[clock], quiet=True).fit()
    seconds = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    return {"seconds": statistics.median(seconds), "bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this program held. (Linux counts in ru_maxrss what the process that started it held, too.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def steps(args: argparse.Namespace) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {"full": [], "lora": [], "top": []}
    passed = ["preset", "rank", "rows", "length", "steps", "threads"]
    options = [text for name in passed for text in (f"--{name}", str(getattr(args, name)))]
    for _ in range(args.pairs):
        for how in runs:
            command = [sys.executable, __file__, "--train", how, *options]
            runs[how].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    result: dict[str, Any] = {}
    for how, measured in runs.items():
        seconds, peak = (statistics.median(run[key] for run in measured) for key in ("seconds", "bytes"))
        ratios = [full["seconds"] / run["seconds"] for run, full in zip(measured, runs["full"], strict=True)]
        memory = [run["bytes"] / full["bytes"] for run, full in zip(measured, runs["full"], strict=True)]
        result[how] = {"seconds": seconds, "bytes": peak, "speedups": ratios, "memory_shares": memory}
        told = (
            f"{statistics.median(ratios):.2f} x as fast as full, {100 * statistics.median(memory):.0f}% of its memory"
        )
        print(f"step {how:5} {seconds:.3f} s, peak {peak / 1e9:.2f} GB: {told}", flush=True)
    return result


if __name__ == "__main__":
    main()
