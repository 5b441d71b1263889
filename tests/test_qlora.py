"""NF4 with double quantisation: our reference against bitsandbytes, and adapters over 4-bit weights."""

from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.linear import linear_layers
from nanohydra.adapt.nf4 import NF4, NF4_LEVELS, NF4Linear, dequantize, dynamic_levels, quantize
from nanohydra.adapt.qlora import _bitsandbytes, quantize_base
from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.objectives import next_token
from nanohydra.train.trainer import Trainer


def weights(*shape: int, seed: int = 0, size: float = 0.02) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (3, 21), (1, 1), (130, 257)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed (extra qlora)")
    weight = weights(*shape).to(dtype)
    with torch.compiler.set_stance("force_eager"):  # it would compile for seconds
        codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
        theirs = functional.dequantize_4bit(codes, state)
    ours = quantize(weight)
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.scale_scales, state.state2.absmax)
    assert torch.equal(ours.scale_mean, state.offset)
    assert torch.equal(dynamic_levels(), state.state2.code)
    # Its look-up table of scales takes the second nearest level now and then; ours is the nearest.
    assert (ours.scale_codes.int() - state.absmax.int()).abs().max() <= 1 or not ours.scale_scales.any()
    assert (ours.scale_codes != state.absmax).float().mean() <= 0.2 or not ours.scale_scales.any()
    # With the same scales, the same values.
    same = NF4(ours.codes, state.absmax, ours.scale_scales, ours.scale_mean, ours.shape)
    assert torch.allclose(dequantize(same, dtype), theirs, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=0)
    assert (dequantize(ours) - weight.float()).norm() <= 1.01 * (theirs.float() - weight.float()).norm()


def test_a_bitsandbytes_layer_is_a_linear_layer_to_adapters() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    linear = torch.nn.Linear(64, 96).to(torch.bfloat16)
    model = torch.nn.Module()
    model.linear = _bitsandbytes(linear)
    reference = NF4Linear(linear)
    assert torch.allclose(linear_layers(model)["linear"].weight, reference.weight, atol=1e-3)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 64, dtype=torch.bfloat16, requires_grad=True)  # without gradients its CPU kernel needs more
    assert torch.allclose(model.linear(x), reference(x), atol=0.02)
    with Adapters(model) as adapters:
        shake(adapters.create("a", AdapterConfig(rank=2, dora=True)))
        with adapters.using("a"):
            y = model.linear(x)
        merged = adapters["a"].layers["linear"].merged(reference.weight)
        want = F.linear(x.float(), merged, linear.bias.float())
        assert (y.float() - want).norm() < 0.02 * want.norm()
        with pytest.raises(UserError, match="4-bit"):
            adapters.merge("a")
    with pytest.raises(UserError, match="on a GPU only"):
        quantize_base(make_model(), "bitsandbytes")


def test_levels_are_quantiles_of_a_normal_distribution() -> None:
    # arXiv 2305.14314, appendix E: 2^3 even quantiles below zero, 2^3 + 1 above, tails cut at offset, scaled to [-1, 1].
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    below = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    want = sorted([*above, 0.0, *below])
    assert pytest.approx([value / max(want) for value in want], abs=1e-6) == NF4_LEVELS


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 100.0]))
def test_error_is_bounded_by_the_widest_gap(rows: int, columns: int, seed: int, size: float) -> None:
    weight = weights(rows, columns, seed=seed, size=size)
    back = dequantize(quantize(weight))
    assert back.shape == weight.shape
    # Half the widest gap (between -1 and -0.696) of the block's largest value, and what the scale's own 8 bits lose.
    assert (back - weight).abs().max() <= (0.152 + 0.03) * weight.abs().max() + 1e-12


def test_zeros_and_levels_are_kept_exactly() -> None:
    assert torch.equal(dequantize(quantize(torch.zeros(5, 30))), torch.zeros(5, 30))
    levels = torch.tensor(NF4_LEVELS).repeat(8, 4)  # every block has largest magnitude 1, which the mean holds
    assert torch.equal(dequantize(quantize(levels)), levels)


def test_bits_per_weight() -> None:
    quantized = quantize(weights(512, 1024))
    assert 8 * quantized.nbytes / (512 * 1024) == pytest.approx(4.127, abs=0.001)


def test_layer_computes_and_differentiates_as_its_dense_weight() -> None:
    linear = torch.nn.Linear(40, 24)
    layer = NF4Linear(linear)
    x = torch.randn(3, 40, requires_grad=True)
    y = layer(x)
    dense = F.linear(x, layer.weight, linear.bias)
    assert torch.allclose(y, dense, atol=1e-6)
    out = torch.randn_like(y)
    (got,) = torch.autograd.grad((y * out).sum(), x)
    (want,) = torch.autograd.grad((dense * out).sum(), x)
    assert torch.allclose(got, want, atol=1e-6)
    half = layer.to(torch.bfloat16)
    assert half.quantized.scale_scales.dtype == torch.float32
    assert half(x.detach().to(torch.bfloat16)).dtype == torch.bfloat16


def make_model() -> Transformer:
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=31, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, init="normal")
    return Transformer(shape).eval()


def shake(adapter: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))


class Rows:
    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        ids = torch.randint(0, 31, (4, 9), generator=torch.Generator().manual_seed(1))
        return Batch(ids[:, :-1], ids[:, 1:])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_over_4_bits(dtype: str) -> None:
    model = make_model()
    quantize_base(model, "reference")
    layers = linear_layers(model)
    assert [path for path, m in layers.items() if not isinstance(m.module, NF4Linear)] == ["lm_head"]
    before = {path: m.weight.clone() for path, m in layers.items()}
    adapters = Adapters(model)
    adapters.create("a", AdapterConfig(rank=4))
    adapters.select("a")
    first = next_token(model, Rows().batch(0))[0].item()
    config = TrainConfig(steps=15, batch_size=4, lr=1e-2, weight_decay=0.0, dtype=dtype)  # type: ignore[arg-type]
    Trainer(model, next_token, Rows(), config, quiet=True).fit()
    assert next_token(model, Rows().batch(0))[0].item() < first - 5
    for path, m in layers.items():
        assert torch.equal(m.weight, before[path])
    adapters.close()
    with pytest.raises(ValueError, match="before attaching"), Adapters(model):
        quantize_base(model)


def test_adapter_trained_over_4_bits_is_an_ordinary_one(tmp_path: object) -> None:
    model = make_model()
    quantize_base(model)
    with Adapters(model) as adapters:
        shake(adapters.create("a", AdapterConfig(rank=2)))
        adapters.save("a", f"{tmp_path}/a")
    with Adapters(make_model()) as adapters:
        name = adapters.load(f"{tmp_path}/a")
        adapters.merge(name)
        adapters.unmerge()
        with pytest.raises(UserError):
            adapters.load(f"{tmp_path}/b")
