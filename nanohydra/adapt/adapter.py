"""One adapter as an object: its config, its layers by module path, and what it was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.linear import Linear
from nanohydra.adapt.methods import AdapterLayer, DoRA, make_layer
from nanohydra.errors import UserError


@dataclass(frozen=True)
class Metadata:
    """What PEFT's files have no place for; kept in the sidecar nanohydra.json."""

    base: str | None = None
    """Content hash of the base it was trained on."""
    over: tuple[str, ...] = ()
    """Ids of the adapters below it, first the lowest, for one that was trained on top of others."""
    lessons: tuple[str, ...] = ()
    """Ids of what it was taught."""
    receipt: dict[str, Any] = field(default_factory=dict)
    """What was measured of it: plain JSON values."""


class Adapter(nn.Module):
    """A config and one AdapterLayer for each adapted module path; `id` is its folder's content hash once it has one."""

    def __init__(
        self, config: AdapterConfig, layers: Mapping[str, AdapterLayer], metadata: Metadata | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.metadata = metadata or Metadata()
        self.id: str | None = None
        self.paths = tuple(layers)
        for path, layer in layers.items():
            self.add_module(path.replace(".", "/"), layer)  # a dot may not stand in a module's name

    @property
    def layers(self) -> dict[str, AdapterLayer]:
        """The adapted module paths in order, each with its layer."""
        return dict(zip(self.paths, self.children()))  # type: ignore[arg-type]

    def check_fits(self, linears: Mapping[str, Linear]) -> None:
        """Raises UserError unless every path is one of the model's linear layers, with the same shape."""
        for path, layer in self.layers.items():
            if path not in linears:
                raise UserError(f"The adapter is for another base: this model has no linear layer {path}.")
            linear, (out_features, in_features) = linears[path], layer.shape()
            if (linear.out_features, linear.in_features) != (out_features, in_features):
                raise UserError(
                    f"The adapter is for another base: its {path} is {out_features}x{in_features}, "
                    f"this model's {linear.out_features}x{linear.in_features}."
                )


def new_adapter(
    config: AdapterConfig,
    linears: Mapping[str, Linear],
    seed: int = 0,
    metadata: Metadata | None = None,
    below: Iterable[Adapter] = (),
) -> Adapter:
    """An untrained adapter (on the CPU) for these linear layers, over the adapters `below`; it changes nothing until it is
    trained. The same seed gives the same values on every device."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for path in config.select(linears):
        linear = linears[path]
        layer = make_layer(config, path, linear.out_features, linear.in_features)
        layer.reset(generator)
        if isinstance(layer, DoRA):
            layer.start_from(stacked_weight(linear, [a.layers[path] for a in below if path in a.paths]).cpu())
        layers[path] = layer
    return Adapter(config, layers, metadata)


def stacked_weight(linear: Linear, layers: Iterable[AdapterLayer]) -> Tensor:
    """A linear layer's weight (out, in) in fp32 as changed by adapter layers, the lowest first."""
    weight = linear.weight.float()
    for layer in layers:
        weight = layer.merged(weight)
    return weight
