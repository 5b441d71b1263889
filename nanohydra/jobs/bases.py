"""A base, opened for use: its weights laid out for this machine, its tokenizer, and an engine with the calculator."""

from __future__ import annotations

import torch

from nanohydra.adapt.attach import Adapters
from nanohydra.agent.calculator import CALCULATOR
from nanohydra.infer.config import EngineConfig
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import pack, quantize
from nanohydra.model.hub import base_id, load_base

FP32_PARAMETERS = 400_000_000
"""Models up to this size answer in fp32 on a CPU, in 1.6 GB at most: a small model's first word is often a near tie, which
bf16's rounding decides at random (SmolLM2 then names the Marseillaise, not Paris, when asked for the capital of France)."""


def open_engine(base: str, *, int8: bool = False, config: EngineConfig | None = None, adapters: bool = False) -> Engine:
    """An engine over a base (a name under the bases folder, or a model folder), for answering only; on a GPU where there is
    one, in bf16.

    Args:
        int8: quantise the linear layers' weights (on a CPU): faster and smaller, at a small cost in quality.
        config: memory and time; by default those of `EngineConfig`.
        adapters: whether requests may use adapters of this base, attached with `engine.adapters.load`.
    """
    model, tokenizer = load_base(base)
    if torch.cuda.is_available():
        laid_out = model.to("cuda", torch.bfloat16)
    else:
        if int8 or model.config.parameters() <= FP32_PARAMETERS:
            model = model.to(torch.float32)
        laid_out = quantize(model) if int8 else pack(model)
    attached = Adapters(laid_out, base_id(base)) if adapters else None
    return Engine(laid_out, tokenizer, (CALCULATOR,), config=config, adapters=attached)
