"""Training speed beside transformers' Llama and nanoGPT: same size, tokens a step and number format, in turn.

    git clone https://github.com/karpathy/nanoGPT /tmp/nanoGPT
    python bench/train_throughput.py --nanogpt /tmp/nanoGPT --out throughput.json

Each contender is a process of its own that waits while another one is measured; a round gives each a few steps, so a busy
moment of the machine hits all alike, and ratios are taken within rounds. Ours is measured from one step to the next of the
real Trainer, with its data, logging and checks. Also says where our time goes, and how far we are from the matmul floor.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torch
import torch.nn.functional as F

from nanohydra.data.batch import Batch
from nanohydra.files import write_json
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token
from nanohydra.train.run import Run, environment
from nanohydra.train.trainer import Trainer

VOCAB, WIDTH, LAYERS, HEADS, LENGTH = 65, 384, 6, 6, 256
SHAPE = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=1024,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    max_position_embeddings=LENGTH,
    qk_norm=False,
)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GROUPS = {
    "attention": ("bmm", "softmax", "scaled_dot_product", "_Blockwise"),
    "loss": ("log_softmax", "CrossEntropy", "nll", "gather", "scatter"),
    "matmul": ("aten::mm", "aten::addmm", "aten::linear", "mkldnn"),
    "optimizer": ("adamw", "Optimizer"),
    "data": ("index_select", "randint", "stack"),
}


class Windows:
    """Random windows of random tokens; the same for all contenders."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.tokens = torch.randint(0, VOCAB, (1_000_000,), generator=torch.Generator().manual_seed(0))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        draw = torch.Generator().manual_seed(step)
        starts = torch.randint(0, len(self.tokens) - LENGTH - 1, (self.rows,), generator=draw)
        rows = self.tokens[starts[:, None] + torch.arange(LENGTH + 1)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def receive(parent: Connection) -> int | None:
    """What the parent asks for; None when it has enough or is gone."""
    try:
        return parent.recv()
    except EOFError:
        return None


class Metered(Hook):
    """Lets the trainer do as many steps as the parent asks for, and tells it how long they took."""

    def __init__(self, parent: Connection, clock: Callable[[], float]) -> None:
        self.parent, self.clock, self.left, self.start = parent, clock, 0, math.nan
        self.profiler: Any = None

    def before_step(self, trainer: Trainer) -> None:
        while self.left == 0:
            if self.profiler is not None:
                self.profiler.stop()
                self.parent.send(groups(self.profiler, self.clock() - self.start))
                self.profiler = None
            elif not math.isnan(self.start):
                self.parent.send(self.clock() - self.start)
            request = receive(self.parent)
            if request is None:
                os._exit(0)
            self.left = abs(request)
            if request < 0:
                self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
                self.profiler.start()
            self.start = self.clock()
        self.left -= 1


def groups(profiler: Any, seconds: float) -> dict[str, float]:
    """Seconds by kind of operation, from a profile of the uncompiled model."""
    found = dict.fromkeys([*GROUPS, "norms, activations, rotary, residual"], 0.0)
    for event in profiler.key_averages():
        kind = next((g for g, words in GROUPS.items() if any(w in event.key for w in words)), None)
        found[kind or "norms, activations, rotary, residual"] += event.self_cpu_time_total / 1e6
    found["outside torch"] = max(0.0, seconds - sum(found.values()))
    return found


def ours(parent: Connection, clock: Callable[[], float], rows: int, dtype: str, compiled: bool) -> None:
    """Runs the real Trainer until the parent has enough."""
    torch.manual_seed(0)
    config = TrainConfig(
        steps=10**9,
        lr=1e-4,
        dtype=dtype,
        compile="always" if compiled else "never",
        save_seconds=0.0,
        schedule="constant",
    )
    run = Run.create(Path(tempfile.mkdtemp()) / "run", {})
    Trainer(Transformer(SHAPE), next_token, Windows(rows), config, run, [Metered(parent, clock)], quiet=True).fit()


def serve(parent: Connection, clock: Callable[[], float], step: Callable[[], float]) -> None:
    """Does as many steps as the parent asks for, for a contender with a plain loop."""
    while (count := receive(parent)) is not None:
        start = clock()
        for _ in range(count):
            step()
        parent.send(clock() - start)


def plain_loop(
    loss_of: Callable[[Batch], torch.Tensor],
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rows: int,
    dtype: torch.dtype,
) -> Callable[[], float]:
    """The usual training step: autocast, backward, clip, step."""
    windows, number = Windows(rows), iter(range(10**9))

    def step() -> float:
        batch = windows.batch(next(number))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def transformers_llama(parent: Connection, clock: Callable[[], float], rows: int, dtype: str) -> None:
    """transformers' Llama of the same shape, with torch's fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def loss_of(batch: Batch) -> torch.Tensor:
        logits = model(input_ids=batch.input_ids).logits
        return F.cross_entropy(logits.float().view(-1, VOCAB), batch.targets.view(-1))

    serve(parent, clock, plain_loop(loss_of, list(model.parameters()), optimizer, rows, DTYPES[dtype]))


def nanogpt(parent: Connection, clock: Callable[[], float], rows: int, dtype: str, compiled: bool, folder: str) -> None:
    """nanoGPT's model and optimizer settings, in the loop of its train.py."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    shape = {"block_size": LENGTH, "vocab_size": VOCAB, "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH}
    gpt = GPT(GPTConfig(**shape, dropout=0.0, bias=False))
    optimizer = gpt.configure_optimizers(0.1, 1e-4, (0.9, 0.95), "cpu")
    model = torch.compile(gpt) if compiled else gpt
    loop = plain_loop(
        lambda batch: model(batch.input_ids, batch.targets)[1], list(gpt.parameters()), optimizer, rows, DTYPES[dtype]
    )
    serve(parent, clock, loop)


def child(target: Callable[..., None], threads: int, clock: str, parent: Connection, *args: Any) -> None:
    torch.set_num_threads(threads)
    target(parent, CLOCKS[clock], *args)


class Contender:
    """A process that trains when asked."""

    def __init__(self, target: Callable[..., None], threads: int, clock: str, *args: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, other = spawn.Pipe()
        self.process = spawn.Process(target=child, args=(target, threads, clock, other, *args), daemon=True)
        self.process.start()
        other.close()

    def ask(self, steps: int) -> Any:
        self.pipe.send(steps)
        return self.pipe.recv()


def matmul_peak(rows: int, dtype: torch.dtype) -> float:
    """The best FLOP/s of the model's own largest product, of 30 tries."""
    x = torch.randn(rows * LENGTH, WIDTH).to(dtype)
    w = torch.randn(1024, WIDTH).to(dtype)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        F.linear(x, w)
        times.append(time.perf_counter() - start)
    return 2 * x.shape[0] * w.numel() / min(times)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT (left out when not given)")
    p.add_argument("--rows", type=int, default=32, help=f"rows of {LENGTH} tokens a step")
    p.add_argument("--dtype", choices=DTYPES, default="bf16")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--steps", type=int, default=2, help="steps a round")
    p.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: a busy machine disturbs it less; one thread only"
    )
    p.add_argument("--only", nargs="+", help="contenders by name")
    p.add_argument("--out", type=Path, help="write a JSON report here")
    args = p.parse_args()
    makers: dict[str, tuple[Any, ...]] = {
        "nanohydra": (ours, args.threads, args.clock, args.rows, args.dtype, False),
        "nanohydra compiled": (ours, args.threads, args.clock, args.rows, args.dtype, True),
        "transformers Llama": (transformers_llama, args.threads, args.clock, args.rows, args.dtype),
    }
    if args.nanogpt:
        folder = str(args.nanogpt.resolve())
        for name, compiled in (("nanoGPT", False), ("nanoGPT compiled", True)):
            makers[name] = (nanogpt, args.threads, args.clock, args.rows, args.dtype, compiled, folder)
    names = [n for n in makers if not args.only or n in args.only]
    contenders, warmup = {}, {}
    for name in names:
        start = time.perf_counter()
        contenders[name] = Contender(*makers[name])
        contenders[name].ask(2)
        warmup[name] = time.perf_counter() - start
    tokens = args.rows * LENGTH * args.steps
    speed: dict[str, list[float]] = {name: [] for name in names}
    torch.set_num_threads(args.threads)
    peak = 0.0
    for i in range(args.rounds):
        order = names if i % 2 == 0 else names[::-1]
        for name in order:
            speed[name].append(tokens / contenders[name].ask(args.steps))
        peak = max(peak, matmul_peak(args.rows, DTYPES[args.dtype]))
    report = summary(speed, warmup, args)
    if "nanohydra" in contenders:
        spent = contenders["nanohydra"].ask(-3)
        step = sum(spent.values())
        print("\nWhere the time goes (uncompiled, profiled):")
        for kind, seconds in sorted(spent.items(), key=lambda kv: -kv[1]):
            print(f"  {kind:<40} {seconds / step:6.1%}  {1000 * seconds / 3:8.1f} ms a step")
        report["shares"] = {kind: seconds / step for kind, seconds in spent.items()}
    for contender in contenders.values():
        contender.pipe.send(None)
    floor = peak / SHAPE.flops_per_token(LENGTH)
    best = max((statistics.median(v) for n, v in speed.items() if n.startswith("nanohydra")), default=math.nan)
    print(
        f"\nMatmul peak {peak / 1e9:.0f} GFLOP/s: at most {floor:,.0f} tokens/s; we reach {best / floor:.0%} of that."
    )
    report |= {"matmul_gflops": peak / 1e9, "floor_tokens_per_second": floor, "share_of_floor": best / floor}
    if args.out:
        write_json(args.out, report)


def summary(speed: dict[str, list[float]], warmup: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns medians and, round by round, our better variant over the best of the others."""
    parameters = SHAPE.parameters()
    print(
        f"{parameters / 1e6:.1f}M parameters, {args.rows} x {LENGTH} tokens a step, {args.dtype}, {args.threads} threads"
    )
    for name, values in sorted(speed.items(), key=lambda kv: -statistics.median(kv[1])):
        low, high = min(values), max(values)
        print(
            f"  {name:<20} {statistics.median(values):8,.0f} tokens/s  ({low:,.0f} to {high:,.0f}); "
            f"first two steps after {warmup[name]:.0f} s"
        )
    report: dict[str, Any] = {
        "parameters": parameters,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "environment": environment(),
        "tokens_per_second": {n: {"median": statistics.median(v), "rounds": v} for n, v in speed.items()},
        "warmup_seconds": warmup,
    }
    mine = [n for n in speed if n.startswith("nanohydra")]
    others = [n for n in speed if n not in mine]
    if mine and others:
        best, rival = (max(g, key=lambda n: statistics.median(speed[n])) for g in (mine, others))
        ratios = [a / b for a, b in zip(speed[best], speed[rival])]
        ratio = statistics.median(ratios)
        print(f"{best} / {rival}: {ratio:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})")
        report["ratio"] = {"ours": best, "other": rival, "median": ratio, "rounds": ratios}
    return report


if __name__ == "__main__":
    main()
