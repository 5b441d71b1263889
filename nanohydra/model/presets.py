"""Named model sizes from 0.5M to 1B parameters, and one dial, depth, that sets everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nanohydra.errors import UserError, did_you_mean
from nanohydra.model.config import ModelConfig


def _shape(vocab: int, width: int, layers: int, heads: int, context: int, **other: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        **other,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "tiny-0.5m": _shape(1024, 96, 4, 3, 256),
    "tiny-1m": _shape(2048, 128, 4, 4, 256),
    "demo": _shape(2048, 192, 5, 6, 512),
    "tiny-5m": _shape(4096, 256, 5, 4, 512),
    "tiny-10m": _shape(256, 384, 6, 6, 256),
    "small-30m": _shape(8192, 512, 8, 8, 1024),
    "gpt2-124m-shape": _shape(
        50257,
        768,
        12,
        12,
        1024,
        norm="layernorm",
        rms_norm_eps=1e-5,
        qk_norm=False,
        positions="learned",
        mlp="gelu",
        attention_bias=True,
        mlp_bias=True,
    ),
    "smollm2-135m": _shape(
        49152,
        576,
        30,
        9,
        8192,
        num_key_value_heads=3,
        intermediate_size=1536,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        qk_norm=False,
    ),
    "qwen3-0.6b": _shape(
        151936,
        1024,
        28,
        16,
        40960,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        rope_theta=1000000.0,
    ),
    "1b": _shape(65536, 2048, 18, 16, 4096, num_key_value_heads=8, intermediate_size=5632, rope_theta=100000.0),
}
"""Each preset is the settings of a ModelConfig; what is not named has ModelConfig's default."""


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The named preset as a config, with some settings replaced. Raises UserError on an unknown name or setting."""
    if name not in PRESETS:
        raise UserError(f'Unknown model preset "{name}".{did_you_mean(name, PRESETS)}')
    return ModelConfig.from_dict({**PRESETS[name], **overrides})


@dataclass(frozen=True)
class DepthPlan:
    """What the depth dial sets."""

    model: ModelConfig
    """The model."""
    tokens: int
    """Training tokens: `tokens_per_parameter` for every weight of the blocks and the head."""
    batch_tokens: int
    """Tokens of one optimizer step, a power of two."""
    learning_rate: float
    """Peak learning rate of AdamW."""


def from_depth(depth: int, vocab_size: int, tokens_per_parameter: float = 20.0, **overrides: Any) -> DepthPlan:
    """One dial: the number of layers gives the width, the heads, the training tokens, the batch and the learning rate.

    - Width 64 x depth and heads of 64, so one head a layer: the width-to-depth ratio of GPT-2 small (768 / 12), which
      Kaplan et al. (arXiv 2001.08361, figure 5) found near the flat optimum.
    - Tokens: 20 a parameter is compute-optimal (Chinchilla, arXiv 2203.15556).
    - Batch and peak learning rate are the power laws of DeepSeek LLM (arXiv 2401.02954, section 3.1) in the training
      compute C in FLOPs: batch = 0.2920 C^0.3271 tokens, rate = 0.3118 C^-0.1250. They were fitted between 1e17 and
      2e19 FLOPs; the batch is rounded to a power of two.

    `overrides` are ModelConfig settings. Raises UserError for a depth below 1.
    """
    if depth < 1:
        raise UserError(f"depth is {depth}: it must be at least 1.")
    shape = _shape(vocab_size, 64 * depth, depth, depth, 1024)
    config = ModelConfig.from_dict({**shape, **overrides})
    context = config.max_position_embeddings
    matrices = config.flops_per_token(0) // 6
    tokens = int(tokens_per_parameter * matrices)
    compute = float(config.flops_per_token(context)) * tokens
    batch = max(context, 2 ** round(math.log2(0.2920 * compute**0.3271)))
    return DepthPlan(model=config, tokens=tokens, batch_tokens=batch, learning_rate=0.3118 * compute**-0.1250)
