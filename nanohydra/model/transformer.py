"""The decoder-only transformer. Module names are those of Hugging Face Llama and Qwen3: files need no conversion."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanohydra.errors import UserError
from nanohydra.model.attention import Attention, CachePlan, Context, Visible, visibility
from nanohydra.model.config import ModelConfig
from nanohydra.model.dropout import Dropout
from nanohydra.model.init import initialise
from nanohydra.model.mlp import make_mlp
from nanohydra.model.norms import make_norm
from nanohydra.model.positions import Rotary, Sinusoidal, alibi_slopes


class Block(nn.Module):
    """Attention, then an MLP, each a branch of the residual stream: x (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = make_mlp(config)
        self.pre = config.norm_position == "pre"
        if self.pre:
            self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(
            config
        )  # before the MLP (pre) or after attention (post): Llama's name
        if not self.pre:
            self.post_feedforward_layernorm = make_norm(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.pre:
            x = x + self.dropout(self.self_attn(self.input_layernorm(x), context))
            return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))  # type: ignore[no-any-return]
        x = self.post_attention_layernorm(x + self.dropout(self.self_attn(x, context)))
        return self.post_feedforward_layernorm(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Everything but the head: token ids (B, T) -> last hidden states (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.sinusoidal = Sinusoidal(config) if config.positions == "sinusoidal" else None
        self.rotary_emb = Rotary(config) if config.positions == "rope" else None
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()

    def forward(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: CachePlan | None = None,
    ) -> Tensor:
        length = input_ids.shape[1]
        if cache is not None:
            if positions is not None or segment_ids is not None:
                raise ValueError("With a cache, positions come from the cache and each row is one segment.")
            places = cache.begin(length)
        else:
            places = torch.arange(length, device=input_ids.device).unsqueeze(0)
            if positions is None and length > self.config.max_position_embeddings and self._has_table():
                most = self.config.max_position_embeddings
                raise UserError(f"The sequence has {length} tokens, the model's context {most}: shorten it.")
        if positions is None:
            positions = places
        x = self._embed(input_ids, positions)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        context = Context(
            rope=None if self.rotary_emb is None else self.rotary_emb(positions, dtype),
            visible={
                kind: self._visible(kind, places, dtype, segment_ids, cache) for kind in set(self.config.layer_types)
            },
            cache=cache,
        )
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, context, use_reentrant=False)
            else:
                x = layer(x, context)
        if cache is not None:
            cache.commit()
        return self.norm(x)  # type: ignore[no-any-return]

    def _has_table(self) -> bool:
        return self.config.positions in ("rope", "learned", "sinusoidal")

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        x: Tensor = self.embed_tokens(input_ids)
        if self.config.positions == "learned":
            x = x + self.embed_positions(positions)
        if self.sinusoidal is not None:
            # Scaled as in the 2017 transformer, or the sines (size 1) would drown the embeddings (size 0.02).
            x = x * math.sqrt(self.config.hidden_size) + self.sinusoidal(positions).to(x.dtype)
        return self.dropout(x)  # type: ignore[no-any-return]

    def _visible(
        self, layer_type: str, places: Tensor, dtype: torch.dtype, segments: Tensor | None, cache: CachePlan | None
    ) -> Visible:
        window = self.config.sliding_window if layer_type == "sliding_attention" else None
        slopes = None
        if self.config.positions == "alibi":
            slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=places.device)
        keys = None if cache is None else cache.keys(layer_type)
        if keys is None:
            if segments is None and slopes is None and (window is None or places.shape[1] <= window):
                return Visible(None, is_causal=True)
            keys = places
        elif cache is not None:
            if slopes is None and cache.sees_all(layer_type):
                return Visible(None, is_causal=False)
            dtype = cache.dtype
        return Visible(visibility(places, keys, dtype, window, segments, slopes), is_causal=False)


class Transformer(nn.Module):
    """A language model. Weights are drawn from torch's global generator when it is made (`model.init.initialise`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tie()
        if not self.lm_head.weight.is_meta:
            initialise(self, config)

    def _tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def from_state_dict(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Transformer:
        """A model that holds the tensors of `state` themselves, in their dtype. A tied head may be absent from `state`.

        Raises UserError where names or shapes do not fit the config.
        """
        with torch.device("meta"):
            model = cls(config)
        wanted = model.state_dict()
        given = dict(state)
        if config.tie_word_embeddings:
            del wanted["lm_head.weight"]
            given.pop("lm_head.weight", None)
        for name in sorted(wanted.keys() ^ given.keys()):
            raise UserError(
                f"The weights do not fit the config: {name} is {'missing' if name in wanted else 'not wanted'}."
            )
        for name, tensor in given.items():
            if tensor.shape != wanted[name].shape:
                shape = tuple(wanted[name].shape)
                raise UserError(f"The weights do not fit the config: {name} is {tuple(tensor.shape)}, not {shape}.")
        model.load_state_dict(given, strict=False, assign=True)
        model._tie()
        return model

    @property
    def activation_checkpointing(self) -> bool:
        """Whether blocks keep only their inputs for the backward pass and compute the rest anew: saves memory."""
        return self.model.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        self.model.activation_checkpointing = on

    def hidden(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: CachePlan | None = None,
    ) -> Tensor:
        """Last hidden states (B, T, D), normalised, of token ids (B, T) int64.

        positions: (B, T) int64, 0..T-1 when None. segment_ids: (B, T) int64; a token attends only within its own
        segment. cache: a plan of `infer.cache.KVCache`, which then says what the positions are. Raises UserError when
        T is beyond the model's context.
        """
        return self.model(  # type: ignore[no-any-return]
            input_ids, positions=positions, segment_ids=segment_ids, cache=cache
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of hidden states (..., D)."""
        logits: Tensor = self.lm_head(hidden)
        cap = self.config.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: CachePlan | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of token ids (B, T); arguments as in `hidden`."""
        return self.logits(self.hidden(input_ids, positions=positions, segment_ids=segment_ids, cache=cache))
