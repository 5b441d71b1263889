"""The one training loop. What is learned is an objective, what a strategy adds is a hook; neither needs another loop."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.data.batch import IGNORE, Batch, BatchSource
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer
from nanohydra.train.checkpoint import Checkpoint, pack, read_checkpoint, step_folder, unpack
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook, Interrupted
from nanohydra.train.objectives import Evaluate, Objective
from nanohydra.train.optimizers import load_optimizer_tensors, make_optimizers, optimizer_tensors, set_lr
from nanohydra.train.parallel import World, join
from nanohydra.train.precision import LossScale, WeightCopies, resolve_dtype
from nanohydra.train.progress import TrainingProgress
from nanohydra.train.run import Run
from nanohydra.train.schedules import lr_share
from nanohydra.train.sinks import Sink, make_sink
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

    Weights, gradients and optimizer state are fp32; forward and backward run in the config's dtype. On a CPU the losses of
    a killed and resumed run equal an undisturbed one's to the bit (budgets in steps or tokens, same number of threads):
    batches are a pure function of the step, random numbers of (seed, step), and all other state is in the checkpoint.
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
        self.batch: Batch
        self.world: World
        self.device: torch.device
        self.parameters: dict[str, nn.Parameter]
        self.optimizers: dict[str, torch.optim.Optimizer]

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> Result:
        """Trains until the budget is used up and returns what came out; the model is left with the final weights.

        Raises UserError (Diverged on NaN or infinity, damaged checkpoints, full disk) and Interrupted (Ctrl-C, SIGTERM).
        """
        with contextlib.ExitStack() as stack:
            self.world = stack.enter_context(join(self.config.device))
            if self.run is not None and self.world.main:
                stack.callback(self.run.close)
            self._start()
            self._progress = stack.enter_context(TrainingProgress(self.title, quiet=self.quiet or not self.world.main))
            self._sinks = self._make_sinks()
            stack.callback(lambda: [sink.close() for sink in self._sinks])
            stack.enter_context(self._signals())
            for hook in self.hooks:
                hook.on_start(self)
            while not self.done:
                self._one_step()
                if self._stop_signal:
                    raise self._interrupted()
            return self._finish()

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self._used(0) >= 1.0

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a resume included (under torchrun: the first process's, as of the last step)."""
        return self._now - self._clock_start

    @property
    def will_log(self) -> bool:
        """Whether the current step's line goes to metrics.jsonl."""
        return (self.step + 1) % self.config.log_every == 0 or self._used(self._step_tokens, 1) >= 1.0

    def say(self, text: str) -> None:
        """Prints a line for the person, without disturbing the progress bar."""
        self._progress.say(text)

    def _one_step(self) -> None:
        began = time.monotonic()
        self.batch = self.batches.batch(self.step, self.world.rank, self.world.size).to(self.device)
        self._step_tokens = self.batch.input_ids.numel() * self.world.size
        # The middle of the step: so the first step does not waste itself on a rate of 0.
        self.lr_share = lr_share(self._used(self._step_tokens / 2, 0.5), self.config)
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
        log = self.will_log
        self.step += 1
        self.tokens += self._step_tokens
        for hook in self.hooks:
            hook.after_step(self)
        for p in self.parameters.values():
            p.grad = None
        self._last_step_seconds = time.monotonic() - began
        self._now = self.world.agree(time.monotonic())
        self._stop_signal = int(self.world.agree(self._stop_signal))
        self._after(log)

    def _backward(self) -> None:
        """Leaves in `.grad` the gradient of the mean loss over the targets of the whole batch, all processes included."""
        rows = len(self.batch.input_ids)
        micro = self.config.micro_batch_size or rows
        # Divided now by about the number of targets, so that fp16 stays in range; put right below when the objective
        # counts otherwise.
        about = max(1, int((self.batch.targets != IGNORE).sum())) * self.world.size
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        sums: dict[str, Tensor] = {}
        with self._copies.lent():
            for start in range(0, rows, micro):
                loss, targets, metrics = self.objective(self.model, self.batch.rows(start, start + micro))
                (loss * (self._scale.scale / about)).backward()  # type: ignore[no-untyped-call]
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
        factor = about / (count * self._scale.scale)
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)

    def _update(self) -> None:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = float(norm)
        overflow = not math.isfinite(self.grad_norm) and self._scale.active and self._scale.scale > 2**-10
        if not math.isfinite(self.loss) or not (math.isfinite(self.grad_norm) or overflow):
            raise self._watch.diverged(
                self.step,
                self.loss,
                self.grad_norm,
                self.config.lr * self.lr_share,
                self.parameters.values(),
                self._scale.active,
                self.checkpoint,
            )
        self._scale.update(overflow)
        if overflow:
            return
        self._watch.add(self.loss, self.grad_norm)
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.grad_clip, norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self._ema:
            torch._foreach_lerp_(list(self._ema.values()), list(self.parameters.values()), 1 - self.config.ema)

    def _after(self, log: bool) -> None:
        """Evaluates, logs and saves, as is due after the step."""
        config = self.config
        evaluated = self.evaluate is not None and (
            self.done or (config.eval_every and self.step % config.eval_every == 0)
        )
        if evaluated:
            self._evaluate()
        speed = self._step_tokens / self._last_step_seconds
        if (log or evaluated) and self.world.main:
            record: dict[str, Any] = {
                "step": self.step,
                "tokens": self.tokens,
                "progress": min(1.0, self._used(0)),
                "loss": self.loss,
                "lr": config.lr * self.lr_share,
                "grad_norm": self.grad_norm,
                **self.metrics,
                **(self.evaluation if evaluated else {}),
                "seconds": round(self.elapsed, 3),
                "tokens_per_second": round(speed, 1),
            }
            if self.run is not None:
                self.run.log(record)
            for sink in self._sinks:
                sink.log(self.step, record)
        left = None if config.seconds is None else config.seconds - self.elapsed
        self._progress.update(self.step, min(1.0, self._used(0)), self.loss, speed, left)
        if self._save_due(evaluated):
            self._save()

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

    # --- start, end, checkpoints --------------------------------------------------------------------------------------

    def _start(self) -> None:
        config, world = self.config, self.world
        self.device = world.device
        self.model.to(self.device)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for p in self.parameters.values():
            p.data = p.data.float()
            p.grad = None
        self._buffers = {n: b for n, b in self.model.named_buffers() if n in self.model.state_dict()}
        self.optimizers = make_optimizers(self.parameters, config)
        self.dtype = resolve_dtype(config.dtype, self.device)
        self._scale = LossScale(self.dtype)
        self._ema = {n: p.detach().clone() for n, p in self.parameters.items()} if config.ema else {}
        self._watch = Watch()
        self._stop_signal = 0
        self._step_tokens = 0
        self._last_step_seconds = math.nan
        self._last_save = self._now = self._clock_start = time.monotonic()
        self.model.activation_checkpointing = config.activation_checkpointing
        if self.run is not None:
            found = self.run.start() if world.main else None
            step = int(world.agree(found.state["step"] if found else -1))
            if step >= 0:
                self._restore(found or self._read(self.run, step))
        world.copy_from_main([*self.parameters.values(), *self._buffers.values()])
        self._copies = WeightCopies(self.model, self.dtype)

    @staticmethod
    def _read(run: Run, step: int) -> Checkpoint:
        folder = step_folder(run.checkpoints, step)
        if checkpoint := read_checkpoint(folder):
            return checkpoint
        raise UserError(f"{folder} cannot be read by every process: put the run folder where all machines see it.")

    def _make_sinks(self) -> list[Sink]:
        if self.run is None or not self.world.main:
            return []
        return [make_sink(name, self.run.folder, asdict(self.config), self.step) for name in self.config.sinks]

    def _used(self, more_tokens: float, more_steps: float = 0.0) -> float:
        """The share of the budget used up so far (may exceed 1), and so much more; for seconds, the last step's pace counts."""
        config = self.config
        if config.steps is not None:
            return (self.step + more_steps) / config.steps
        if config.tokens is not None:
            return (self.tokens + more_tokens) / config.tokens
        assert config.seconds is not None
        ahead = more_steps * self._last_step_seconds if more_steps and self.step else 0.0
        return (self.elapsed + (0.0 if math.isnan(ahead) else ahead)) / config.seconds

    def _save(self) -> None:
        """Writes a checkpoint of the state after `self.step` steps, unless there is one."""
        if self.run is None or not self.world.main or self.checkpoint == step_folder(self.run.checkpoints, self.step):
            return
        hook_tensors: dict[str, Tensor] = {}
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed": self.elapsed,
            "loss": self.loss,
            "evaluation": self.evaluation,
            "best": self.best,
            "loss_scale": [self._scale.scale, self._scale.good_steps],
            "hooks": pack({name: hook.state_dict() for name, hook in self._named_hooks()}, hook_tensors),
        }
        tensors = {
            "model": {**self.parameters, **self._buffers},
            "optimizer": optimizer_tensors(self.optimizers, self.parameters),
            "ema": self._ema,
            "hooks": hook_tensors,
        }
        keep = {int(self.best["step"])} if self.best else set()
        self.checkpoint = self.run.save(self.step, tensors, state, keep_last=self.config.keep_last, keep=keep)
        self._last_save = time.monotonic()

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.tensors("model")
        wanted: dict[str, Tensor] = {**self.parameters, **self._buffers}
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}:
            odd = sorted(saved.keys() ^ wanted.keys()) or [n for n in saved if saved[n].shape != wanted[n].shape]
            raise UserError(
                f"{checkpoint.folder} is of another model ({odd[0]} differs). Resume with the run's own config.yaml."
            )
        with torch.no_grad():
            for name, tensor in saved.items():
                wanted[name].copy_(tensor)
            for name, tensor in checkpoint.tensors("ema").items():
                if name in self._ema:
                    self._ema[name].copy_(tensor)
        load_optimizer_tensors(checkpoint.tensors("optimizer"), self.optimizers, self.parameters)
        state = checkpoint.state
        self.step, self.tokens, self.loss = state["step"], state["tokens"], state["loss"]
        self.evaluation, self.best = state["evaluation"], state["best"]
        self._scale.scale, self._scale.good_steps = state["loss_scale"]
        self._clock_start = self._now - state["elapsed"]
        hooks = unpack(state["hooks"], checkpoint.tensors("hooks"))
        for name, hook in self._named_hooks():
            if name in hooks:
                hook.load_state_dict(hooks[name])
        self.checkpoint = checkpoint.folder

    def _named_hooks(self) -> Iterator[tuple[str, Hook]]:
        seen: dict[str, int] = {}
        for hook in self.hooks:
            kind = type(hook).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield f"{kind}-{seen[kind]}", hook

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, where an average is kept."""
        self._swap_ema()
        try:
            yield
        finally:
            self._swap_ema()

    def _swap_ema(self) -> None:
        for name, average in self._ema.items():
            p = self.parameters[name]
            p.data, average.data = average.data, p.data

    def _finish(self) -> Result:
        self._save()
        self._swap_ema()
        result = Result(self.step, self.tokens, self.elapsed, self.loss, self.evaluation, self.checkpoint)
        if self.run is not None and self.world.main:
            plain = {**asdict(result), "checkpoint": result.checkpoint and result.checkpoint.name}
            self.run.finish(plain)
        return result

    # --- Ctrl-C -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the training after the current step; a second one ends it at once, unsaved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop_signal:
                raise KeyboardInterrupt
            self._stop_signal = number
            if self.world.main:
                print("\nStopping after this step and saving. Once more to stop at once.", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupted(self) -> Interrupted:
        self._save()
        where = f"Stopped after step {self.step}."
        if self.run is not None:
            where += f" Saved in {self.checkpoint}. Run the same command with --resume {self.run.folder} to go on."
        return Interrupted(where, 128 + self._stop_signal)


def _mix(*numbers: int) -> int:
    """A seed of 63 bits that depends on all `numbers`."""
    digest = hashlib.blake2b("/".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
