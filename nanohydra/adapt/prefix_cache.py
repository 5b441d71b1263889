"""Frozen layers below the lowest adapter give the same output for the same row in every epoch: compute it once.

Wraps an objective. A batch whose rows were all seen before enters the model at the lowest adapted layer; any other
batch runs whole, and what enters that layer is kept, in main memory, up to a limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.adapt.attach import Adapters, Row
from nanohydra.adapt.config import layer_of
from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import Objective


class PrefixCache:
    """An Objective that gives what `objective` gives, for training the adapter `row`, with less work from the second
    epoch on. It pays where rows repeat exactly and adapters sit on the top layers only. The objective must run the
    model on the batch's own rows, all of them.
    """

    def __init__(self, objective: Objective, adapters: Adapters, row: Row, max_bytes: int = 2**31) -> None:
        """Raises UserError for an adapter on the lowest layer, or outside the layers, where nothing can be kept."""
        layers = [layer_of(path) for name in adapters.resolve(row) for path in adapters[name].paths]
        lowest = min((layer for layer in layers if layer is not None), default=0)
        if lowest == 0:
            raise UserError("Nothing lies below this adapter: give it only top layers (adapter.top_layers).")
        self.objective, self.depth, self.max_bytes = objective, lowest, max_bytes
        self.bytes = self.hits = 0
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if model.config.dropout and model.training:
            raise UserError("The base's dropout makes every epoch different: set dropout to 0 to cache its layers.")
        keys = _keys(batch, next(model.parameters()).dtype)
        if all(key in self._kept for key in keys):
            self.hits += 1
            entering = torch.stack([self._kept[key] for key in keys]).to(batch.input_ids.device)
            with self._entering(model, entering):
                return self.objective(model, batch)
        with self._recording(model, keys):
            return self.objective(model, batch)

    @contextmanager
    def _entering(self, model: Transformer, x: Tensor) -> Iterator[None]:
        """Within, the model has its upper layers only, and they are given x instead of the embeddings."""
        layers = model.model.layers
        upper = nn.ModuleList(layers[self.depth :])
        handle = upper[0].register_forward_pre_hook(lambda module, args: (x, *args[1:]))
        model.model.layers = upper
        try:
            yield
        finally:
            model.model.layers = layers
            handle.remove()

    @contextmanager
    def _recording(self, model: Transformer, keys: list[bytes]) -> Iterator[None]:
        def record(module: nn.Module, args: tuple[Any, ...]) -> None:
            for key, row in zip(keys, args[0].detach()):
                size = row.nbytes
                if key not in self._kept and self.bytes + size <= self.max_bytes:
                    self._kept[key] = row.to("cpu", copy=True)
                    self.bytes += size

        handle = model.model.layers[self.depth].register_forward_pre_hook(record)
        try:
            yield
        finally:
            handle.remove()


def _keys(batch: Batch, dtype: torch.dtype) -> list[bytes]:
    """A content hash for each row: all that its hidden states depend on, and the type they are computed in."""
    columns = [batch.input_ids, batch.segment_ids, batch.positions]
    arrays = [None if column is None else column.cpu().numpy() for column in columns]
    keys = []
    for i in range(len(batch.input_ids)):
        digest = hashlib.sha256(str(dtype).encode())
        for array in arrays:
            digest.update(b"-" if array is None else array[i].tobytes())
        keys.append(digest.digest())
    return keys
