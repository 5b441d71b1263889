"""A trainer's whole state into a checkpoint and back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.train.checkpoint import Checkpoint, pack, read_checkpoint, step_folder, unpack
from nanohydra.train.hooks import Hook
from nanohydra.train.optimizers import load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from nanohydra.train.trainer import Trainer


def save_state(trainer: Trainer) -> None:
    """Writes a checkpoint of the state after `trainer.step` steps, unless that is the one written or read last."""
    run = trainer.run
    if run is None or not trainer.world.main or trainer.checkpoint == step_folder(run.checkpoints, trainer.step):
        return
    hook_tensors: dict[str, Tensor] = {}
    state = {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "elapsed": trainer.elapsed,
        "loss": trainer.loss,
        "evaluation": trainer.evaluation,
        "best": trainer.best,
        "loss_scale": trainer.loss_scale.state_dict(),
        "watch": trainer.watch.state_dict(),
        "hooks": pack({name: hook.state_dict() for name, hook in _named(trainer.hooks)}, hook_tensors),
    }
    tensors = {
        "model": trainer.trained_tensors,
        "optimizer": optimizer_tensors(trainer.optimizers, trainer.parameters),
        "ema": trainer.ema,
        "hooks": hook_tensors,
    }
    keep = {int(trainer.best["step"])} if trainer.best else set()
    trainer.checkpoint = run.save(trainer.step, tensors, state, keep_last=trainer.config.keep_last, keep=keep)


def restore_state(trainer: Trainer) -> None:
    """Claims the run folder and brings the trainer to the state of its newest good checkpoint, where there is one."""
    run, world = trainer.run, trainer.world
    if run is None:
        return
    found = run.start() if world.main else None
    step = int(world.agree(found.state["step"] if found else -1))
    if step < 0:
        return
    found = found or read_checkpoint(step_folder(run.checkpoints, step))
    if found is None:
        raise UserError(f"{run.folder} cannot be read by every process: put it where all machines see it.")
    _copy_tensors(trainer, found)
    state = found.state
    trainer.step, trainer.tokens, trainer.loss = state["step"], state["tokens"], state["loss"]
    trainer.evaluation, trainer.best = state["evaluation"], state["best"]
    trainer.loss_scale.load_state_dict(state["loss_scale"])
    trainer.watch.load_state_dict(state["watch"])
    trainer.started = time.monotonic() - state["elapsed"]
    hooks = unpack(state["hooks"], found.tensors("hooks"))
    for name, hook in _named(trainer.hooks):
        if name in hooks:
            hook.load_state_dict(hooks[name])
    trainer.checkpoint = found.folder


def _copy_tensors(trainer: Trainer, checkpoint: Checkpoint) -> None:
    for stem, wanted in (("model", trainer.trained_tensors), ("ema", trainer.ema)):
        saved = checkpoint.tensors(stem)
        odd = sorted(saved.keys() ^ wanted.keys()) or [n for n in saved if saved[n].shape != wanted[n].shape]
        if odd:
            raise UserError(
                f"{checkpoint.folder} is of another model or setting ({stem}: {odd[0]} differs). "
                "Resume with the run's own config.yaml."
            )
        with torch.no_grad():
            for name, tensor in saved.items():
                wanted[name].copy_(tensor)
    load_optimizer_tensors(checkpoint.tensors("optimizer"), trainer.optimizers, trainer.parameters)


def _named(hooks: tuple[Hook, ...]) -> Iterator[tuple[str, Hook]]:
    """Each hook with a name that stays the same from run to run: its class and its number among those of the class."""
    seen: dict[str, int] = {}
    for hook in hooks:
        kind = type(hook).__name__
        seen[kind] = seen.get(kind, 0) + 1
        yield f"{kind}-{seen[kind]}", hook
