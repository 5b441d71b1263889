"""A base, opened for use: its weights, its tokenizer and an engine with the calculator."""

from __future__ import annotations

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.infer.engine import Engine
from nanohydra.model.hub import load_base


def open_engine(base: str, *, int8: bool = False, max_slots: int = 8, max_seq_len: int = 4096) -> Engine:
    """An engine over a base (a name under the bases folder, or a model folder).

    Args:
        int8: quantise the linear layers' weights (CPU): faster and smaller, at a small cost in quality.
        max_slots: requests answered at once.
        max_seq_len: most tokens of a prompt with its answer.
    """
    model, tokenizer = load_base(base)
    if int8:
        from nanohydra.infer.quantize import quantize

        quantize(model)
    return Engine(model, tokenizer, (CALCULATOR,), max_slots=max_slots, max_seq_len=max_seq_len)
