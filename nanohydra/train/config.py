"""What a training run is told. No torch here: the command line reads this to print its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nanohydra.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How to train: exactly one of `steps`, `tokens` and `seconds` says how long."""

    steps: int | None = None
    """Budget in optimizer steps."""

    tokens: int | None = None
    """Budget in input tokens, over all processes."""

    seconds: float | None = None
    """Budget in seconds of the training loop, evaluations and checkpoints included; the schedule follows the clock, so
    that it finishes its cooldown on a slow or loaded machine too."""

    batch_size: int = 32
    """Rows an optimizer step, over all processes."""

    micro_batch_size: int = 0
    """Rows a forward and backward pass; gradients accumulate to the same step. 0: all of the process's rows at once."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw for all; or muon for the matrices of the layers, with adamw for embeddings, head, norms and biases."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""

    matrix_lr: float = 0.02
    """Peak learning rate of Muon."""

    muon_adjust: Literal["original", "match_rms_adamw"] = "original"
    """How Muon scales its rate by a matrix's shape: original (Jordan 2024), or match_rms_adamw (Liu et al. 2025), with
    which matrix_lr is chosen like AdamW's."""

    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (in Muon too)."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and the second moment."""

    momentum: float = 0.95
    """Muon's (Nesterov) momentum."""

    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warmup: cosine; wsd (stays at the peak, then cools down); or constant."""

    warmup: float = 0.02
    """Share of the budget over which the rate rises linearly from 0."""

    decay: float = 0.3
    """wsd: share of the budget, at its end, over which the rate cools down."""

    decay_shape: Literal["linear", "sqrt"] = "linear"
    """wsd: cools down linearly or as 1 - sqrt."""

    final_lr: float = 0.0
    """Rate at the end, as a share of the peak."""

    grad_clip: float = 1.0
    """Largest norm of the whole gradient. 0: no clipping."""

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of forward and backward; weights and optimizer stay in fp32. auto: bf16 where hardware has it."""

    activation_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass: less memory, about a third more time."""

    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and kept in the end. 0: none."""

    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile the layers. auto: where a compiler is found and the run is long enough to earn the time back."""

    eval_every: int = 0
    """Steps between evaluations. 0: at the end only."""

    save_every: int = 0
    """Steps between checkpoints. 0: by time only."""

    save_seconds: float = 60.0
    """Seconds between checkpoints. 0: by steps only."""

    keep_last: int = 2
    """How many of the latest checkpoints are kept."""

    keep_best: bool = False
    """Also save and keep the checkpoint with the lowest val_loss."""

    log_every: int = 1
    """Steps between lines of metrics.jsonl."""

    seed: int = 0
    """Seed of all that is random while training (dropout); step n draws from (seed, n)."""

    device: str = "auto"
    """cpu, cuda, cuda:1, ... auto: a GPU where there is one."""

    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        budgets = [b for b in (self.steps, self.tokens, self.seconds) if b is not None]
        if len(budgets) != 1:
            raise UserError("Say how long to train: exactly one of steps, tokens and seconds.")
        if not budgets[0] > 0:
            raise UserError(f"The budget must be more than 0, not {budgets[0]}.")
        for name in ("warmup", "decay", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"train.{name} is a share between 0 and 1, not {getattr(self, name)}.")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise UserError("train.warmup and train.decay are shares of one budget: their sum must not exceed 1.")
        if not 0 <= self.ema < 1:
            raise UserError(f"train.ema is a decay between 0 and 1, such as 0.999, not {self.ema}.")
        for name in ("batch_size", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} must be at least 1, not {getattr(self, name)}.")
        for name in (
            "micro_batch_size",
            "lr",
            "matrix_lr",
            "weight_decay",
            "grad_clip",
            "eval_every",
            "save_every",
            "save_seconds",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} must not be negative, but is {getattr(self, name)}.")
