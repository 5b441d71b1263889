"""The diagonal of the Fisher information, from the gradient of each row by itself.

    F_i = E_x [ (d log p(x) / d theta_i)^2 ]

The square must be taken of one sample's gradient. The gradient of a batch's mean loss, squared, is near 1/B of it: it
shrinks with the batch size (van de Ven 2025, "On the computation of the Fisher information in continual learning",
arXiv 2502.11756). Rows are sequences; the value is divided by their targets, which makes it information a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nanohydra.data.batch import Batch
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import Objective


def diagonal_fisher(
    model: Transformer, parameters: Mapping[str, nn.Parameter], objective: Objective, batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """The empirical Fisher of these parameters over all rows of the batches, however they are grouped: by name, fp32."""
    device = next(iter(parameters.values())).device
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    targets = 0.0
    training = model.training
    model.eval()
    try:
        for batch in batches:
            for row in range(len(batch.input_ids)):
                loss, count, _ = objective(model, batch.rows(row, row + 1).to(device))
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for square, gradient in zip(total.values(), gradients):
                    if gradient is not None:
                        square.addcmul_(gradient, gradient)
                targets += float(count)
    finally:
        model.train(training)
    return {name: square / max(1.0, targets) for name, square in total.items()}
