"""O-LoRA: a stack of adapters whose row spaces are kept orthogonal, so that the sum serves every domain at once.

    L_k + lambda sum_{j < k} || A_j A_k^T ||_F^2

Wang et al. 2023, "Orthogonal subspace learning for language model continual learning" (arXiv 2310.14152). A_j spans the
directions of the input that adapter j listens to: a new one that listens to others leaves what the earlier ones
answer (nearly) as it is. Nobody chooses: the whole stack is always on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from nanohydra.adapt.adapter import Adapter
from nanohydra.continual.strategies.nested_lora import NestedLoRA
from nanohydra.continual.strategy import Settings, Setup, Stage
from nanohydra.errors import UserError
from nanohydra.train.hooks import Hook
from nanohydra.train.trainer import Trainer


@dataclass(frozen=True)
class OLoRASettings(Settings):
    """How strictly the subspaces are kept apart."""

    weight: float = 0.5
    """lambda."""


class Orthogonal(Hook):
    """Adds the gradient of the penalty, 2 lambda (A_k A_j^T) A_j, in fp32."""

    def __init__(self, new: Adapter, earlier: Sequence[Adapter], weight: float) -> None:
        self.new, self.earlier, self.weight = new, earlier, weight

    def after_backward(self, trainer: Trainer) -> None:
        for path, layer in self.new.layers.items():
            a = layer.get_parameter("lora_A")
            for other in self.earlier:
                below = other.layers[path].get_parameter("lora_A").detach()
                if a.grad is not None:
                    a.grad.addmm_(a.detach() @ below.T, below, alpha=2 * self.weight)


class OLoRA(NestedLoRA):
    """The stack, with the penalty."""

    settings_class: ClassVar[type[Settings]] = OLoRASettings
    settings: OLoRASettings
    views: tuple[str, ...] = ("",)

    def __init__(self, setup: Setup, settings: OLoRASettings) -> None:
        super().__init__(setup, settings)
        if self.adapter_config.method != "lora":
            raise UserError("o_lora is defined for adapters of the method lora.")

    def hooks(self, stage: Stage) -> Sequence[Hook]:
        *earlier, new = (self.adapters[name] for name in self.stack)
        return (Orthogonal(new, earlier, self.settings.weight),)


def overlap(a: Adapter, b: Adapter) -> float:
    """Mean squared cosine between rows of the A matrices of two adapters: 0 where they are orthogonal."""
    total, count = 0.0, 0
    for path, layer in a.layers.items():
        other = b.layers[path]
        rows, others = (F.normalize(part.get_parameter("lora_A").detach(), dim=1) for part in (layer, other))
        total += float((rows @ others.T).square().sum())
        count += len(rows) * len(others)
    return total / count
