"""Our models and transformers' give the same logits on the same files, both ways; what fits no family is refused."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from nanohydra.errors import UserError
from nanohydra.infer.cache import KVCache
from nanohydra.model.config import ModelConfig, RopeScaling
from nanohydra.model.families import config_from_hf, family, from_hf, to_hf, to_native
from nanohydra.model.transformer import Transformer

SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OURS: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": False},
    "llama_gqa_bias": {"qk_norm": False, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "llama_wide_heads": {"qk_norm": False, "head_dim": 16, "tie_word_embeddings": False, "rope_theta": 500000.0},
    "llama_rope": {"qk_norm": False, "rope_scaling": RopeScaling(4.0, 1.0, 4.0, 16)},
    "qwen3": {},
    "qwen3_gqa": {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
    "qwen3_bias": {"attention_bias": True, "dropout": 0.1, "init": "xavier"},
    "qwen3_window": {"sliding_window": 5, "layer_types": ("sliding_attention", "full_attention")},
    "gpt2": {},
    "gpt2_untied": {"tie_word_embeddings": False, "intermediate_size": 48, "dropout": 0.2},
}
GPT2 = {"norm": "layernorm", "positions": "learned", "mlp": "gelu", "qk_norm": False}


def ours(name: str) -> Transformer:
    torch.manual_seed(1)
    options = {**SHAPE, "max_position_embeddings": 64, "initializer_range": 0.2, **OURS[name]}
    if name.startswith("gpt2"):
        options |= {**GPT2, "attention_bias": True, "mlp_bias": True}
    return shake(Transformer(ModelConfig(**options)).eval())


def shake(model: Any) -> Any:
    """Moves every parameter, so that norm scales and biases count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def theirs(name: str) -> Any:
    torch.manual_seed(2)
    shape = {**SHAPE, "intermediate_size": 40, "max_position_embeddings": 64, "initializer_range": 0.2}
    small = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2)),
        "llama_bias": lambda: LlamaForCausalLM(LlamaConfig(**shape, attention_bias=True, mlp_bias=True)),
        "llama_tied_rope": lambda: LlamaForCausalLM(
            LlamaConfig(
                **shape,
                tie_word_embeddings=True,
                rope_parameters={**LLAMA3, "rope_theta": 5000.0, "original_max_position_embeddings": 16},
            )
        ),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape, num_key_value_heads=2, head_dim=8)),
        "qwen3_tied_bias": lambda: Qwen3ForCausalLM(
            Qwen3Config(**shape, num_key_value_heads=4, head_dim=16, tie_word_embeddings=True, attention_bias=True)
        ),
        "qwen3_window": lambda: Qwen3ForCausalLM(
            Qwen3Config(**shape, num_key_value_heads=4, use_sliding_window=True, sliding_window=5, max_window_layers=1)
        ),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**small)),
        "gpt2_inner": lambda: GPT2LMHeadModel(GPT2Config(**small, n_inner=48, activation_function="gelu_pytorch_tanh")),
    }
    return shake(models[name]().eval())


THEIRS = ["llama", "llama_bias", "llama_tied_rope", "qwen3", "qwen3_tied_bias", "qwen3_window", "gpt2", "gpt2_inner"]


def write(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_exported_model_gives_equal_logits_in_transformers(name: str, tmp_path: Path) -> None:
    model = ours(name)
    write(tmp_path, *to_hf(model))
    other = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert other.config.model_type == family(model.config) == name.split("_")[0]
    ids = torch.randint(0, 61, (2, 50))
    torch.testing.assert_close(model(ids), other(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_imported_model_gives_equal_logits(name: str, tmp_path: Path) -> None:
    other = theirs(name)
    other.save_pretrained(tmp_path)
    config, state = from_hf(
        json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    )
    model = Transformer.from_state_dict(config, state).eval()
    ids = torch.randint(0, 61, (2, 50))
    torch.testing.assert_close(model(ids), other(ids).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_window", "gpt2"])
@torch.no_grad()
def test_greedy_cached_decoding_equals_generate(name: str) -> None:
    other = theirs(name)
    config, state = from_hf(other.config.to_dict(), other.state_dict())
    model = Transformer.from_state_dict(config, state).eval()
    prompt = torch.randint(0, 61, (1, 9))
    want = other.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 9:].tolist()
    cache = KVCache(config, slots=1)
    slot = cache.allocate()
    got, ids = [], prompt
    for _ in range(20):
        ids = model(ids, cache=cache.rows([slot]))[:, -1:].argmax(-1)
        got.append(int(ids))
    assert got == want


@pytest.mark.parametrize("name", OURS)
def test_there_and_back_is_the_same_model(name: str) -> None:
    model = ours(name)
    for config, state in (to_hf(model), to_native(model)):
        back, tensors = from_hf(json.loads(json.dumps(config)), state)
        again = Transformer.from_state_dict(back, tensors)
        assert back == model.config
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"positions": "alibi"}, "positions is alibi, not rope"),
        ({"positions": "none"}, "positions is none, not rope"),
        ({"norm_position": "post"}, "norm_position is post, not pre"),
        ({"mlp": "relu2"}, "mlp is relu2, not swiglu"),
        ({"norm": "layernorm"}, "norm is layernorm, not rmsnorm"),
        ({"logit_softcap": 30.0}, "logit_softcap is 30.0, not None"),
        ({"mlp_bias": True}, "for llama, qk_norm is True, not False; for qwen3, mlp_bias is True, not False"),
        ({"qk_norm": False, "sliding_window": 8, "layer_types": ()}, "layer_types is sliding_attention, not full"),
        ({**GPT2, "attention_bias": True}, "mlp_bias is False, not True"),
    ],
)
def test_what_fits_no_family_is_named(change: dict[str, Any], word: str) -> None:
    config = replace(ModelConfig(**SHAPE), **change)
    with pytest.raises(UserError, match=word):
        family(config)
    model = Transformer(config)
    back, state = from_hf(*to_native(model))
    assert back == config
    ids = torch.randint(0, 61, (1, 5))
    torch.testing.assert_close(model(ids), Transformer.from_state_dict(back, state)(ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("base", "change", "word"),
    [
        ("llama", {"model_type": "mamba"}, '"mamba" cannot be imported'),
        ("llama", {"hidden_act": "gelu"}, 'hidden_act "gelu"'),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_parameters": None}, 'rope_type "yarn"'),
        ("llama", {"quantization_config": {"bits": 4}}, "Quantised weights"),
        ("llama", {"hidden_size": None}, "has no hidden_size"),
        ("gpt2", {"activation_function": "gelu"}, 'activation_function "gelu"'),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_embd": None}, "has no n_embd"),
    ],
)
def test_what_we_do_not_have_is_refused(base: str, change: dict[str, Any], word: str) -> None:
    values = {**copy.deepcopy(theirs(base).config.to_dict()), **change}
    with pytest.raises(UserError, match=word):
        config_from_hf(values)


def test_files_of_the_first_gpt2_models() -> None:
    """Their names have no prefix, and each layer's causal mask lies among the weights."""
    other = theirs("gpt2")
    old = {
        key.removeprefix("transformer."): tensor
        for key, tensor in other.state_dict().items()
        if key != "lm_head.weight"
    }
    old["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    config, state = from_hf(other.config.to_dict(), old)
    model = Transformer.from_state_dict(config, state).eval()
    ids = torch.randint(0, 61, (1, 9))
    torch.testing.assert_close(model(ids), other(ids).logits, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"transformer\.extra\.weight is not wanted"):
        from_hf(other.config.to_dict(), {**old, "extra.weight": torch.ones(1)})


def test_weights_that_do_not_fit_are_named() -> None:
    config, state = to_hf(ours("qwen3"))
    read, state = from_hf(config, state)
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=re.escape(f"{name} is missing")):
        Transformer.from_state_dict(read, {key: t for key, t in state.items() if key != name})
    with pytest.raises(UserError, match=r"model\.extra is not wanted"):
        Transformer.from_state_dict(read, {**state, "model.extra": torch.ones(1)})
    with pytest.raises(UserError, match=re.escape(f"{name} is (2, 2)")):
        Transformer.from_state_dict(read, {**state, name: torch.ones(2, 2)})
