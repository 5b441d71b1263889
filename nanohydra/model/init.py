"""Initial weights. In every scheme embeddings are normal, biases 0 and norm scales 1; they differ in the matrices."""

from __future__ import annotations

import math

import torch
from torch import nn

from nanohydra.model.config import ModelConfig

RESIDUAL_OUTPUTS = ("o_proj", "down_proj")
"""The matrices that write into the residual stream, once in each branch of each block."""


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, generator: torch.Generator | None = None) -> None:
    """Draws all weights of `model` anew, from `generator` or torch's global one.

    - normal: N(0, initializer_range^2).
    - xavier: variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010).
    - kaiming: variance 2 / fan_in (He et al., arXiv 1502.01852).
    - depth_scaled: normal, but residual outputs with standard deviation / sqrt(2 layers), so that the sum over all
      branches does not grow with depth (GPT-2).
    - zero_output: normal, but residual outputs 0, so that every block starts as the identity.
    """
    std = config.initializer_range
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    for weight in embeddings:
        nn.init.normal_(weight, std=std, generator=generator)
    for name, module in model.named_modules():
        if any(weight is getattr(module, "weight", None) for weight in embeddings):  # done, and perhaps also the head
            continue
        if isinstance(module, nn.Linear):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            is_output = name.rpartition(".")[2] in RESIDUAL_OUTPUTS
            if config.init == "xavier":
                nn.init.xavier_normal_(module.weight, generator=generator)
            elif config.init == "kaiming":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            elif config.init == "zero_output" and is_output:
                nn.init.zeros_(module.weight)
            else:
                depth = 2 * config.num_hidden_layers if config.init == "depth_scaled" and is_output else 1
                nn.init.normal_(module.weight, std=std / math.sqrt(depth), generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(getattr(module, "weight", None), nn.Parameter):
            nn.init.ones_(module.weight)  # RMSNorm  # type: ignore[arg-type]
