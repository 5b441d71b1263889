"""The second rung: look back over a window of letters with a multilayer perceptron.

Each letter becomes a learned vector, the vectors of the window are joined, and hidden layers of tanh units turn them
into logits (Bengio et al., "A Neural Probabilistic Language Model", JMLR 2003). Two lessons live here:

**Initialisation.** With standard-normal weights ("normal") the first loss is near 20 instead of ln 27 = 3.3 (the net is
confidently wrong), and sums of 30 inputs push most tanh units to +-1, where the slope 1 - tanh(x)^2 is about 0 and no
gradient passes. "kaiming" scales a layer's weights to std gain / sqrt(fan_in), so that the spread of activations stays
the same from layer to layer: gain 5/3 for tanh, sqrt(2) for ReLU (He et al., "Delving Deep into Rectifiers", 2015);
the output layer starts near zero, so the first guess is nearly uniform.

**BatchNorm** makes that spread true by force, at each step, whatever the weights (Ioffe and Szegedy, 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanohydra.errors import UserError, did_you_mean

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float]] = {  # name: (module, Kaiming gain)
    "tanh": (nn.Tanh, 5 / 3),
    "sigmoid": (nn.Sigmoid, 1.0),
    "relu": (nn.ReLU, math.sqrt(2)),
}
INITS = ("kaiming", "normal")


class BatchNorm(nn.Module):
    """Gives each of D features mean 0 and variance 1 over the batch, then a learned scale and shift.

    y = weight * (x - mean) / sqrt(var + eps) + bias, for x of shape (B, D) (Ioffe and Szegedy 2015, algorithm 1). In
    training the mean and the biased variance are the batch's own, and running averages of them (of the unbiased
    variance) are kept; in evaluation the running ones are used, so that an answer does not depend on what else is in
    the batch. The backward pass is autograd's, through the batch statistics too.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if len(x) < 2:
                raise ValueError("BatchNorm needs at least 2 rows to train: one row has no variance")
            mean, var = x.mean(0), x.var(0, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * len(x) / (len(x) - 1), self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        return self.weight * (x - mean) / torch.sqrt(var + self.eps) + self.bias


@dataclass(frozen=True)
class MLPConfig:
    """The shape of the perceptron."""

    context: int = 3
    """Letters it looks back over."""
    embedding: int = 10
    """Numbers per letter."""
    hidden: int = 200
    """Units per hidden layer."""
    layers: int = 1
    """Hidden layers."""
    activation: str = "tanh"
    """tanh, sigmoid or relu."""
    batch_norm: bool = False
    """BatchNorm before each activation."""
    init: str = "kaiming"
    """kaiming, or normal: the bad one, std 1 everywhere."""


class MLP(nn.Module):
    """(N, context) ids to (N, V) logits. Activations are modules, so that hooks can watch them."""

    def __init__(self, vocabulary_size: int, config: MLPConfig) -> None:
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise UserError(f'No activation "{config.activation}".{did_you_mean(config.activation, ACTIVATIONS)}')
        if config.init not in INITS:
            raise UserError(f'No initialisation "{config.init}".{did_you_mean(config.init, INITS)}')
        self.context = config.context
        self.embedding = nn.Embedding(vocabulary_size, config.embedding)
        make_activation, gain = ACTIVATIONS[config.activation]
        blocks: list[nn.Module] = []
        width = config.context * config.embedding
        for _ in range(config.layers):
            blocks.append(
                nn.Linear(width, config.hidden, bias=not config.batch_norm)
            )  # its bias would be subtracted again
            if config.batch_norm:
                blocks.append(BatchNorm(config.hidden))
            blocks.append(make_activation())
            width = config.hidden
        self.hidden = nn.Sequential(*blocks)
        self.output = nn.Linear(width, vocabulary_size)
        if config.init == "kaiming":
            self._init_kaiming(gain)
        else:
            for parameter in self.parameters():
                nn.init.normal_(parameter)

    @torch.no_grad()
    def _init_kaiming(self, gain: float) -> None:
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.output.weight, std=0.1 / math.sqrt(self.output.in_features))
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.hidden(self.embedding(inputs).flatten(1)))
        return logits
