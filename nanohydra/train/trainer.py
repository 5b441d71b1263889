"""The one training loop. What is learned is an objective, what a strategy adds is a hook; no other loop is needed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.data.batch import Batch, BatchSource
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer
from nanohydra.train.compiling import compiled_layers, stepping, wants_compile
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.memory import keep_freed_memory
from nanohydra.train.objectives import Evaluate, Objective
from nanohydra.train.optimizers import make_optimizers, set_lr
from nanohydra.train.parallel import World, join
from nanohydra.train.precision import LossScale, WeightCopies, resolve_dtype
from nanohydra.train.progress import TrainingProgress
from nanohydra.train.run import Run
from nanohydra.train.schedules import lr_share
from nanohydra.train.signals import Interrupted, StopRequest
from nanohydra.train.sinks import Sink, make_sink
from nanohydra.train.snapshot import restore_state, save_state
from nanohydra.train.watch import Watch


@dataclass(frozen=True)
class Result:
    """What a finished training came to."""

    step: int
    """Steps done."""
    tokens: int
    """Input tokens seen, over all processes."""
    seconds: float
    """Seconds of the training loop, over all sessions of a resumed run."""
    loss: float
    """Training loss of the last step."""
    evaluation: dict[str, float]
    """What the last evaluation returned."""
    checkpoint: Path | None
    """The last checkpoint; None without a run folder."""


class Trainer:
    """Trains `model` on `batches` for the budget of `config`; `fit` starts, or resumes where `run` has a checkpoint.

    Weights, gradients and optimizer state are fp32; forward and backward run in the config's dtype. On a CPU the losses
    of a killed and resumed run equal an undisturbed one's to the bit (budgets in steps or tokens, same number of
    threads): batches are a pure function of the step, random numbers of (seed, step), all else is in the checkpoint.
    """

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        batches: BatchSource,
        config: TrainConfig,
        run: Run | None = None,
        hooks: Sequence[Hook] = (),
        evaluate: Evaluate | None = None,
        *,
        title: str = "train",
        quiet: bool = False,
    ) -> None:
        self.model = model
        self.objective = objective
        self.batches = batches
        self.config = config
        self.run = run
        self.hooks = tuple(hooks)
        self.evaluate = evaluate
        self.title = title
        self.quiet = quiet
        self.step = 0
        self.tokens = 0
        self.loss = math.nan
        self.grad_norm = math.nan
        self.lr_share = 0.0
        self.metrics: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}
        self.best: dict[str, float] | None = None
        self.checkpoint: Path | None = None
        # Made by `fit`:
        self.batch: Batch
        self.world: World
        self.device: torch.device
        self.dtype: torch.dtype
        self.compiled: bool
        self.started: float
        self.parameters: dict[str, nn.Parameter]
        self.trained_tensors: dict[str, Tensor]
        self.ema: dict[str, Tensor]
        self.optimizers: dict[str, torch.optim.Optimizer]
        self.loss_scale: LossScale
        self.watch: Watch

    def fit(self) -> Result:
        """Trains until the budget is used up and returns what came out; the model is left with the final weights.

        Raises Diverged on NaN or infinity, UserError on damaged checkpoints or a full disk, Interrupted on Ctrl-C.
        """
        with contextlib.ExitStack() as stack:
            self.world = join(self.config.device)
            if self.run is not None and self.world.main:
                stack.callback(self.run.close)
            self._start()
            stack.enter_context(compiled_layers(self.model, self.compiled))
            self._progress = stack.enter_context(TrainingProgress(self.title, quiet=self.quiet or not self.world.main))
            self._sinks = [stack.enter_context(contextlib.closing(sink)) for sink in self._make_sinks()]
            stack.enter_context(self._stop.listening(speak=self.world.main))
            for hook in self.hooks:
                hook.on_start(self)
            while not self.done:
                self._one_step()
                if self._stopping:
                    raise self._interrupted()
            return self._finish()

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self._used() >= 1.0

    @property
    def elapsed(self) -> float:
        """Seconds of training as of the last step, those before a resume included (the first process's clock)."""
        return self._now - self.started

    @property
    def will_log(self) -> bool:
        """Whether the current step's line goes to metrics.jsonl."""
        return (self.step + 1) % self.config.log_every == 0

    def say(self, text: str) -> None:
        """Prints a line for the person, without disturbing the progress bar."""
        self._progress.say(text)

    def _one_step(self) -> None:
        began = self._now = self.world.agree(time.monotonic())
        self.batch = self.batches.batch(self.step, self.world.rank, self.world.size).to(self.device)
        self._step_tokens = self.batch.input_ids.numel() * self.world.size
        # The middle of the step: so the first step does not waste itself on a rate of 0.
        self.lr_share = lr_share(self._used(0.5), self.config)
        set_lr(self.optimizers, self.lr_share)
        torch.manual_seed(_mix(self.config.seed, self.step, self.world.rank))
        self.metrics = {}
        for hook in self.hooks:
            hook.before_step(self)
        self.model.train()
        self._backward()
        for hook in self.hooks:
            hook.after_backward(self)
        self._update()
        will_log = self.will_log
        self.step += 1
        self.tokens += self._step_tokens
        for hook in self.hooks:
            hook.after_step(self)
        for p in self.parameters.values():
            p.grad = None
        self._now = self.world.agree(time.monotonic())
        self._stopping = int(self.world.agree(self._stop.signal))
        self._last_step_seconds = self._now - began
        self._after(will_log)

    def _backward(self) -> None:
        """Leaves in `.grad` the gradient of the mean loss over the targets of the whole batch, of all processes."""
        rows = len(self.batch.input_ids)
        micro = self.config.micro_batch_size or rows
        # Divided at once by the number of positions, so that fp16 stays in range; by that of targets when it is known.
        scale = self.loss_scale.scale / self._step_tokens
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        sums: dict[str, Tensor] = {}
        with self._copies.lent(), stepping(self.compiled):
            for start in range(0, rows, micro):
                loss, targets, metrics = self.objective(self.model, self.batch.rows(start, start + micro))
                (loss * scale).backward()  # type: ignore[no-untyped-call]
                total += torch.stack((loss.detach(), targets)).double()
                for name, value in metrics.items():
                    sums[name] = sums.get(name, torch.zeros_like(total[0])) + value.detach() * targets
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.world.sum([total, *sums.values(), *gradients])
        loss_sum, count = total.tolist()
        if count == 0:
            raise UserError(
                f"The batch of step {self.step} has no targets: look whether the data has anything to learn from."
            )
        self.loss = loss_sum / count
        self.metrics.update({name: float(value) / count for name, value in sums.items()})
        if count * scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / (count * scale))

    def _update(self) -> None:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = float(norm)
        overflow = not math.isfinite(self.grad_norm) and self.loss_scale.active and self.loss_scale.scale > 2**-10
        if not math.isfinite(self.loss) or not (math.isfinite(self.grad_norm) or overflow):
            raise self.watch.diverged(
                self.step,
                self.loss,
                self.grad_norm,
                self.config.lr * self.lr_share,
                self.parameters.values(),
                self.loss_scale.active,
                self.checkpoint,
            )
        self.loss_scale.update(overflow)
        if overflow:
            return
        self.watch.add(self.loss, self.grad_norm)
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.grad_clip, norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.ema:
            torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - self.config.ema)

    def _after(self, will_log: bool) -> None:
        """Evaluates, logs and saves, as is due after the step."""
        config = self.config
        due = self.done or (config.eval_every > 0 and self.step % config.eval_every == 0)
        evaluated = self.evaluate is not None and due
        if evaluated:
            self._evaluate()
        speed = self._step_tokens / self._last_step_seconds
        if (will_log or evaluated or self.done) and self.world.main:
            self._log(speed, self.evaluation if evaluated else {})
        left = None if config.seconds is None else config.seconds - self.elapsed
        self._progress.update(self.step, min(1.0, self._used()), self.loss, speed, left)
        if self._save_due(evaluated):
            save_state(self)
            self._last_save = time.monotonic()

    def _log(self, speed: float, evaluation: dict[str, float]) -> None:
        record: dict[str, Any] = {
            "step": self.step,
            "tokens": self.tokens,
            "progress": min(1.0, self._used()),
            "loss": self.loss,
            "lr": self.config.lr * self.lr_share,
            "grad_norm": self.grad_norm,
            **self.metrics,
            **evaluation,
            "seconds": round(self.elapsed, 3),
            "tokens_per_second": round(speed, 1),
        }
        if self.run is not None:
            self.run.log(record)
        for sink in self._sinks:
            sink.log(self.step, record)

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        if self.world.main:
            training = self.model.training
            self.model.eval()
            with torch.no_grad(), self._averaged(), self._copies.lent():
                self.evaluation = {k: float(v) for k, v in self.evaluate(self.model).items()}
            self.model.train(training)

    def _save_due(self, evaluated: bool) -> bool:
        if self.run is None or not self.world.main:
            return False
        config = self.config
        value = self.evaluation.get("val_loss", math.inf) if evaluated else math.inf
        best = config.keep_best and value < (self.best["val_loss"] if self.best else math.inf)
        if best:
            self.best = {"step": self.step, "val_loss": value}
        by_time = config.save_seconds and time.monotonic() - self._last_save >= config.save_seconds
        return bool(best or by_time or (config.save_every and self.step % config.save_every == 0))

    def _start(self) -> None:
        config, world = self.config, self.world
        self.device = world.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model.to(self.device)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for p in self.parameters.values():
            p.data = p.data.float()
            p.grad = None
        persistent = self.model.state_dict().keys()
        buffers = {n: b for n, b in self.model.named_buffers() if n in persistent}
        self.trained_tensors = {**self.parameters, **buffers}
        self.optimizers = make_optimizers(self.parameters, config)
        self.dtype = resolve_dtype(config.dtype, self.device)
        self.loss_scale = LossScale(self.dtype)
        self.ema = {n: p.detach().clone() for n, p in self.parameters.items()} if config.ema else {}
        self.watch = Watch()
        self._stop = StopRequest()
        self._stopping = 0
        self._step_tokens = 0
        self._last_step_seconds = 0.0
        self._last_save = self._now = self.started = time.monotonic()
        self.compiled = wants_compile(config, self.model, self.device)
        self.model.activation_checkpointing = config.activation_checkpointing
        restore_state(self)
        world.copy_from_main(self.trained_tensors.values())
        self._copies = WeightCopies(self.model, self.dtype)

    def _make_sinks(self) -> list[Sink]:
        if self.run is None or not self.world.main:
            return []
        return [make_sink(name, self.run.folder, asdict(self.config), self.step) for name in self.config.sinks]

    def _used(self, steps_ahead: float = 0.0) -> float:
        """The share of the budget used up (it may exceed 1) when so many more steps like those before are done."""
        config = self.config
        if config.steps is not None:
            return (self.step + steps_ahead) / config.steps
        if config.tokens is not None:
            return (self.tokens + steps_ahead * self._step_tokens) / config.tokens
        assert config.seconds is not None
        return self.elapsed * (1 + steps_ahead / max(1, self.step)) / config.seconds

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, where an average is kept."""
        self._swap_ema()
        try:
            yield
        finally:
            self._swap_ema()

    def _swap_ema(self) -> None:
        for name, average in self.ema.items():
            p = self.parameters[name]
            p.data, average.data = average.data, p.data

    def _finish(self) -> Result:
        save_state(self)
        self._swap_ema()
        result = Result(self.step, self.tokens, self.elapsed, self.loss, self.evaluation, self.checkpoint)
        if self.run is not None and self.world.main:
            plain = {**asdict(result), "checkpoint": result.checkpoint and result.checkpoint.name}
            self.run.finish(plain)
        return result

    def _interrupted(self) -> Interrupted:
        save_state(self)
        where = f"Stopped after step {self.step}."
        if self.run is not None:
            where += f" Saved in {self.checkpoint}. Run the same command with --resume {self.run.folder} to go on."
        return Interrupted(where, 128 + self._stopping)


def _mix(*numbers: int) -> int:
    """A seed of 63 bits that depends on all `numbers`."""
    digest = hashlib.blake2b("/".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
