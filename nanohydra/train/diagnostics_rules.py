"""From numbers to words: the rules by which diagnostics warn, each with its threshold and why that threshold.

A rule looks at the newest record and, where one sample proves little, at the two before it: a fault must last to be
named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, median_low
from typing import Any

Record = Mapping[str, Any]
"""One line of diagnostics.jsonl that holds measurements (see `diagnostics.Diagnostics`)."""

SATURATED = 0.5
"""Share of tanh or sigmoid outputs at their flat ends. A good init gives tanh 5-20%; with half of them flat, half of
the gradient paths are cut at each layer."""
DEAD = 0.5
"""Share of ReLU units that were 0 at every row looked at. Kaiming-initialised layers have 0-10%."""
DEAD_ROWS = 128
"""Rows needed before a silent unit is called dead."""
FAINT = 1e-3
"""Standard deviation of a layer's activations. With a good init it stays near 1 (or near the width's usual value) at
any depth; below a thousandth, what the layer says no longer depends on the input."""
GRADIENT_RATIO = 1e-3
"""Gradient norm of the first block over the last one's (or the reverse). Healthy stacks stay within a factor of about
30."""
UPDATE_RATIO = 0.25
"""Length of one update over the length of the weights; of all matrices the median counts, as those that start at zero
move much at first. Usual are 1e-4 to 1e-2, and up to 0.1 in the first steps from small initial weights."""
FIRST_LOSS_EXCESS = 1.0
"""Nats by which the first loss may exceed that of a uniform guess, ln(vocabulary)."""
LOSS_RISE, RISE_SIGMAS = 0.5, 4.0
"""Nats, and robust standard deviations, by which the recent loss (median of 20 steps) may lie above the first loss and
above the lowest such median so far."""
ATTENTION_SHARE = 0.02
"""Entropy of a layer's attention, over all heads, as a share of the largest possible one. Single heads that look at
one token are useful; a layer where all do has collapsed (Zhai et al. 2023, arXiv 2303.06296)."""
LOGIT_STD = 50.0
"""Standard deviation of one position's logits. Trained models have 2-10; at 50 the softmax is one-hot."""
SPIKE_SIGMAS, SPIKE_SHARE = 8.0, 0.1
"""A loss spike lies this many robust standard deviations (1.4826 x median absolute deviation) above the median of the
last 50 steps, and at least this share of it."""
WINDOW = 50
"""Steps of loss that the spike rule remembers."""


@dataclass(frozen=True)
class Finding:
    """One warning: after how many steps, which rule, which layer ("" for the whole model), and a plain sentence."""

    step: int
    kind: str
    where: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def layer_name(name: str) -> str:
    """A module's name as a person says it: "model.layers.3.mlp" is "layer 3 mlp"."""
    return re.sub(r"^(?:model\.)?layers\.(\d+)\.?", r"layer \1 ", name).strip()


def examine(records: Sequence[Record]) -> list[Finding]:
    """All that the rules see in the newest of `records` (oldest first), which must not be empty."""
    now = records[-1]
    found = [*_activations(now), *_first_loss(now), *_logits(now), *_attention(now)]
    if len(records) >= 3:
        found += [*_gradients(records[-3:]), *_updates(records[-3:])]
    return found


def _activations(now: Record) -> Iterator[Finding]:
    for name, layer in now["layers"].items():
        if (layer.get("saturated") or 0) > SATURATED:
            text = f"{layer['saturated']:.0%} of {layer['kind']} units saturated: init or learning rate too large?"
            yield _finding(now, "saturated", name, text)
        if layer["rows"] >= DEAD_ROWS and (layer.get("dead") or 0) > DEAD:
            text = f"{layer['dead']:.0%} of ReLU units never fire: learning rate too large, or a bias far below 0?"
            yield _finding(now, "dead", name, text)
        elif layer["kind"] != "plain" and layer["std"] is not None and layer["std"] < FAINT:
            text = (
                f"the signal fades: activations differ by {layer['std']:.0e} only (standard deviation): init too small?"
            )
            yield _finding(now, "faint", name, text)


def _first_loss(now: Record) -> Iterator[Finding]:
    if now["step"] == 1 and now["logits"]:
        uniform = math.log(now["logits"]["vocabulary"])
        if now["loss"] > uniform + FIRST_LOSS_EXCESS:
            text = (
                f"the first loss is {now['loss']:.1f}, a uniform guess has {uniform:.1f}: init of the output too large?"
            )
            yield _finding(now, "first_loss", "", text)


def _logits(now: Record) -> Iterator[Finding]:
    std = now["logits"].get("std") if now["logits"] else None
    if std is not None and std > LOGIT_STD:
        text = f"the logits' standard deviation is {std:.0f}, the softmax nearly one-hot: learning rate too large?"
        yield _finding(now, "logits", "", text)


def _attention(now: Record) -> Iterator[Finding]:
    for name, layer in now["attention"].items():
        if layer["share"] is not None and layer["share"] < ATTENTION_SHARE:
            text = (
                f"attention collapsed to {layer['entropy']:.3f} nats of entropy: use QK-norm or a lower learning rate."
            )
            yield _finding(now, "attention", name, text)


def _gradients(records: Sequence[Record]) -> Iterator[Finding]:
    blocks = list(dict.fromkeys(block for name in records[-1]["parameters"] if (block := _block(name))))
    if len(blocks) < 3:
        return
    first, last = (median(_gradient(record, block) for record in records) for block in (blocks[0], blocks[-1]))
    here, there = f"{first:.1e} here", f"{last:.1e} in {layer_name(blocks[-1])}"
    if first < GRADIENT_RATIO * last or first == last == 0.0:
        text = f"gradients vanish on the way back: {here}, {there}. Scale the init, normalise or add skips."
        yield _finding(records[-1], "vanishing", blocks[0], text)
    elif last < GRADIENT_RATIO * first:
        text = f"gradients explode on the way back: {here}, {there}. Scale the init down or normalise."
        yield _finding(records[-1], "exploding", blocks[0], text)


def _block(parameter: str) -> str | None:
    """The repeated part that a parameter is in: its name up to the first number; None outside any."""
    match = re.match(r".*?\.\d+(?=\.)", parameter)
    return match[0] if match else None


def _gradient(record: Record, block: str) -> float:
    norms = [p["gradient"] for name, p in record["parameters"].items() if _block(name) == block]
    return math.sqrt(sum(norm**2 for norm in norms if norm is not None))


def _updates(records: Sequence[Record]) -> Iterator[Finding]:
    typical = []
    for record in records:
        ratios = [p["update"] for p in record["parameters"].values() if p["update"] is not None]
        if not ratios:
            return
        typical.append(median_low(ratios))
    if median(typical) > UPDATE_RATIO:
        text = f"a step changes the weights by {median(typical):.0%} of their size: learning rate too large?"
        yield _finding(records[-1], "learning_rate", "", text)


def _finding(record: Record, kind: str, name: str, text: str) -> Finding:
    where = layer_name(name)
    return Finding(record["step"], kind, where, f"{where}: {text}" if where else text)


class LossWatch:
    """Sees spikes and a rising loss in the losses of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lowest = math.inf
        self.quiet_until = 0

    def add(self, step: int, loss: float) -> list[Finding]:
        """Takes in the loss of `step` (finished steps) and returns what it shows."""
        found = []
        if len(self.losses) >= 20 and step > self.quiet_until:
            middle, sigma = _middle(self.losses)
            if loss > middle + max(SPIKE_SIGMAS * sigma, SPIKE_SHARE * abs(middle)):
                self.quiet_until = step + WINDOW
                text = f"the loss jumped to {loss:.3g} (median of the last {len(self.losses)} steps: {middle:.3g})."
                found.append(Finding(step, "spike", "", text))
        if not self.losses:
            self.lowest = loss
        self.losses = [*self.losses, loss][-WINDOW:]
        if len(self.losses) >= 20:
            recent, sigma = _middle(self.losses[-20:])
            self.lowest = min(self.lowest, recent)
            if recent > self.lowest + max(LOSS_RISE, RISE_SIGMAS * sigma):
                text = f"the loss rose from {self.lowest:.3g} to {recent:.3g}: learning rate too large?"
                found.append(Finding(step, "rising", "", text))
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "lowest": self.lowest, "quiet_until": self.quiet_until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses, self.lowest, self.quiet_until = list(state["losses"]), state["lowest"], state["quiet_until"]


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and 1.4826 x the median distance from it: a standard deviation that outliers do not move."""
    middle = median(values)
    return middle, 1.4826 * median(abs(x - middle) for x in values)
