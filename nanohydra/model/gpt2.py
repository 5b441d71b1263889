"""GPT-2's names for what we have: another config.json, fused q/k/v and matrices stored input first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig

CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "rms_norm_eps": "layer_norm_epsilon",
    "tie_word_embeddings": "tie_word_embeddings",
    "initializer_range": "initializer_range",
}
TOP_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.embed_positions": "transformer.wpe",
    "model.norm": "transformer.ln_f",
    "lm_head": "lm_head",
}
LAYER_NAMES = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """A GPT-2 config.json. `families.family` has checked that the config fits."""
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop"), config.dropout)
    values = {theirs: getattr(config, ours) for ours, theirs in CONFIG_NAMES.items()}
    return {**values, **dropout, "attn_pdrop": 0.0, "activation_function": "gelu_new"}


def config_from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings from a GPT-2 config.json. Raises UserError for one that we do not have."""
    activation = values.get("activation_function", "gelu_new")
    if activation not in TANH_GELU:
        raise UserError(f'activation_function "{activation}" of a gpt2 model is not supported: only "gelu_new" is.')
    for key, plain in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if values.get(key, plain) != plain:
            raise UserError(f"{key} = {values[key]} of a gpt2 model is not supported: only {plain} is.")
    defaults = {"n_positions": 1024, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
    read = {ours: values.get(theirs, defaults.get(theirs)) for ours, theirs in CONFIG_NAMES.items()}
    for ours in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        if read[ours] is None:
            raise UserError(f"The model's config.json has no {CONFIG_NAMES[ours]}.")
    read = {key: value for key, value in read.items() if value is not None}
    block = {"norm": "layernorm", "qk_norm": False, "positions": "learned", "mlp": "gelu", "init": "depth_scaled"}
    return {**read, **block, "attention_bias": True, "mlp_bias": True, "dropout": values.get("resid_pdrop", 0.1)}


def state_to_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our tensors under GPT-2's names."""
    given: dict[str, Tensor] = {}
    for ours, theirs, is_matrix in _names(config):
        for kind in ("weight", "bias"):
            if isinstance(ours, tuple):
                tensor = torch.cat([state[f"{part}.{kind}"] for part in ours])
            elif f"{ours}.{kind}" in state:
                tensor = state[f"{ours}.{kind}"]
            else:
                continue
            given[f"{theirs}.{kind}"] = tensor.t().contiguous() if is_matrix and kind == "weight" else tensor
    return given


def state_from_hf(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """GPT-2's tensors under our names. Raises UserError where one is missing or unknown."""
    # The files of the first GPT-2 models lack the prefix and hold the causal mask of each layer.
    left = {
        key if key.startswith(("transformer.", "lm_head.")) else f"transformer.{key}": t for key, t in state.items()
    }
    left = {key: t for key, t in left.items() if not key.endswith((".attn.bias", ".attn.masked_bias"))}
    given: dict[str, Tensor] = {}
    for ours, theirs, is_matrix in _names(config):
        for kind in ("weight", "bias"):
            tensor = left.pop(f"{theirs}.{kind}", None)
            if tensor is None:
                continue  # what the model misses, `Transformer.from_state_dict` names
            tensor = tensor.t() if is_matrix and kind == "weight" else tensor
            if isinstance(ours, tuple):
                for part, piece in zip(ours, tensor.chunk(3), strict=True):
                    given[f"{part}.{kind}"] = piece.contiguous()
            else:
                given[f"{ours}.{kind}"] = tensor.contiguous()
    for key in left:
        raise UserError(f"The weights do not fit the config: {key} is not wanted.")
    return given


def _names(config: ModelConfig) -> list[tuple[str | tuple[str, ...], str, bool]]:
    """(our module or modules, theirs, whether the weight is stored transposed) for the whole model."""
    names: list[tuple[str | tuple[str, ...], str, bool]] = [(ours, theirs, False) for ours, theirs in TOP_NAMES.items()]
    for i in range(config.num_hidden_layers):
        mine, other = f"model.layers.{i}.", f"transformer.h.{i}."
        names.append((tuple(mine + part for part in FUSED), f"{other}attn.c_attn", True))
        names += [(mine + a, other + b, a.endswith("_proj")) for a, b in LAYER_NAMES.items()]
    return names
