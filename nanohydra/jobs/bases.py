"""A base, opened for use: its weights laid out for this machine, its tokenizer, and an engine with the calculator."""

from __future__ import annotations

from dataclasses import replace

import torch

from nanohydra.adapt.attach import Adapters
from nanohydra.agent.calculator import CALCULATOR
from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import pack, quantize
from nanohydra.model.hub import base_id, load_base
from nanohydra.model.transformer import Transformer

FP32_PARAMETERS = 400_000_000
"""Models up to this size answer in fp32 on a CPU, in 1.6 GB at most: a small model's first word is often a near tie, which
bf16's rounding decides at random (SmolLM2 then names the Marseillaise, not Paris, when asked for the capital of France)."""
DRAFT_GUESSES = 4
"""Tokens that a draft guesses at once where the settings leave it open."""


def open_engine(
    base: str,
    *,
    int8: bool = False,
    config: EngineConfig | None = None,
    adapters: bool = False,
    draft: str | None = None,
) -> Engine:
    """An engine over a base (a name under the bases folder, or a model folder), for answering only; on a GPU where there is
    one, in bf16.

    Args:
        int8: quantise the linear layers' weights (on a CPU): faster and smaller, at a small cost in quality.
        config: memory and time; by default those of `EngineConfig`.
        adapters: whether requests may use adapters of this base, attached with `engine.adapters.load`.
        draft: a smaller base of the same tokenizer that guesses ahead, which changes when tokens come, never which. Where
            `config` names no number of guesses it makes DRAFT_GUESSES.
    """
    model, tokenizer = load_base(base)
    laid_out = _laid_out(model, int8)
    attached = Adapters(laid_out, base_id(base)) if adapters else None
    guesser = None
    if draft is not None:
        small, its_tokenizer = load_base(draft)
        if its_tokenizer.id != tokenizer.id:
            raise UserError(
                f"{draft} cannot guess for {base}: it has another tokenizer. Choose a draft of the same family."
            )
        guesser = _laid_out(small, int8)
        config = config or EngineConfig()
        config = replace(config, speculate=config.speculate or DRAFT_GUESSES)
    return Engine(laid_out, tokenizer, (CALCULATOR,), config=config, adapters=attached, draft=guesser)


def _laid_out(model: Transformer, int8: bool) -> Transformer:
    if torch.cuda.is_available():
        return model.to("cuda", torch.bfloat16)
    if int8 or model.config.parameters() <= FP32_PARAMETERS:
        model = model.to(torch.float32)
    return quantize(model) if int8 else pack(model)
