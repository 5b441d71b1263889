"""A model laid out for decoding on a CPU: weights in the kernels' own layout, or as int8. For inference only.

A decode step is bound by reading all weights once. `F.linear` on a few rows reads them at half of the speed that
oneDNN reaches with weights laid out beforehand (`pack`), and int8 weights are a quarter of the bytes of fp32
(`quantize`). `bench/decode.py` measures both, and what quantising costs in quality.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.errors import UserError
from nanohydra.model.attention import Attention, Context
from nanohydra.model.positions import rotate
from nanohydra.model.transformer import Transformer


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out) as `nn.Linear`, its weight (bf16 or fp32) in oneDNN's blocked layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


class Int8Linear(nn.Module):
    """x (..., in) fp32 -> (..., out) fp32 by products of int8, summed exactly in int32.

    Weights have a scale for each output, inputs one for each row, found as they come; both symmetric, by the largest
    magnitude. As rows are scaled apart, a row's result does not depend, to the bit, on the others in the batch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        weight = weight.detach().float()
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.zero_points = torch.zeros(self.out_features, dtype=torch.int64)
        rounded = (weight / self.scale.unsqueeze(1)).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        # Inputs are stored unsigned, around a zero point. Without VNNI the kernel adds pairs of products in int16,
        # which more than 7 bits could overflow.
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63

    def forward(self, x: Tensor) -> Tensor:
        zero = self.levels + 1
        steps = self.levels / x.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        rows = (x * steps).add_(zero + 0.5).to(torch.uint8)  # the cast cuts off, so this rounds
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, zero, self.packed, self.scale, self.zero_points, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y = y.div_(steps)
        return y if self.bias is None else y + self.bias


class PackedAttention(nn.Module):
    """`Attention` with the same submodules, for inference: keys and values meet in fp32, also in a bf16 model.

    torch's bf16 kernel for one query on a CPU takes 5 to 20 times as long as the fp32 one, so the cache of a packed
    model is kept in fp32 too.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.q_proj: nn.Module = attention.q_proj
        self.k_proj: nn.Module = attention.k_proj
        self.v_proj: nn.Module = attention.v_proj
        self.o_proj: nn.Module = attention.o_proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.layer, self.layer_type = attention.layer, attention.layer_type
        self.head_dim, self.grouped = attention.head_dim, attention.grouped

    def forward(self, x: Tensor, context: Context) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
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
        return self.o_proj(y.transpose(1, 2).flatten(2).to(x.dtype))  # type: ignore[no-any-return]


def pack(model: Transformer, linear: Callable[[Tensor, Tensor | None], nn.Module] = PackedLinear) -> Transformer:
    """Lays out `model` (on a CPU) for decoding, in place, layer by layer; returns it. Same results up to rounding.

    Afterwards it can be neither trained nor saved. Where torch has no such kernels the model is left as it is.
    """
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cpu":
        raise UserError("Packed and int8 weights are for CPUs: leave int8 off on a GPU.")
    if linear is PackedLinear and not _can_pack(weight.dtype):
        return model
    for block in model.model.layers:
        assert isinstance(block.self_attn, Attention), "a model is packed once"
        block.self_attn = PackedAttention(block.self_attn)
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, linear(child.weight, child.bias))
    return model


def quantize(model: Transformer) -> Transformer:
    """Makes all linear layers and the head int8, in place (on a CPU); the embedding and the rest become fp32."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise UserError("This build of PyTorch has no int8 kernels: leave int8 off.")
    return pack(model.float(), Int8Linear)


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
