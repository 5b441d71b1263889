"""The first rung: predict a letter from the one letter before it. Twice, with one answer.

**By counting.** The maximum-likelihood estimate of P(b | a) is how often b followed a, as a share of all a's.
**By learning.** A one-layer net turns the one-hot letter a into logits (row a of a weight matrix W) and a softmax into
probabilities. The gradient of the NLL with respect to W[a, b] is count(a) / N * (p(b | a) - count(a, b) / count(a)):
it is zero exactly where the net's probabilities are the counted shares. So gradient descent finds the table that
counting gives at once; its worth is that it still works on the next rungs, where there is no table to count.

On all 32,033 names both reach an NLL of 2.454 (a uniform guess among 27 marks has ln 27 = 3.296).
Source: Shannon, "A Mathematical Theory of Communication", 1948, section 3 (digram approximation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.foundations.makemore.data import Vocabulary, windows


def count_bigrams(names: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """How often each id b (column) follows each id a (row): (V, V) int64, boundaries included."""
    pairs = windows(names, vocabulary, context=1)
    size = len(vocabulary)
    return torch.bincount(pairs.inputs[:, 0] * size + pairs.targets, minlength=size * size).view(size, size)


class BigramCounts(nn.Module):
    """Counts as a model, with nothing to train. `smoothing` is added to each count, so that no pair is impossible."""

    context = 1

    def __init__(self, counts: Tensor, smoothing: float = 0.01) -> None:
        super().__init__()
        smoothed = counts.float() + smoothing
        self.register_buffer("log_probabilities", (smoothed / smoothed.sum(1, keepdim=True)).log())

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, 1) ids to (N, V) log-probabilities: logits whose softmax is themselves."""
        table: Tensor = self.get_buffer("log_probabilities")
        return table[inputs[:, -1]]


class BigramNet(nn.Module):
    """One linear layer without bias on a one-hot letter: (N, 1) ids to (N, V) logits."""

    context = 1

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary_size, vocabulary_size))

    def forward(self, inputs: Tensor) -> Tensor:
        one_hot = F.one_hot(inputs[:, -1], len(self.weight)).to(self.weight.dtype)
        return one_hot @ self.weight


def fit_bigram_net(net: BigramNet, counts: Tensor, steps: int = 500, lr: float = 0.5) -> float:
    """Fits `net` by full-batch gradient descent (Adam) and returns its last NLL.

    The hundreds of thousands of pairs are only V * V different ones, so each is read once and weighed by its count: the
    same loss as over all of them, a thousand times cheaper.
    """
    size = len(counts)
    letters = torch.arange(size)[:, None]
    share = counts / counts.sum()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.01, total_iters=steps)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = -(share * F.log_softmax(net(letters), dim=1)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return loss.item()
