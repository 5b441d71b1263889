"""What must hold for every architecture: causality, segments, counts, gradients, initial weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.model import attention_cpu
from nanohydra.model.attention import visibility
from nanohydra.model.config import CHOICES, Init, ModelConfig, RopeScaling
from nanohydra.model.dropout import Dropout
from nanohydra.model.norms import RMSNorm
from nanohydra.model.positions import alibi_slopes, rope_frequencies
from nanohydra.model.presets import PRESETS, from_depth, preset
from nanohydra.model.transformer import Transformer

SHAPE = {"vocab_size": 29, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    values = {name: draw(st.sampled_from(choices)) for name, choices in CHOICES.items()}
    for name in ("tie_word_embeddings", "qk_norm", "attention_bias", "mlp_bias"):
        values[name] = draw(st.booleans())
    values["num_key_value_heads"] = draw(st.sampled_from([1, 2, 4]))
    values["head_dim"] = draw(st.sampled_from([0, 8]))
    values["logit_softcap"] = draw(st.sampled_from([None, 5.0]))
    values["sliding_window"] = draw(st.sampled_from([None, 3]))
    if values["sliding_window"]:
        values["layer_types"] = draw(st.sampled_from([(), ("sliding_attention", "full_attention")]))
    return ModelConfig(**SHAPE, max_position_embeddings=32, initializer_range=0.15, **values)


def make(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config).eval()


@given(config=configs())
@settings(max_examples=60, deadline=None)
def test_parameters_are_counted_exactly(config: ModelConfig) -> None:
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameters()
    assert ModelConfig.from_dict(config.to_dict()) == config


@given(config=configs(), cut=st.integers(1, 11))
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_a_token_sees_its_own_segment_up_to_itself(config: ModelConfig, cut: int) -> None:
    """What comes later changes nothing, and two packed texts give what each gives alone."""
    model = make(config)
    ids = torch.randint(0, 29, (1, 12))
    whole = model(ids)
    torch.testing.assert_close(whole[:, :cut], model(ids[:, :cut]), rtol=0, atol=1e-5)
    segments = (torch.arange(12) >= cut).long()[None]
    positions = torch.cat((torch.arange(cut), torch.arange(12 - cut)))[None]
    packed = model(ids, positions=positions, segment_ids=segments)
    torch.testing.assert_close(packed[:, :cut], whole[:, :cut], rtol=0, atol=1e-5)
    torch.testing.assert_close(packed[:, cut:], model(ids[:, cut:]), rtol=0, atol=1e-5)


@given(config=configs())
@settings(max_examples=25, deadline=None)
def test_activation_checkpointing_gives_the_same_gradients(config: ModelConfig) -> None:
    model = Transformer(config)
    ids = torch.randint(0, 29, (2, 9))
    gradients = []
    for on in (False, True):
        model.activation_checkpointing = on
        model.zero_grad()
        model(ids).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_windows_hide_what_is_too_far_back() -> None:
    model = make(ModelConfig(**SHAPE, sliding_window=3, positions="none", num_key_value_heads=2))
    with torch.no_grad():
        ids = torch.randint(0, 29, (1, 12))
        other = ids.clone()
        other[0, 0] = (ids[0, 0] + 1) % 29
        same = (model(ids) == model(other))[0].all(-1)
    # Two layers of three tokens each reach back four.
    assert not same[:5].any()
    assert same[5:].all()


def test_alibi_slopes_and_bias() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    places = torch.arange(3)[None]
    bias = visibility(places, places, torch.float32, slopes=torch.tensor([0.5, 0.25]))
    inf = float("inf")
    assert bias[0, 0].tolist() == [[0, -inf, -inf], [-0.5, 0, -inf], [-1, -0.5, 0]]
    assert bias[0, 1].tolist() == [[0, -inf, -inf], [-0.25, 0, -inf], [-0.5, -0.25, 0]]


def test_rope_depends_on_distance_alone() -> None:
    model = make(ModelConfig(**SHAPE, max_position_embeddings=64))
    ids = torch.randint(0, 29, (1, 10))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model(ids, positions=torch.arange(40, 50)[None]), rtol=0, atol=1e-5)


def test_llama3_rope_keeps_fast_and_slows_slow_frequencies() -> None:
    plain = ModelConfig(head_dim=64, max_position_embeddings=64)
    stretched = rope_frequencies(replace(plain, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 256)))
    ratio = rope_frequencies(plain) / stretched
    wavelength = 2 * math.pi / rope_frequencies(plain)
    torch.testing.assert_close(ratio[wavelength < 256 / 4], torch.ones_like(ratio[wavelength < 256 / 4]))
    torch.testing.assert_close(ratio[wavelength > 256], torch.full_like(ratio[wavelength > 256], 8.0))
    assert (ratio.diff() >= 0).all()


@given(
    length=st.integers(2, 300),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    kind=st.sampled_from(["causal", "segments", "window", "alibi"]),
)
@settings(max_examples=25, deadline=None)
def test_blockwise_attention_equals_the_fused_kernel(length: int, heads: tuple[int, int], kind: str) -> None:
    """In bf16, outputs and gradients are as near to those of fp32 as the fused kernel's own."""
    torch.manual_seed(length)
    places = torch.arange(length)[None]
    mask = None
    if kind == "segments":
        mask = visibility(places, places, torch.float32, segments=(places * 3 // length).expand(2, -1))
    elif kind == "window":
        mask = visibility(places, places, torch.float32, window=7)
    elif kind == "alibi":
        mask = visibility(places, places, torch.float32, slopes=torch.tensor(alibi_slopes(4)))
    q, k, v, out = (torch.randn(2, length, n, 16).bfloat16() for n in (heads[0], heads[1], heads[1], heads[0]))

    def run(dtype: torch.dtype, blockwise: bool) -> list[torch.Tensor]:
        inputs = [x.to(dtype, copy=True).requires_grad_() for x in (q, k, v)]
        bias = None if mask is None else mask.to(dtype)
        if blockwise:
            assert attention_cpu.suits(*inputs[:2])
            y = attention_cpu.blockwise_attention(*inputs, bias)
        else:
            heads_first = [x.transpose(1, 2) for x in inputs]
            y = F.scaled_dot_product_attention(
                *heads_first, attn_mask=bias, is_causal=bias is None, enable_gqa=True
            ).transpose(1, 2)
        y.backward(out.to(dtype))
        return [y.detach().float(), *(x.grad.float() for x in inputs if x.grad is not None)]

    for exact, fused, ours in zip(run(torch.float32, False), run(torch.bfloat16, False), run(torch.bfloat16, True)):
        error, allowed = (ours - exact).norm(), (fused - exact).norm()
        assert error <= 2 * allowed + 0.01 * exact.norm()


def test_bf16_gradients_are_near_those_of_fp32() -> None:
    config = ModelConfig(**SHAPE, num_key_value_heads=2)
    model = make(config)
    ids = torch.randint(0, 29, (4, 32))

    def gradient(model: Transformer) -> torch.Tensor:
        model.zero_grad()
        F.cross_entropy(model(ids).float().flatten(0, 1), ids.flatten()).backward()
        return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])

    exact = gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradient(model)
    half = gradient(model.to(torch.bfloat16))
    for other in (mixed, half):
        assert F.cosine_similarity(exact, other, dim=0) > 0.995


def test_tables_stay_in_fp32_and_are_not_saved() -> None:
    model = make(ModelConfig(**SHAPE))
    assert model.model.rotary_emb is not None
    table = model.model.rotary_emb.table.clone()
    model.to(torch.bfloat16).to(torch.float32)
    torch.testing.assert_close(model.model.rotary_emb.table, table, rtol=0, atol=0)
    assert not [name for name in model.state_dict() if "table" in name]


def test_dropout_only_in_training() -> None:
    model = Transformer(ModelConfig(**SHAPE, dropout=0.5))
    ids = torch.randint(0, 29, (1, 8))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_softcap_bounds_logits() -> None:
    model = make(ModelConfig(**SHAPE, logit_softcap=1.5, initializer_range=2.0))
    plain = make(ModelConfig(**SHAPE, initializer_range=2.0))
    ids = torch.randint(0, 29, (1, 8))
    assert model(ids).abs().max() <= 1.5
    torch.testing.assert_close(model(ids), torch.tanh(plain(ids) / 1.5) * 1.5)


@pytest.mark.parametrize("init", get_args(Init))
def test_initial_weights(init: Init) -> None:
    config = ModelConfig(vocab_size=512, hidden_size=256, num_hidden_layers=8, init=init, attention_bias=True)
    model = make(config)
    block = model.model.layers[0]
    up, down = block.mlp.up_proj.weight, block.mlp.down_proj.weight
    fan_in, fan_out = 256, config.intermediate_size
    inner, outer = {
        "normal": (0.02, 0.02),
        "depth_scaled": (0.02, 0.02 / 4),
        "zero_output": (0.02, 0.0),
        "xavier": ((2 / (fan_in + fan_out)) ** 0.5,) * 2,
        "kaiming": ((2 / fan_in) ** 0.5, (2 / fan_out) ** 0.5),
    }[init]
    assert up.std().item() == pytest.approx(inner, rel=0.03)
    assert down.std().item() == pytest.approx(outer, rel=0.03)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert (block.input_layernorm.weight == 1).all()
    assert (block.self_attn.q_proj.bias == 0).all()
    again = make(config)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_forward_pass_is_one_graph() -> None:
    """torch.compile finds no place where it must fall back to Python."""
    for options in (
        {},
        {"dropout": 0.1, "positions": "alibi", "sliding_window": 4, "norm": "layernorm", "mlp": "relu2"},
    ):
        model = Transformer(ModelConfig(**{**SHAPE, "num_hidden_layers": 1}, **options)).to(torch.bfloat16)
        ids, segments = torch.randint(0, 29, (2, 8)), torch.tensor([[0] * 3 + [1] * 5] * 2)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        got = compiled(ids, segment_ids=segments)
        if not model.config.dropout:
            torch.testing.assert_close(got, model(ids, segment_ids=segments))
        got.float().sum().backward()


def test_observers_see_queries_and_keys() -> None:
    model = make(ModelConfig(**SHAPE, num_key_value_heads=2))
    seen: list[tuple[Any, ...]] = []
    model.model.layers[1].self_attn.observer = lambda q, k, visible: seen.append((q.shape, k.shape, visible.is_causal))
    model(torch.randint(0, 29, (2, 5)))
    assert seen == [((2, 5, 4, 6), (2, 5, 2, 6), True)]


def test_flops_are_six_a_weight_and_twelve_a_score() -> None:
    config = ModelConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    weights = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 100 * 64
    assert config.flops_per_token(10) == 6 * weights + 12 * 64 * 2 * 10
    window = replace(config, sliding_window=4, layer_types=("sliding_attention", "full_attention"))
    assert window.flops_per_token(10) == 6 * weights + 12 * 64 * (4 + 10)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny-0.5m", 0.54), ("demo", 2.6), ("tiny-10m", 10.7), ("gpt2-124m-shape", 124.4), ("smollm2-135m", 134.5),
     ("qwen3-0.6b", 596.0), ("1b", 984.0)],
)  # fmt: skip
def test_presets_have_the_size_of_their_name(name: str, millions: float) -> None:
    assert preset(name).parameters() / 1e6 == pytest.approx(millions, rel=0.01)
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(preset(name)).parameters()) == preset(name).parameters()


def test_presets_take_settings() -> None:
    assert preset("demo", vocab_size=77, mlp="gelu").vocab_size == 77
    assert all(preset(name).parameters() > 5e5 for name in PRESETS)
    with pytest.raises(UserError, match='Did you mean "demo"'):
        preset("demoo")


def test_depth_sets_everything() -> None:
    plans = [from_depth(depth, 8192) for depth in (2, 4, 8, 12, 20)]
    for plan, depth in zip(plans, (2, 4, 8, 12, 20)):
        assert plan.model.num_hidden_layers == plan.model.num_attention_heads == depth
        assert plan.model.hidden_size == 64 * depth
        assert plan.batch_tokens == 2 ** round(math.log2(plan.batch_tokens))
        assert plan.tokens == pytest.approx(20 * plan.model.parameters(), rel=0.01)
    assert [p.batch_tokens for p in plans] == sorted(p.batch_tokens for p in plans)
    assert [p.learning_rate for p in plans] == sorted((p.learning_rate for p in plans), reverse=True)
    assert 1e-3 < plans[3].learning_rate < 3e-3
    assert from_depth(2, 8192, max_position_embeddings=128, mlp="gelu").model.mlp == "gelu"
    with pytest.raises(UserError, match="depth is 0"):
        from_depth(0, 100)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_sise": 3}, 'Unknown model setting "hidden_sise". Did you mean "hidden_size"'),
        ({"norm": "rms"}, 'norm "rms" is unknown. Did you mean "rmsnorm"'),
        ({"positions": "xyz"}, "Known: alibi, learned, none, rope, sinusoidal"),
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"head_dim": 3}, "head_dim is 3: rope"),
        ({"hidden_size": 21, "head_dim": 2, "positions": "sinusoidal"}, "hidden_size is 21: sinusoidal"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"layer_types": ["sliding_attention"]}, "set sliding_window"),
        ({"layer_types": ["full_attention"], "sliding_window": 3}, "no sliding_attention layer"),
        ({"layer_types": ["full"]}, 'layer_types: "full" is unknown. Known: full_attention'),
        ({"layer_types": ["full_attention"] * 3}, "names 3 layers, num_hidden_layers is 2"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0"),
        ({"logit_softcap": -1.0}, "logit_softcap is -1.0"),
        ({"rope_scaling": {"factr": 2.0}}, 'Unknown model setting "factr". Did you mean "factor"'),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as error:
        ModelConfig.from_dict({**SHAPE, **change})
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_sequences_beyond_the_context_are_refused() -> None:
    model = make(ModelConfig(**SHAPE, max_position_embeddings=8))
    with pytest.raises(UserError, match="has 9 tokens, the model's context 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    alibi = make(ModelConfig(**SHAPE, max_position_embeddings=8, positions="alibi"))
    assert alibi(torch.zeros(1, 9, dtype=torch.int64)).shape == (1, 9, 29)  # has no table to run out of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_gradients_equal_autograd(dtype: torch.dtype) -> None:
    norm = RMSNorm(48, 1e-3)
    with torch.no_grad():
        norm.weight.add_(torch.randn(48))
    norm.to(dtype)
    x, grad = torch.randn(2, 3, 5, 48).to(dtype), torch.randn(2, 3, 5, 48).to(dtype)
    inputs = [x.clone().requires_grad_(), norm.weight]
    ours = torch.autograd.grad(norm(inputs[0]), inputs, grad)
    plain = [x.double().requires_grad_(), norm.weight.detach().double().requires_grad_()]
    scale = torch.rsqrt(plain[0].square().mean(-1, keepdim=True) + 1e-3)
    want = torch.autograd.grad(plain[0] * scale * plain[1], plain, grad.double())
    for a, b in zip(ours, want, strict=True):
        assert (a.double() - b).norm() < (1e-5 if dtype == torch.float32 else 0.01) * b.norm()


def test_gradients_of_each_example() -> None:
    """Functional transforms (a gradient for each row, as Fisher information needs) go through the model."""
    model = make(ModelConfig(**SHAPE))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    ids = torch.randint(0, 29, (3, 6))

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, parameters, (row[None],))[0]
        return F.cross_entropy(logits, row)

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, ids)
    for i, row in enumerate(ids):
        model.zero_grad()
        F.cross_entropy(model(row[None])[0], row).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(each[name][i], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1001, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    y.sum().backward()
    share = (y == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-14)
    assert set(y.detach().float().unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(Dropout(p)(x), y)
    assert Dropout(p).eval()(x) is x
