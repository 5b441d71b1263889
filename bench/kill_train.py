"""Kills a training at random moments, resumes it each time, and compares it with an undisturbed one, bit by bit.

    python bench/kill_train.py --kills 20

The training uses all that could go wrong: dropout, bf16, Muon and AdamW, accumulation, an average of the weights, evaluations,
a hook with state, and frequent checkpoints; half of the kills wait until a checkpoint is being written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # optimizers load it, slowly; here once rather than in every child

from nanohydra.data.batch import Batch
from nanohydra.files import write_json
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token, validation
from nanohydra.train.run import TIMING_FIELDS, Run
from nanohydra.train.trainer import Trainer

VOCAB = 64


class Source:
    """Random rows, a pure function of the step."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        x = torch.randint(0, VOCAB, (8, 33), generator=torch.Generator().manual_seed(step))
        x[:, 1::2] = (x[:, 0:-1:2] * 5 + 1) % VOCAB
        return Batch(x[:, :-1].clone(), x[:, 1:].clone())


class Drift(Hook):
    """Adds a running sum to the gradients, so that a lost or repeated step would show."""

    def __init__(self) -> None:
        self.sum = torch.zeros(())

    def after_backward(self, trainer: Trainer) -> None:
        self.sum += trainer.loss
        next(iter(trainer.parameters.values())).grad.add_(self.sum * 1e-4)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.sum = state["sum"]


def train(folder: Path, steps: int) -> None:
    """Starts or resumes the training in `folder`."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "dropout": 0.1}
    model = Transformer(ModelConfig(vocab_size=VOCAB, max_position_embeddings=32, **shape))
    run = Run.open(folder) if (folder / "config.yaml").exists() else Run.create(folder, {"train": {"seed": 0}})
    config = TrainConfig(
        steps=steps,
        optimizer="muon",
        dtype="bf16",
        ema=0.9,
        micro_batch_size=3,
        eval_every=7,
        save_every=3,
        keep_best=True,
    )
    evaluate = validation(next_token, [Source().batch(10**6)])
    Trainer(model, next_token, Source(), config, run, [Drift()], evaluate, quiet=True).fit()


def start(folder: Path, steps: int) -> int:
    """Trains in a child process; returns its id. Its exit status is 0 when it finished."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(folder, steps)
            status = 0
        finally:
            os._exit(status)
    return child


def kill_at_random(folder: Path, steps: int, kills_left: int, draw: random.Random) -> tuple[bool, bool]:
    """Runs a child and kills it; returns (whether it was killed before its end, whether while writing a checkpoint)."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"

    def done() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    # After about so many more steps; then a moment later, or at the next write of a checkpoint.
    target = done() + draw.uniform(0, 1.5 * (steps - done()) / (kills_left + 1))
    while_writing = draw.random() < 0.5
    child = start(folder, steps)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
        if done() >= target:
            if while_writing and not list(checkpoints.glob(".step-*.tmp")):
                continue
            time.sleep(draw.uniform(0, 0.003 if while_writing else 0.03))
            torn = bool(list(checkpoints.glob(".step-*.tmp")))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return os.WIFSIGNALED(status), torn
    return False, False


def fingerprint(folder: Path) -> tuple[list[dict[str, object]], str]:
    """All metrics but the timings, and the hash of the final weights and optimizer state."""
    records = [{k: v for k, v in r.items() if k not in TIMING_FIELDS} for r in Run.open(folder).metrics()]
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    digest = hashlib.sha256(b"".join((last / f"{n}.safetensors").read_bytes() for n in ("model", "optimizer", "ema")))
    return records, digest.hexdigest()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=20)
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--seed", type=int, default=None, help="of the moments (default: new ones each time)")
    p.add_argument("--out", type=Path, default=None, help="write a JSON report here")
    args = p.parse_args()
    torch.set_num_threads(1)
    seed = random.randrange(2**32) if args.seed is None else args.seed
    draw = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="kill-train-"))
    try:
        os.waitpid(start(root / "undisturbed", args.steps), 0)
        kills = writing = attempts = 0
        while kills < args.kills:
            attempts += 1
            killed, torn = kill_at_random(root / "killed", args.steps, args.kills - kills, draw)
            kills += killed
            writing += killed and torn
            if not killed and (root / "killed" / "result.json").exists():
                break
        _, status = os.waitpid(start(root / "killed", args.steps), 0)
        expected, got = fingerprint(root / "undisturbed"), fingerprint(root / "killed")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    equal = status == 0 and expected == got
    loss = [records[-1]["loss"] for records in (expected[0], got[0])]
    report = {"kills": kills, "while_writing": writing, "steps": args.steps, "seed": seed, "equal": equal, "loss": loss}
    print(
        f"{kills} kills ({writing} while a checkpoint was written), then {args.steps} steps done: final loss {loss[1]!r}, "
        f"undisturbed {loss[0]!r}; losses, weights and optimizer state {'equal to the bit' if equal else 'DIFFER'} (seed {seed})"
    )
    if args.out:
        write_json(args.out, report)
    return 0 if equal and kills == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
