"""The adapters of one linear layer: factors, updates, merged weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lokr.layer import factorization

from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.methods import DoRA, LoHa, LoKr, LoRA, make_layer, split
from nanohydra.errors import UserError

CONFIGS = [
    AdapterConfig(rank=4),
    AdapterConfig(rank=3, rslora=True),
    AdapterConfig(rank=4, dora=True),
    AdapterConfig(rank=3, method="loha"),
    AdapterConfig(rank=2, method="lokr"),
    AdapterConfig(rank=64, method="lokr"),
    AdapterConfig(rank=2, method="lokr", decompose_both=True, decompose_factor=4),
]


def trained(config: AdapterConfig, out_features: int, in_features: int, weight: torch.Tensor) -> torch.nn.Module:
    """A layer whose every value was moved away from its start."""
    layer = make_layer(config, "q_proj", out_features, in_features)
    layer.reset(torch.Generator().manual_seed(0))
    if isinstance(layer, DoRA):
        layer.start_from(weight)
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return layer


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_output_is_that_of_the_merged_weight(config: AdapterConfig, bias: bool) -> None:
    linear = torch.nn.Linear(24, 32, bias=bias)
    layer = trained(config, 32, 24, linear.weight)
    x = torch.randn(2, 5, 24)
    y = layer(x, linear(x), lambda: linear.weight, linear.bias)
    assert torch.allclose(y, F.linear(x, layer.merged(linear.weight), linear.bias), atol=1e-5)
    assert not torch.allclose(y, linear(x), atol=1e-2)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_starts_as_nothing(config: AdapterConfig) -> None:
    linear = torch.nn.Linear(24, 32)
    layer = make_layer(config, "q_proj", 32, 24)
    layer.reset(torch.Generator().manual_seed(0))
    if isinstance(layer, DoRA):
        layer.start_from(linear.weight)
    assert torch.allclose(layer.merged(linear.weight), linear.weight, atol=1e-6)
    assert layer.shape() == (32, 24)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_gradients_are_those_of_the_merged_weight(config: AdapterConfig) -> None:
    linear = torch.nn.Linear(24, 32).requires_grad_(False)
    layer = trained(config, 32, 24, linear.weight)
    x, out = torch.randn(3, 24), torch.randn(3, 32)
    got = torch.autograd.grad((layer(x, linear(x), lambda: linear.weight, linear.bias) * out).sum(), layer.parameters())
    if isinstance(layer, DoRA):  # the length below the bar is a constant
        a, b = layer.factors()
        weight = linear.weight + layer.scale * b @ a
        merged = layer.lora_magnitude_vector[:, None] * weight / weight.norm(dim=1, keepdim=True).detach()
    else:
        merged = layer.merged(linear.weight)
    want = torch.autograd.grad((F.linear(x, merged, linear.bias) * out).sum(), layer.parameters())
    for g, w in zip(got, want, strict=True):
        assert torch.allclose(g, w, atol=1e-4)


def test_scales() -> None:
    assert AdapterConfig(rank=16, alpha=32).scale_of("x") == 2
    assert AdapterConfig(rank=16, alpha=32, rslora=True).scale_of("x") == 8


def test_loha_is_the_product_of_two_products() -> None:
    layer = trained(CONFIGS[3], 32, 24, torch.empty(0))
    assert isinstance(layer, LoHa)
    product = (layer.hada_w1_a @ layer.hada_w1_b) * (layer.hada_w2_a @ layer.hada_w2_b)
    assert torch.allclose(layer.delta(), layer.scale * product, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS[4:], ids=str)
def test_lokr_is_a_kronecker_product(config: AdapterConfig) -> None:
    layer = trained(config, 32, 24, torch.empty(0))
    assert isinstance(layer, LoKr)
    product = torch.kron(layer._matrix("lokr_w1"), layer._matrix("lokr_w2"))
    assert torch.allclose(layer.delta(), layer.scale * product, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 5000), st.one_of(st.just(-1), st.integers(1, 64)))
def test_split_is_lycoris_rule(size: int, factor: int) -> None:
    small, large = split(size, factor)
    assert small * large == size
    assert (small, large) == factorization(size, factor)


def test_dora_on_zero_rows_is_finite() -> None:
    linear = torch.nn.Linear(4, 3)
    torch.nn.init.zeros_(linear.weight)
    layer = make_layer(AdapterConfig(rank=2, dora=True), "q_proj", 3, 4)
    layer.reset(None)
    assert isinstance(layer, DoRA)
    layer.start_from(linear.weight)
    x = torch.randn(2, 4)
    assert torch.equal(layer(x, linear(x), lambda: linear.weight, linear.bias), linear(x))


def test_dropout_only_in_training() -> None:
    config = AdapterConfig(rank=4, dropout=0.5)
    linear = torch.nn.Linear(24, 32)
    layer = trained(config, 32, 24, linear.weight)
    x = torch.ones(200, 24)

    def delta() -> torch.Tensor:
        return layer(x, linear(x), lambda: linear.weight, linear.bias) - linear(x)

    layer.eval()
    clean = delta()
    assert torch.equal(clean, delta())
    layer.train()
    torch.manual_seed(0)
    noisy = delta()
    assert not torch.allclose(noisy[0], clean[0])
    assert torch.allclose(noisy.mean(0), clean.mean(0), atol=4 * noisy.std(0).max().item() / math.sqrt(len(x)))


def test_half_precision_base_keeps_its_type() -> None:
    linear = torch.nn.Linear(24, 32).to(torch.bfloat16)
    layer = trained(CONFIGS[0], 32, 24, linear.weight)
    x = torch.randn(2, 24, dtype=torch.bfloat16)
    y = layer(x, linear(x), lambda: linear.weight, linear.bias)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), F.linear(x.float(), layer.merged(linear.weight), linear.bias.float()), atol=0.05)


LINEARS = [f"model.layers.{i}.{name}" for i in range(3) for name in ("self_attn.q_proj", "mlp.up_proj")] + ["lm_head"]


def test_targets() -> None:
    def select(**settings: object) -> list[str]:
        return AdapterConfig(**settings).select(LINEARS)  # type: ignore[arg-type]

    assert select() == LINEARS[:-1]
    assert select(target_modules=("q_proj",)) == LINEARS[:-1:2]
    assert select(target_modules=("lm_head",)) == ["lm_head"]
    assert select(target_modules=r".*\.[01]\..*up_proj") == [LINEARS[1], LINEARS[3]]
    assert select(top_layers=1) == LINEARS[4:6]
    assert select(layers=(0, 2), exclude_modules=("up_proj",)) == [LINEARS[0], LINEARS[4]]
    with pytest.raises(UserError, match="q_proj, up_proj"):
        select(target_modules=("k_proj",))


def test_patterns() -> None:
    config = AdapterConfig(
        rank=8, rank_pattern={r"layers\.1\..*up_proj": 2, "q_proj": 4}, alpha_pattern={"q_proj": 1.0}
    )
    assert [config.rank_of(path) for path in LINEARS] == [4, 8, 4, 2, 4, 8, 8]
    assert config.scale_of(LINEARS[0]) == 0.25
    layer = make_layer(config, LINEARS[0], 6, 5)
    assert isinstance(layer, LoRA)
    assert layer.lora_A.shape == (4, 5)


@pytest.mark.parametrize(
    "bad",
    [
        {"rank": 0},
        {"dropout": 1.0},
        {"method": "vera"},
        {"layers": (0,), "top_layers": 1},
        {"rank_pattern": {"(": 2}},
        {"method": "loha", "dora": True},
    ],
    ids=str,
)
def test_bad_settings_are_one_clear_line(bad: dict[str, object]) -> None:
    with pytest.raises(UserError) as e:
        AdapterConfig(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(e.value)
