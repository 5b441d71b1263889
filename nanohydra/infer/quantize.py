"""A model laid out for decoding on a CPU: weights in the kernels' own layout, or as int8. For inference only.

A decode step is bound by reading all weights once. `F.linear` on a few rows reads them at half of the speed that
oneDNN reaches with weights laid out beforehand (`pack`), and int8 weights are a quarter of the bytes of fp32
(`quantize`). `bench/decode.py` measures both, and what quantising costs in quality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.errors import UserError
from nanohydra.model.attention import Attention, Context
from nanohydra.model.mlp import SwiGLU
from nanohydra.model.positions import rotate
from nanohydra.model.transformer import Transformer

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""From a weight (out, in) and a bias to a layer."""


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out) as `nn.Linear`, its weight (bf16 or fp32) in oneDNN's blocked layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "none", [], "")
        return y


class Int8Linear(nn.Module):
    """x (..., in) fp32 -> (..., out) fp32 by products of 8-bit numbers, summed exactly in int32.

    A weight is scale * w for each output, w in -127..127. An input is step * (q + shift) for each row, q in 0..255, found
    as it comes from the row's least and greatest value, so that 0 stays 0 exactly (with the same range for both signs
    SmolLM2 loses more than twice as much). Then x W = step * scale * (sum of q w + shift * sum of w). As rows are taken
    apart, a row's result does not depend, to the bit, on the others in the batch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        weight = weight.detach().float()
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / self.scale.unsqueeze(1)).round()
        self.sums = rounded.sum(1) * self.scale
        self.zero_points = torch.zeros(self.out_features, dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        # Without VNNI the kernel adds pairs of products in int16, which more than 7 bits could overflow.
        self.levels = torch.tensor(254.0 if torch.cpu._is_vnni_supported() else 126.0)
        self.least = torch.tensor(1e-20)

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin(-1, keepdim=True).clamp_(max=0), x.amax(-1, keepdim=True).clamp_(min=0)
        step = torch.addcdiv(self.least, high - low, self.levels)
        shift = low.div_(step).round_()
        rows = torch.addcdiv(0.5 - shift, x, step).to(torch.uint8)  # the cast cuts off, so the half makes it round
        y: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            rows, 1.0, 0, self.packed, self.scale, self.zero_points, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y = y.addcmul_(shift, self.sums)
        return y.mul_(step) if self.bias is None else torch.addcmul(self.bias, y, step)


class PackedAttention(nn.Module):
    """`Attention` for inference: one projection for queries, keys and values, which meet in fp32 also in a bf16 model.

    torch's bf16 kernel for one query on a CPU takes 5 to 20 times as long as the fp32 one, so the cache of a packed
    model is kept in fp32 too.
    """

    def __init__(self, attention: Attention, linear: MakeLinear) -> None:
        super().__init__()
        self.layer, self.layer_type = attention.layer, attention.layer_type
        self.head_dim, self.grouped = attention.head_dim, attention.grouped
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = [projection.out_features // self.head_dim for projection in inputs]
        self.qkv_proj = _joined(inputs, linear)
        self.o_proj = linear(attention.o_proj.weight, attention.o_proj.bias)
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, x: Tensor, context: Context) -> Tensor:
        projected: Tensor = self.qkv_proj(x)
        q, k, v = torch.split(projected.view(*x.shape[:-1], -1, self.head_dim), self.heads, -2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if context.rope is not None:
            q, k = rotate(q, *context.rope), rotate(k, *context.rope)
        if context.cache is not None:
            k, v = context.cache.update(self.layer, k, v)
        visible = context.visible[self.layer_type]
        y = F.scaled_dot_product_attention(
            q.float().transpose(1, 2),
            k.float().transpose(1, 2),
            v.float().transpose(1, 2),
            attn_mask=None if visible.mask is None else visible.mask.float(),
            is_causal=visible.is_causal,
            enable_gqa=self.grouped,
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2).to(x.dtype))
        return out


class PackedSwiGLU(nn.Module):
    """`SwiGLU` with one projection for gate and up."""

    def __init__(self, mlp: SwiGLU, linear: MakeLinear) -> None:
        super().__init__()
        self.gate_up_proj = _joined((mlp.gate_proj, mlp.up_proj), linear)
        self.down_proj = linear(mlp.down_proj.weight, mlp.down_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        y: Tensor = self.down_proj(F.silu(gate) * up)
        return y


def pack(model: Transformer, linear: MakeLinear = PackedLinear) -> Transformer:
    """Lays out `model` (on a CPU) for decoding, in place, layer by layer; returns it. Same results up to rounding.

    Afterwards it can be neither trained nor saved. Where torch has no such kernels the model is left as it is.
    """
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cpu":
        raise UserError("Packed and int8 weights are for CPUs: leave int8 off on a GPU.")
    _check_bare(model)
    if linear is PackedLinear and not _can_pack(weight.dtype):
        return model
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, PackedAttention(child, linear))
            elif isinstance(child, SwiGLU):
                setattr(module, name, PackedSwiGLU(child, linear))
            elif isinstance(child, nn.Linear) and not isinstance(module, Attention | SwiGLU):
                setattr(module, name, linear(child.weight, child.bias))
    return model


def _check_bare(model: Transformer) -> None:
    if hasattr(model, "adapters"):
        raise UserError("The model has adapters attached: attach them after its weights are packed or made int8.")


def _joined(layers: Sequence[nn.Linear], linear: MakeLinear) -> nn.Module:
    """One layer whose outputs are those of `layers`, one after the other."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return linear(torch.cat(weights), torch.cat(biases) if biases else None)


def quantize(model: Transformer) -> Transformer:
    """Makes all linear layers and the head int8, in place (on a CPU); the embedding and the rest become fp32."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise UserError("This build of PyTorch has no int8 kernels: leave int8 off.")
    _check_bare(model)
    return pack(model.float(), Int8Linear)


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
