"""The model in training: all of its weights, or one adapter over frozen ones. Most strategies need not know which."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from nanohydra.adapt.adapter import Adapter, Metadata
from nanohydra.adapt.attach import Adapters, Row
from nanohydra.adapt.config import AdapterConfig
from nanohydra.model.transformer import Transformer

Speaker = Callable[[], AbstractContextManager[Transformer]]
"""Opens a model as it was at some moment."""

SHARED = "shared"
"""The name of the one adapter that is trained through all stages."""


class Learner:
    """A model and what of it is trained."""

    def __init__(self, model: Transformer, adapter: AdapterConfig | None, seed: int) -> None:
        """`adapter`: train one adapter of this kind instead of the weights."""
        self.model = model
        self.adapters: Adapters | None = None
        if adapter is not None:
            self.adapters = Adapters(model)
            self.adapters.create(SHARED, adapter, seed)
            self.adapters.select(SHARED)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What an optimizer changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def snapshot(self, dtype: torch.dtype = torch.float32) -> Speaker:
        """The model as it is now, frozen; what an earlier snapshot of an adapter held is let go."""
        if self.adapters is None:
            frozen = copy.deepcopy(self.model).requires_grad_(False).eval().to(dtype)
            return lambda: nullcontext(frozen)
        if "teacher" in self.adapters.names:
            self.adapters.remove("teacher")
        self.adapters.add("teacher", copy_adapter(self.adapters[SHARED]))
        return lambda: self._with_adapter("teacher")

    def base(self, dtype: torch.dtype = torch.float32) -> Speaker:
        """The model without what is trained: to be asked for before the first training."""
        return self.snapshot(dtype) if self.adapters is None else lambda: self._with_adapter(None)

    @contextmanager
    def _with_adapter(self, row: Row) -> Iterator[Transformer]:
        assert self.adapters is not None
        training = self.model.training
        self.model.eval()
        try:
            with self.adapters.using(row):
                yield self.model
        finally:
            self.model.train(training)

    def state_dict(self) -> dict[str, Tensor]:
        """What training changes, copied: not the frozen base."""
        return {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        for name, p in self.trained.items():
            p.copy_(state[name])


def copy_adapter(adapter: Adapter) -> Adapter:
    """The same adapter apart, frozen."""
    metadata = Metadata(adapter.metadata.base, adapter.metadata.over)
    layers = {path: copy.deepcopy(layer) for path, layer in adapter.layers.items()}
    return Adapter(adapter.config, layers, metadata).requires_grad_(False)


def nbytes(tensors: object) -> int:
    """Bytes of the tensors in a tree of dicts and lists."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    inner = tensors.values() if isinstance(tensors, dict) else tensors if isinstance(tensors, list | tuple) else ()
    return sum(nbytes(part) for part in inner)
