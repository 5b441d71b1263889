"""One step of a training, measured: which modules are watched, and how their numbers become a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.model.attention import Attention, Visible
from nanohydra.model.mlp import MLPS, ReLU2
from nanohydra.model.transformer import Block
from nanohydra.train.diagnostics_log import BINS
from nanohydra.train.diagnostics_stats import ActivationMeter, Kind, attention_entropy, logit_scale, thin

_KINDS: dict[type[nn.Module], Kind] = {
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ReLU: "relu",
    nn.GELU: "plain",
    nn.SiLU: "plain",
    Block: "plain",
}
_CALLS = 32  # forward passes of one layer that a sample looks at: micro-batches, or letters in a recurrent net


class Sample:
    """The measurements of one step. Everything stays on the device until `result`, which fetches it all at once."""

    def __init__(self, model: nn.Module) -> None:
        self._meters: dict[str, ActivationMeter] = {}
        self._values: dict[tuple[str, str], Tensor] = {}
        self._vocabulary = 0
        self._stops: list[Callable[[], Any]] = []
        for name, module in model.named_modules():
            if module._compiled_call_impl is not None:
                self._uncompile(module)
            if (kind := _KINDS.get(type(module))) is not None:
                self._watch_output(name, kind, module)
            elif type(module) in MLPS.values():
                self._watch_input(name, "relu" if isinstance(module, ReLU2) else "plain", module.down_proj)
            elif isinstance(module, Attention):
                self._watch_attention(name, module)
        head = getattr(model, "lm_head", model)
        self._stops.append(head.register_forward_hook(self._on_logits).remove)

    def _uncompile(self, module: nn.Module) -> None:
        """Compiled code would not notice the hooks."""
        compiled, module._compiled_call_impl = module._compiled_call_impl, None
        self._stops.append(lambda: setattr(module, "_compiled_call_impl", compiled))

    def stop_watching(self) -> None:
        """Takes the hooks off the model."""
        for stop in self._stops:
            stop()
        self._stops = []

    def _watch_output(self, name: str, kind: Kind, module: nn.Module) -> None:
        hook = module.register_forward_hook(lambda _module, _inputs, output: self._on_activation(name, kind, output))
        self._stops.append(hook.remove)

    def _watch_input(self, name: str, kind: Kind, module: nn.Module) -> None:
        hook = module.register_forward_pre_hook(lambda _module, inputs: self._on_activation(name, kind, inputs[0]))
        self._stops.append(hook.remove)

    def _watch_attention(self, name: str, module: Attention) -> None:
        def observe(q: Tensor, k: Tensor, visible: Visible) -> None:
            if ("attention", name) not in self._values:
                with torch.no_grad():
                    self._values["attention", name] = attention_entropy(q, k, visible)

        module.observer = observe
        self._stops.append(lambda: module.__dict__.pop("observer"))

    @torch.no_grad()
    def _on_activation(self, name: str, kind: Kind, x: Tensor) -> None:
        meter = self._meters.setdefault(name, ActivationMeter(kind))
        if meter.calls < _CALLS:
            meter.add(x)

    @torch.no_grad()
    def _on_logits(self, _module: nn.Module, _inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if ("logits", "") not in self._values:
            self._vocabulary = logits.shape[-1]
            self._values["logits", ""] = logit_scale(logits)

    @torch.no_grad()
    def before_update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Notes the gradient's norm and the weights of every matrix."""
        for name, p in parameters.items():
            if p.ndim >= 2 and p.grad is not None:
                self._values["parameters", name] = torch.stack([p.grad.norm().float(), p.norm().float()])
        self._before = {name: thin(parameters[name]) for group, name in self._values if group == "parameters"}

    @torch.no_grad()
    def after_update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Notes how far the step moved them, as a share of their length."""
        for name, before in self._before.items():
            ratio = (thin(parameters[name]) - before).norm() / before.norm()
            self._values["parameters", name] = torch.cat([self._values["parameters", name], ratio[None]])

    def result(self) -> dict[str, Any]:
        """The record: layers, parameters, attention, logits."""
        tensors = {**self._values, **{("layers", name): meter.result() for name, meter in self._meters.items()}}
        sizes = [len(t) for t in tensors.values()]
        fetched = torch.split(torch.cat([t.double() for t in tensors.values()]), sizes) if tensors else ()
        record: dict[str, Any] = {"layers": {}, "parameters": {}, "attention": {}, "logits": {}}
        for (group, name), values in zip(tensors, (part.cpu().tolist() for part in fetched)):
            numbers = [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
            if group == "layers":
                record[group][name] = _layer(self._meters[name], numbers)
            elif group == "parameters":
                record[group][name] = dict(zip(("gradient", "weight", "update"), numbers))
            elif group == "attention":
                record[group][name] = dict(zip(("entropy", "share"), numbers))
            else:
                record[group] = {"std": numbers[0], "largest": numbers[1], "vocabulary": self._vocabulary}
        return record


def _layer(meter: ActivationMeter, numbers: list[float | None]) -> dict[str, Any]:
    mean, std, saturated, dead = numbers[:4]
    layer: dict[str, Any] = {"kind": meter.kind, "rows": meter.rows, "mean": mean, "std": std}
    if meter.kind in ("tanh", "sigmoid"):
        layer["saturated"] = saturated
    elif meter.kind == "relu":
        layer["dead"] = dead
    layer["histogram"] = [round(count or 0) for count in numbers[-BINS:]]
    return layer
