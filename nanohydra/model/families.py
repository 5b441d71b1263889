"""Which families of Hugging Face models an architecture belongs to, and the way there and back.

Our names are Llama's, so Llama and Qwen3 need only their `config.json`; GPT-2 stores other names and transposed
matrices. An architecture that fits no family is kept under our own `model_type`, "nanohydra".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.model import gpt2
from nanohydra.model.config import ModelConfig, RopeScaling
from nanohydra.model.transformer import Transformer

NATIVE = "nanohydra"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel"}
SAME_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "attention_bias",
)
OURS = ("dropout", "init")
"""Settings of training that a family's config.json has no place for: kept under the key "nanohydra"."""


def wanted(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """For each family, the values that a config's settings must have to belong to it (the others are free)."""
    full = ("full_attention",) * config.num_hidden_layers
    heads = config.num_attention_heads
    block = {"norm": "rmsnorm", "norm_position": "pre", "positions": "rope", "mlp": "swiglu", "logit_softcap": None}
    return {
        "llama": {**block, "qk_norm": False, "layer_types": full, "hidden_size": config.hidden_size // heads * heads},
        "qwen3": {**block, "qk_norm": True, "mlp_bias": False},
        "gpt2": {
            "norm": "layernorm",
            "norm_position": "pre",
            "positions": "learned",
            "mlp": "gelu",
            "logit_softcap": None,
            "qk_norm": False,
            "layer_types": full,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": heads,
            "head_dim": config.hidden_size // heads,
        },
    }


def family(config: ModelConfig) -> str:
    """The family that a config belongs to: llama, qwen3 or gpt2. Raises UserError naming the values that prevent it."""
    ways: dict[str, list[str]] = {}
    for name, values in wanted(config).items():
        pairs = [(key, getattr(config, key), value) for key, value in values.items()]
        ways[name] = [f"{key} is {_show(has)}, not {_show(value)}" for key, has, value in pairs if has != value]
    fewest = min(map(len, ways.values()))
    nearest = {name: reasons for name, reasons in ways.items() if len(reasons) == fewest}
    if fewest:
        why = "; ".join(f"for {name}, {' and '.join(reasons)}" for name, reasons in nearest.items())
        raise UserError(f"This architecture cannot be exported, since no family has it: {why}.")
    return next(iter(nearest))


def _show(value: Any) -> str:
    return " ".join(dict.fromkeys(value)) if isinstance(value, tuple) else str(value)


def to_hf(model: Transformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A family's config.json and weights (a tied head is left out). Raises UserError as `family` does."""
    config = model.config
    name = family(config)
    values = gpt2.config_to_hf(config) if name == "gpt2" else _config_to_hf(config, name)
    head = {"model_type": name, "architectures": [ARCHITECTURES[name]], "torch_dtype": _dtype(model)}
    ours = {NATIVE: {key: getattr(config, key) for key in OURS}}
    state = _state(model)
    return {**head, **values, **ours}, gpt2.state_to_hf(state, config) if name == "gpt2" else state


def to_native(model: Transformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of any architecture in our own form, which only `from_hf` reads."""
    return {"model_type": NATIVE, "torch_dtype": _dtype(model), NATIVE: model.config.to_dict()}, _state(model)


def from_hf(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and weights for `Transformer.from_state_dict` from a config.json and the tensors beside it.

    Raises UserError for an architecture that we do not have, naming the setting.
    """
    config = config_from_hf(values)
    if values["model_type"] == "gpt2":
        return config, gpt2.state_from_hf(state, config)
    return config, dict(state)


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """The config that a config.json describes: llama, qwen3, gpt2 or our own. Raises UserError as `from_hf` does."""
    name = values.get("model_type")
    if name == NATIVE:
        return ModelConfig.from_dict(values.get(NATIVE, {}))
    if name not in ARCHITECTURES:
        raise UserError(f'Models of type "{name}" cannot be imported: only {", ".join(ARCHITECTURES)} can.')
    if values.get("quantization_config"):
        raise UserError("Quantised weights cannot be imported: take the model's unquantised folder or a GGUF file.")
    read = gpt2.config_from_hf(values) if name == "gpt2" else _config_from_hf(values, name)
    return ModelConfig.from_dict({**read, **values.get(NATIVE, {})})


def _state(model: Transformer) -> dict[str, Tensor]:
    # attached adapters are no part of the base: they have folders of their own
    state = {key: tensor.detach() for key, tensor in model.state_dict().items() if not key.startswith("adapters.")}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def _dtype(model: Transformer) -> str:
    return str(model.lm_head.weight.dtype).removeprefix("torch.")


def _config_to_hf(config: ModelConfig, name: str) -> dict[str, Any]:
    values = {key: getattr(config, key) for key in SAME_NAMES}
    values |= {"hidden_act": "silu", "attention_dropout": 0.0, "rope_theta": config.rope_theta, "rope_scaling": None}
    if config.rope_scaling is not None:
        values["rope_scaling"] = {"rope_type": "llama3", **dataclasses.asdict(config.rope_scaling)}
    if name == "llama":
        return values | {"mlp_bias": config.mlp_bias}
    slides = "sliding_attention" in config.layer_types
    return values | {
        "use_sliding_window": slides,
        "sliding_window": config.sliding_window if slides else None,
        "layer_types": list(config.layer_types),
    }


def _config_from_hf(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    if values.get("hidden_act", "silu") != "silu":
        raise UserError(f'hidden_act "{values["hidden_act"]}" of a {name} model is not supported: only "silu" is.')
    read: dict[str, Any] = {key: values[key] for key in SAME_NAMES if values.get(key) is not None}
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if key not in read:
            raise UserError(f"The model's config.json has no {key}.")
    read.setdefault("tie_word_embeddings", False)
    read |= {"init": "normal", "qk_norm": name == "qwen3", **_rope_from_hf(values)}
    if name == "llama":
        return read | {"mlp_bias": bool(values.get("mlp_bias"))}
    read.setdefault("head_dim", 128)  # Qwen3's own default
    if values.get("use_sliding_window") and values.get("sliding_window"):
        full = values.get("max_window_layers", 28)
        types = ["full_attention" if i < full else "sliding_attention" for i in range(read["num_hidden_layers"])]
        read |= {"sliding_window": values["sliding_window"], "layer_types": values.get("layer_types") or types}
    return read


def _rope_from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers 5 writes `rope_parameters`, earlier versions `rope_theta` and `rope_scaling`."""
    rope = {"rope_theta": values.get("rope_theta")}
    rope |= {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f'rope_type "{kind}" is not supported: only "default" and "llama3" are.')
    if values.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError("partial_rotary_factor is not supported: only whole heads are rotated.")
    read: dict[str, Any] = {"rope_theta": float(rope["rope_theta"] or 10000.0)}
    if kind == "llama3":
        read["rope_scaling"] = {field.name: rope[field.name] for field in dataclasses.fields(RopeScaling)}
    return read
