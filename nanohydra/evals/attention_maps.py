"""Who looks at whom: the attention weights of a prompt, for every layer and head, as numbers and as a picture.

The fused attention kernel never forms the weights, so they are computed beside it from the queries and keys that each layer
shows to its observer. A test holds them equal to what the model itself did: weights times values is its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.files import atomic_path
from nanohydra.model.attention import Attention, Visible
from nanohydra.model.transformer import Transformer
from nanohydra.train.diagnostics_stats import attention_weights

if TYPE_CHECKING:
    from nanohydra.data.tokenizer import Tokenizer

MAX_TOKENS = 128
"""Longer prompts make unreadable pictures (and L x H x T x T numbers)."""


@torch.no_grad()
def attention_maps(model: Transformer, input_ids: Tensor) -> Tensor:
    """The attention weights (L, H, T, T) in float32 of one sequence of token ids (T,) int64: [l, h, i, j] is how much
    position i takes from position j in head h of layer l. Rows sum to 1; what is not visible is 0."""
    maps: dict[int, Tensor] = {}

    def watch(layer: int) -> None:
        def observe(q: Tensor, k: Tensor, visible: Visible) -> None:
            maps[layer] = attention_weights(q, k, visible)[0].cpu()

        layers[layer].observer = observe

    layers = [module for module in model.modules() if isinstance(module, Attention)]
    was_training = model.training
    model.eval()
    try:
        for layer in range(len(layers)):
            watch(layer)
        model.hidden(input_ids[None].to(next(model.parameters()).device))
    finally:
        model.train(was_training)
        for attention in layers:
            attention.__dict__.pop("observer", None)
    return torch.stack([maps[layer] for layer in range(len(layers))])


def token_labels(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """A visible label for each token: its text, with spaces as "·" and line ends as "⏎"."""
    return [tokenizer.decode([i]).replace(" ", "·").replace("\n", "⏎").replace("$", r"\$") or f"#{i}" for i in ids]


def draw_attention(maps: Tensor, labels: Sequence[str], path: Path) -> Path:
    """Draws attention weights (L, H, T, T) as a grid of pictures, layers down and heads across, into the PNG `path`.

    Each picture has the looking token down and the looked-at token across, dark is much; labels name the tokens.
    """
    layers, heads, length, _ = maps.shape
    size = max(1.6, 0.13 * length)  # inches a picture: room for a label per token
    figure = Figure(figsize=(size * heads + 0.8, size * layers + 0.6), layout="constrained")
    axes = figure.subplots(layers, heads, squeeze=False)
    font = min(7.0, 60 * size / length)
    for layer in range(layers):
        for head in range(heads):
            ax = axes[layer][head]
            ax.imshow(maps[layer, head].numpy(), cmap="Blues", vmin=0, vmax=1)
            ax.set_title(f"layer {layer} head {head}", fontsize=8)
            shown_down = labels if head == 0 else []
            shown_across = labels if layer == layers - 1 else []
            ax.set_yticks(range(len(shown_down)), shown_down, fontsize=font)
            ax.set_xticks(range(len(shown_across)), shown_across, fontsize=font, rotation=90)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return Path(path)


def prompt_attention(model: Transformer, tokenizer: Tokenizer, prompt: str, path: Path) -> Tensor:
    """Draws the attention of `prompt` into the PNG `path` and returns the weights (L, H, T, T).

    UserError for a prompt that is empty or has more than 128 tokens.
    """
    ids = tokenizer.encode(prompt)
    if not 0 < len(ids) <= MAX_TOKENS:
        raise UserError(f"The prompt has {len(ids)} tokens; attention maps need 1 to {MAX_TOKENS}. Change the prompt.")
    maps = attention_maps(model, torch.tensor(ids))
    draw_attention(maps, token_labels(tokenizer, ids), path)
    return maps
