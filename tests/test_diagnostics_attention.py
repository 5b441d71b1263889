"""Attention maps: what is drawn is what the model did, for every kind of attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.evals.attention_maps import attention_maps, draw_attention, prompt_attention, token_labels
from nanohydra.model.attention import Attention, Visible
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.diagnostics_stats import attention_entropy, attention_weights

SHAPE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.3,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "grouped": {"num_key_value_heads": 2},
    "multi-query, no norm": {"num_key_value_heads": 1, "qk_norm": False},
    "window": {"sliding_window": 5, "layer_types": ("sliding_attention", "full_attention")},
    "alibi": {"positions": "alibi"},
    "learned": {"positions": "learned", "norm_position": "post"},
}


@torch.no_grad()
def outputs_and_weights(model: Transformer, **arguments: Any) -> list[tuple[Tensor, Tensor]]:
    """For each layer: its attention's own output, and the output made of weights times values."""
    seen: dict[int, dict[str, Tensor]] = {}
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for i, attention in enumerate(attentions):
        layer = seen.setdefault(i, {})
        attention.observer = lambda q, k, visible, layer=layer: layer.update(w=attention_weights(q, k, visible))
        attention.v_proj.register_forward_hook(lambda m, x, y, layer=layer: layer.update(v=y))
        attention.o_proj.register_forward_hook(lambda m, x, y, layer=layer: layer.update(y=x[0]))
    model.hidden(**arguments)
    found = []
    for layer, attention in zip(seen.values(), attentions, strict=True):
        v = layer["v"].unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
        v = v.repeat_interleave(layer["w"].shape[1] // v.shape[1], dim=1)
        found.append((layer["y"], (layer["w"] @ v).transpose(1, 2).flatten(2)))
    return found


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("segments", [False, True])
def test_weights_times_values_are_the_models_own_output(variant: dict[str, Any], segments: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, **variant)).eval()
    ids = torch.randint(64, (3, 12))
    segment_ids = torch.tensor([0] * 5 + [1] * 7).expand(3, -1) if segments else None
    for own, ours in outputs_and_weights(model, input_ids=ids, segment_ids=segment_ids):
        assert torch.allclose(own, ours, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_maps_are_causal_distributions(variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, **variant)).train()
    maps = attention_maps(model, torch.randint(64, (12,)))
    assert maps.shape == (2, 4, 12, 12)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 4, 12), atol=1e-5)
    assert not maps.triu(1).any()
    if "sliding_window" in variant:
        assert not maps[0].tril(-5).any()
        assert maps[1].tril(-5).any()
    assert model.training  # left as it was
    assert all(m.observer is None for m in model.modules() if isinstance(m, Attention))


@pytest.mark.parametrize("masked", [False, True])
def test_entropy_of_uniform_and_of_single_minded_attention(masked: bool) -> None:
    length = 8
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None] if masked else None
    visible = Visible(mask, is_causal=not masked)
    q, k = torch.zeros(1, length, 4, 16), torch.randn(1, length, 2, 16)
    entropy, share = attention_entropy(q, k, visible).tolist()
    assert entropy == pytest.approx(sum(torch.arange(1, length + 1).log().tolist()) / length, abs=1e-5)
    assert share == pytest.approx(1.0, abs=1e-5)
    same = torch.nn.functional.one_hot(torch.arange(length), 16).float()[None, :, None]
    entropy, share = attention_entropy(
        1e4 * same.expand(1, length, 4, 16), same.expand(1, length, 2, 16), visible
    ).tolist()
    assert entropy == pytest.approx(0, abs=1e-5)
    assert share == pytest.approx(0, abs=1e-5)


def test_pictures_of_a_prompt(tmp_path: Path) -> None:
    tokenizer = Tokenizer.characters("the $cat sat\n")
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, vocab_size=tokenizer.vocab_size, num_key_value_heads=2))
    maps = prompt_attention(model, tokenizer, "the $cat\nsat", tmp_path / "attention.png")
    assert maps.shape == (2, 4, 12, 12)
    assert torch.equal(maps, attention_maps(model, torch.tensor(tokenizer.encode("the $cat\nsat"))))
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert token_labels(tokenizer, tokenizer.encode("t $\n")) == ["t", "·", r"\$", "⏎"]
    for bad in ("", "t" * 129):
        with pytest.raises(UserError, match="1 to 128"):
            prompt_attention(model, tokenizer, bad, tmp_path / "bad.png")


def test_the_picture_shows_the_weights(tmp_path: Path) -> None:
    import matplotlib.image

    def darkness(maps: Tensor) -> float:
        path = draw_attention(maps, ["a"] * 6, tmp_path / "map.png")
        return 1.0 - float(matplotlib.image.imread(path)[..., :3].mean())

    assert darkness(torch.ones(1, 1, 6, 6)) > darkness(torch.eye(6)[None, None]) > darkness(torch.zeros(1, 1, 6, 6))
