"""Perplexity and bits per byte of a model on texts: every token predicted once, with an interval over documents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.evals.intervals import Estimate, bootstrap_ratio
from nanohydra.model.transformer import Transformer


@dataclass(frozen=True)
class Scored:
    """What each window of text cost: three arrays of shape (n_windows,) and the document each window is from."""

    nats: NDArray[np.float64]
    tokens: NDArray[np.float64]
    bytes: NDArray[np.float64]
    document: NDArray[np.int64]

    def units(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(nats, tokens, bytes) per resampling unit: documents, or windows where there are fewer than 30 documents."""
        if self.document.size and self.document[-1] >= 29:
            return tuple(np.bincount(self.document, weights=w) for w in (self.nats, self.tokens, self.bytes))  # type: ignore[return-value]
        return self.nats, self.tokens, self.bytes


@torch.inference_mode()
def score_texts(
    model: Transformer, tokenizer: Tokenizer, texts: Iterable[str], *, seq_len: int | None = None, batch_size: int = 16
) -> Scored:
    """Scores `texts` in windows of `seq_len` tokens that do not overlap; a window's first token sees the last one before it.

    Args:
        model: put into eval mode for the time of the call; its own dtype and device are used.
        texts: documents; the first token of each is predicted from the end-of-text token.
        seq_len: tokens of context (default: the model's whole context).
        batch_size: windows a forward.
    """
    limit = model.config.max_position_embeddings
    seq_len = min(seq_len or limit, limit)
    windows: list[tuple[list[int], list[int], float, int]] = []
    for document, text in enumerate(texts):
        if not text:
            continue
        ids = tokenizer.encode(text)
        bytes_per_token = len(text.encode("utf-8")) / len(ids)
        ids = [tokenizer.eos_id, *ids]
        for start in range(0, len(ids) - 1, seq_len):
            inputs = ids[start : start + seq_len]
            targets = ids[start + 1 : start + seq_len + 1]
            windows.append((inputs[: len(targets)], targets, bytes_per_token * len(targets), document))
    if not windows:
        raise UserError("There is no text to score: the corpus is empty.")
    nats = np.zeros(len(windows))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        # Windows of similar length share a batch, so little is padded; right padding is never attended to.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i][1]))
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            width = max(len(windows[i][1]) for i in rows)
            inputs_ = torch.full((len(rows), width), tokenizer.eos_id, dtype=torch.int64)
            targets_ = torch.full((len(rows), width), -100, dtype=torch.int64)
            for row, i in enumerate(rows):
                inputs_[row, : len(windows[i][0])] = torch.tensor(windows[i][0])
                targets_[row, : len(windows[i][1])] = torch.tensor(windows[i][1])
            logits = model(inputs_.to(device)).float()
            losses = F.cross_entropy(logits.transpose(1, 2), targets_.to(device), ignore_index=-100, reduction="none")
            nats[rows] = losses.double().sum(1).cpu().numpy()
    finally:
        model.train(was_training)
    return Scored(
        nats,
        np.array([len(w[1]) for w in windows], dtype=np.float64),
        np.array([w[2] for w in windows]),
        np.array([w[3] for w in windows], dtype=np.int64),
    )


def text_metrics(scored: Scored, *, seed: int = 0) -> dict[str, Estimate]:
    """`loss` (nats a token), `perplexity` and `bits_per_byte`, each with n (documents or windows) and a 95% interval."""
    nats, tokens, n_bytes = scored.units()
    loss = bootstrap_ratio(nats, tokens, seed=seed)
    bits = bootstrap_ratio(nats / math.log(2), n_bytes, seed=seed)
    perplexity = Estimate(math.exp(loss.value), loss.n, math.exp(loss.low), math.exp(loss.high))
    return {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits}
