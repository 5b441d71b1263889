"""A base and adapters with random weights, small enough for tests of the whole server."""

from __future__ import annotations

from pathlib import Path

import torch

from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.model.config import ModelConfig
from nanohydra.model.hub import base_id, load_base, save_base
from nanohydra.model.transformer import Transformer


def tiny_base(folder: Path) -> Path:
    """Its logits are spread, so that greedy choices are no ties."""
    tokenizer = Tokenizer.train(['the quick brown fox jumps {"name": 1} over the lazy dog'] * 3, 300)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=1024, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    save_base(folder, model, tokenizer)
    return folder


def tiny_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    """One that changes what the base says."""
    model, _ = load_base(base)
    torch.manual_seed(seed)
    with Adapters(model, base_id(base)) as adapters:
        made = adapters.create("a", AdapterConfig(rank=4), seed=seed)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_(std=0.3)
        adapters.save("a", folder)
    return folder
