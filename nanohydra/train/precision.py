"""Half-precision training with fp32 weights: the forward pass runs on a copy of the weights, made once a step.

Autocast makes such copies too, but anew for every micro-batch, and decides the number format operation by operation.
Here the whole model runs in bf16 (or fp16); what needs more (norms, softmax, the loss) asks for fp32 itself. Gradients
flow through the copy to the fp32 weights and add up there in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of forward and backward; "auto" is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    flags = _cpu_flags()
    return torch.bfloat16 if flags & {"avx512_bf16", "amx_bf16", "bf16"} else torch.float32


def _cpu_flags() -> set[str]:
    """The processor's feature flags as Linux lists them (x86 "flags", Arm "Features"); empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:  # noqa: PTH123 - a stream of the kernel, not a file to be moved
            for line in f:
                if line.startswith(("flags", "Features")):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


class WeightCopies:
    """Lends a model copies of its weights in another dtype, for the time of a `with` block."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.slots = [
            (module, name, p)
            for module in model.modules()
            for name, p in module._parameters.items()
            if p is not None and p.is_floating_point() and p.dtype != dtype
        ]
        # Frozen weights never change: one copy serves the whole training.
        self.frozen = {p: p.detach().to(dtype) for _, _, p in self.slots if not p.requires_grad}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the model computes with the copies, and gradients reach the real weights' `.grad`."""
        copies: dict[nn.Parameter, Tensor] = dict(self.frozen)
        for _, _, p in self.slots:
            if p not in copies:
                copies[p] = p.to(self.dtype)
        for module, name, p in self.slots:
            module._parameters[name] = copies[p]  # type: ignore[assignment]
        try:
            yield
        finally:
            for module, name, p in self.slots:
                module._parameters[name] = p


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): halved on overflow, doubled after 2,000 good steps."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.active = dtype == torch.float16
        self.scale = 2.0**16 if self.active else 1.0
        self.good_steps = 0

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of `state_dict`."""
        self.scale, self.good_steps = state["scale"], int(state["good_steps"])

    def update(self, overflow: bool) -> None:
        """Adapts the scale after a step."""
        self.good_steps = 0 if overflow else self.good_steps + 1
        if overflow:
            self.scale /= 2
        elif self.active and self.good_steps % 2000 == 0:
            self.scale *= 2
