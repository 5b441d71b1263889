"""Columns beside a frozen transformer: the network of `strategies.progressive`.

A column is a narrower transformer with a block for each of the base's. It reads the base's and all earlier columns'
activations, and adds its own to the base's last hidden state. The base's code is as it was: columns hang on it as forward
hooks and run along, layer by layer, so that a KV cache serves them too (their keys and values are further layers of it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nanohydra.model.config import ModelConfig
from nanohydra.model.norms import make_norm
from nanohydra.model.transformer import Block, Transformer


class Column(nn.Module):
    """Blocks of width d, and what ties them to the columns before: the base is number 0 of these."""

    def __init__(self, config: ModelConfig, width: int, number: int) -> None:
        """`number`: 1 for the first column; its keys and values are layers number x L to number x L + L - 1."""
        super().__init__()
        layers = config.num_hidden_layers
        own = replace(
            config,
            hidden_size=width,
            intermediate_size=max(32, round(config.intermediate_size * width / config.hidden_size / 32) * 32),
            num_hidden_layers=layers * (number + 1),
            layer_types=config.layer_types * (number + 1),
        )
        self.enter = nn.Linear(config.hidden_size, width, bias=False)
        self.blocks = nn.ModuleList(Block(own, layers * number + i) for i in range(layers))
        widths = [config.hidden_size, *[width] * (number - 1)]
        self.laterals = nn.ModuleList(
            nn.ModuleList(nn.Linear(w, width, bias=False) for w in widths) for _ in range(layers)
        )
        self.norm = make_norm(own)
        self.leave = nn.Linear(width, config.hidden_size, bias=False)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=m.in_features**-0.5)
        nn.init.zeros_(self.leave.weight)  # begins as the base


class Columns(nn.Module):
    """All columns of a model, attached as its submodule `columns`; one of them, with those before it, is on at a time."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, lest the model become its own submodule
        self.config = model.config
        self.columns = nn.ModuleList()
        self.on = 0
        self._states: list[Tensor] = []
        model.add_module("columns", self)
        for layer, block in enumerate(model.model.layers):
            block.register_forward_hook(self._hook(layer))
        model.model.norm.register_forward_hook(self._leave)

    def grow(self, width: int, seed: int) -> Column:
        """A new last column."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            column = Column(self.config, width, len(self.columns) + 1)
        self.columns.append(column.to(next(self._model[0].parameters()).device))
        return column

    @contextmanager
    def using(self, number: int) -> Iterator[Transformer]:
        """Within: the model answers with column `number` (0: the base alone)."""
        before = self.on
        self.switch(number)
        try:
            yield self._model[0]
        finally:
            self.switch(before)

    def switch(self, number: int) -> None:
        """From now on the model answers with column `number`."""
        self.on = number
        config = self.config
        layers, types = config.num_hidden_layers * (number + 1), config.layer_types * (number + 1)
        # A KV cache made while the column is on has room for the layers of all that run.
        self._model[0].config = replace(config, num_hidden_layers=layers, layer_types=types)

    def _hook(self, layer: int) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if not self.on:
                return
            x, context = args
            columns: list[Any] = list(self.columns)[: self.on]
            if layer == 0:
                self._states = [column.enter(x) for column in columns]
            before = [x, *self._states]
            self._states = [
                column.blocks[layer](
                    before[number] + sum(lateral(z) for lateral, z in zip(column.laterals[layer], before)), context
                )
                for number, column in enumerate(columns, 1)
            ]

        return hook

    def _leave(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self.on:
            return None
        column: Any = self.columns[self.on - 1]
        state, self._states = self._states[-1], []
        return output + column.leave(column.norm(state))  # type: ignore[no-any-return]
