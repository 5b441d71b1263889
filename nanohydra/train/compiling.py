"""torch.compile for training: each layer on its own, and only inside the training step.

The layers share their code, so one of them is compiled and all profit; that starts several times sooner than compiling
the model as a whole. Evaluation and generation between the steps have other shapes, so they run uncompiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig

WORTH = {"cpu": (900.0, 4e14), "cuda": (120.0, 2e16)}
"""How long a run must be, in seconds or (for budgets in steps or tokens) in FLOPs, to earn back the 10 to 40 seconds that
compiling takes: on a CPU it gains about 10%, as the model has fast CPU kernels of its own."""


def wants_compile(config: TrainConfig, model: Transformer, device: torch.device) -> bool:
    """Whether to compile: as asked, or for "auto" where a compiler is at hand and the run is long enough. Adapters hook into
    the layers, which leaves little in one piece to compile: "auto" lets them be.

    A function of the config and the model alone, never of measured time, so that a resumed run decides alike.
    """
    possible = device.type != "cpu" or has_cpp_compiler()
    if config.compile == "always" and not possible:
        raise UserError("train.compile needs a C++ compiler: install g++ or clang++, or set it to never.")
    if config.compile != "auto" or not possible or hasattr(model, "adapters"):
        return config.compile == "always"
    seconds, flops = WORTH.get(device.type, WORTH["cuda"])
    if config.seconds is not None:
        return config.seconds >= seconds
    context = model.config.max_position_embeddings
    tokens = config.tokens or (config.steps or 0) * config.batch_size * context
    return tokens * model.config.flops_per_token(context) >= flops


def has_cpp_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)


@contextmanager
def compiled_layers(model: Transformer, on: bool) -> Iterator[None]:
    """Inside, the model's layers run compiled within `stepping()` and as usual elsewhere."""
    if not on:
        yield
        return
    for layer in model.model.layers:
        layer.compile(dynamic=False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer in model.model.layers:
            layer._compiled_call_impl = None


@contextmanager
def stepping(on: bool) -> Iterator[None]:
    """Lets compiled layers run compiled."""
    if not on:
        yield
        return
    with torch.compiler.set_stance("default"):
        yield
