"""The third rung: look back without a limit. A cell reads one letter at a time and carries a state.

The window of the MLP is fixed before training; a recurrent cell applies one set of weights at each step and keeps what
it needs in a vector. Parameters have the names and layout of torch's own cells (gates stacked along the first axis),
so the weights of one load into the other, and a test holds them equal.

- RNN (Elman, "Finding Structure in Time", 1990): h' = tanh(W x + b + U h + c). Gradients through T steps are products
  of T Jacobians, and vanish or explode.
- LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000): a second state c that is only scaled and added
  to, c' = f * c + i * g, so gradients pass along it; gates decide what to forget (f), write (i) and show (o).
- GRU (Cho et al. 2014): two gates and one state, h' = (1 - z) * n + z * h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanohydra.errors import UserError, did_you_mean


class Cell(nn.Module):
    """What the cells share: `gates` stacked linear maps of the input (B, D) and of the state (B, H)."""

    gates: int
    states = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))
        self.tanh, self.sigmoid = nn.Tanh(), nn.Sigmoid()  # modules, so that hooks can watch them

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The state before the first letter: zeros, (B, H) each."""
        return tuple(self.weight_hh.new_zeros(batch, self.hidden_size) for _ in range(self.states))

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, D) input and state to the next state; its first tensor is the output h (B, H)."""
        raise NotImplementedError

    def _maps(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.weight_ih.T + self.bias_ih, h @ self.weight_hh.T + self.bias_hh


class RNNCell(Cell):
    """h' = tanh(W x + b + U h + c)."""

    gates = 1

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        from_x, from_h = self._maps(x, state[0])
        return (self.tanh(from_x + from_h),)


class LSTMCell(Cell):
    """i, f, o = sigmoid(...), g = tanh(...), c' = f * c + i * g, h' = o * tanh(c'); gate order i, f, g, o."""

    gates = 4
    states = 2

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        from_x, from_h = self._maps(x, h)
        i, f, g, o = (from_x + from_h).chunk(4, dim=1)
        c = self.sigmoid(f) * c + self.sigmoid(i) * self.tanh(g)
        return self.sigmoid(o) * self.tanh(c), c


class GRUCell(Cell):
    """r, z = sigmoid(...), n = tanh(W x + b + r * (U h + c)), h' = (1 - z) * n + z * h; gate order r, z, n."""

    gates = 3

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        from_x, from_h = self._maps(x, h)
        (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
        r, z = self.sigmoid(r_x + r_h), self.sigmoid(z_x + z_h)
        n = self.tanh(n_x + r * n_h)
        return ((1 - z) * n + z * h,)


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell}


@dataclass(frozen=True)
class RecurrentConfig:
    """The shape of a recurrent model."""

    cell: str = "lstm"
    """rnn, lstm or gru."""
    embedding: int = 32
    """Numbers per letter."""
    hidden: int = 128
    """Numbers in the state."""


class Recurrent(nn.Module):
    """(B, T) ids to (B, T, V) logits: at each position, of the next letter given all letters so far."""

    context = None

    def __init__(self, vocabulary_size: int, config: RecurrentConfig) -> None:
        super().__init__()
        if config.cell not in CELLS:
            raise UserError(f'No recurrent cell "{config.cell}".{did_you_mean(config.cell, CELLS)}')
        self.embedding = nn.Embedding(vocabulary_size, config.embedding)
        self.cell = CELLS[config.cell](config.embedding, config.hidden)
        self.output = nn.Linear(config.hidden, vocabulary_size)

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.cell.start(len(inputs))
        outputs = []
        for x in self.embedding(inputs).unbind(1):
            state = self.cell(x, state)
            outputs.append(state[0])
        logits: Tensor = self.output(torch.stack(outputs, dim=1))
        return logits
